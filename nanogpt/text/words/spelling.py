"""What each token stands for inside a text, to be shown to a person.

spelling = Spelling(open_library(folder))
spelling.shown(1169)                    # " the"; half a character: "\\xe2\\x80"
"""

import re
import unicodedata
from functools import cached_property

import tokenizers

from nanogpt.text.words.vocabulary import bytes_by_letter

BYTE = re.compile("<0x([0-9A-F]{2})>")  # of a vocabulary that falls back on bytes
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"  # in the place of a blank, where the decoder says so
CIRCLE = "\N{DOTTED CIRCLE}"


class Spelling:
    """The tokens of a tokenizer.json."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        decoder = library.decoder.__getstate__().decode() if library.decoder else ""
        self._letters = bytes_by_letter() if '"ByteLevel"' in decoder else {}
        self._falls_back = '"ByteFallback"' in decoder
        self._blank = BLANK if BLANK in decoder else ""
        self._apart = not decoder or '"WordPiece"' in decoder  # blanks are no part of tokens
        self.added = library.get_added_tokens_decoder().keys()

    @cached_property
    def ids(self) -> list[int]:
        """All there are."""
        return sorted(self._library.get_vocab().values())

    def bytes(self, token: int) -> bytes:
        """UTF-8, or part of a character of it; none for an id that is no token."""
        if self._apart:
            once, twice = (
                self._library.decode([token] * count, skip_special_tokens=False) for count in (1, 2)
            )
            return twice.removeprefix(once).encode()
        text: str = self._library.id_to_token(token) or ""
        if self._falls_back and (byte := BYTE.fullmatch(text)):
            return bytes.fromhex(byte[1])
        if token in self.added:
            return text.encode()
        if self._letters.keys() >= set(text):
            return bytes(self._letters[letter] for letter in text)
        return (text.replace(self._blank, " ") if self._blank else text).encode()

    def shown(self, token: int) -> str:
        """Its text, with escapes for controls and for parts of characters."""
        text = self.bytes(token).decode("utf-8", "surrogateescape")
        alone = bool(text) and unicodedata.category(text[0]).startswith("M")
        # an accent would sit on what stands before it
        return CIRCLE * alone + "".join(map(_shown, text))


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no character
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character == "'" else repr(character)[1:-1]
