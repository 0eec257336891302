"""What a tokenizer does: by a table of characters, or by the library that reads all of them.

`nanogpt.text.words.tokenizer.load` says which of them a file wants.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.text.words.cuts import cut
from nanogpt.text.words.library import OVERLAP, Conventions, windows
from nanogpt.text.words.spelling import Spelling

TRIES = 8


class Tokenizer(ABC):
    def __init__(self, ids: Iterable[int], around: Conventions) -> None:
        self.ids = frozenset(ids)
        self.vocab_size = 1 + max(self.ids)
        self.begin = around.begin  # ids that begin a document
        self.eot = around.end  # the id that ends one; None: the vocabulary has none
        self.special = around.special  # texts, whose letters are ordinary text
        self.unknown: int | None = None  # the id of what the vocabulary lacks

    @abstractmethod
    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """The ids of `text` and of nothing around it; "<|endoftext|>" in it is ordinary text.

        Raises:
            UserError: a character is not in the vocabulary, or is no character (a surrogate).
        """

    def encode(self, text: str) -> list[int]:
        """`encode_array` as a list."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    @abstractmethod
    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of `text`, and the bytes of its UTF-8 that each stands for: (ids, 2) from, up to.

        The parts of a character that is several tokens may each stand for all of it, or for none.

        Raises:
            UserError: as `encode_array`.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def spell(self, i: int) -> bytes:
        """What a token stands for inside a text: UTF-8, or part of a character of it."""

    @abstractmethod
    def cut(self, text: str, near: int) -> int | None:
        """A character, not before `near`, at which a text can be cut with the ids of the whole.

        That is so whatever stands left and right of `text`. None: there is no such place in it.
        """


class CharTokenizer(Tokenizer):
    """Characters by code point, as nanoGPT orders them; then, perhaps, the end of a document."""

    def __init__(self, vocabulary: dict[str, int], around: Conventions) -> None:
        super().__init__(vocabulary.values(), around)
        self._texts = sorted(vocabulary, key=vocabulary.__getitem__)
        characters = self._texts if self.eot is None else self._texts[:-1]
        self._ids = np.full(0x110000, self.vocab_size, np.uint32)  # by code point
        self._ids[[ord(character) for character in characters]] = np.arange(len(characters))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        ids: NDArray[np.uint32] = self._ids[
            np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ]
        missing = ids == self.vocab_size
        if missing.any():
            raise UserError(
                f"{_name(text, int(missing.argmax()))} is not in the vocabulary, which has"
                f" {self.vocab_size} entries; leave it out, or train on a corpus that has it"
            )
        return ids

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        bounds = _bounds(text)
        return self.encode_array(text), np.stack((bounds[:-1], bounds[1:]), axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._texts[i] for i in ids)

    def spell(self, i: int) -> bytes:
        return self._texts[i].encode()

    def cut(self, text: str, near: int) -> int | None:
        return near if near < len(text) else None


class HubTokenizer(Tokenizer):
    """Any tokenizer.json, by the library that defines what it means."""

    def __init__(
        self, library: tokenizers.Tokenizer, around: Conventions, values: dict[str, Any]
    ) -> None:
        super().__init__(library.get_vocab().values(), around)
        self._library, self._spelling = library, Spelling(library)
        library.encode_special_tokens = True  # "<|endoftext|>" in a text is ordinary text
        library.post_processor = None  # it moves the offsets that `library.encode` looks at
        self.unknown = values["model"].get("unk_id")  # of a Unigram
        if (text := values["model"].get("unk_token")) is not None:
            self.unknown = library.token_to_id(text)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return np.concatenate([ids for ids, _ in self._windows(text)])

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids, places = zip(*self._windows(text), strict=True)
        return np.concatenate(ids), _bounds(text)[np.concatenate(places)]

    def spell(self, i: int) -> bytes:
        return self._spelling.bytes(i)

    def cut(self, text: str, near: int) -> int | None:
        for _ in range(TRIES):
            place = cut(text, near, len(text) - OVERLAP)
            if place is None:
                return None
            left, right = text[max(0, place - OVERLAP) : place], text[place : place + OVERLAP]
            apart = self.encode(left) + self.encode(right)
            if apart == self.encode(left + right):
                return place
            near = place + 1
        return None

    def _windows(self, text: str) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        """As `library.windows`, with errors that name the character."""
        try:
            text.encode()  # what has no UTF-8 is a TypeError to the library
        except UnicodeEncodeError as error:
            raise half(text, error) from None
        try:
            yield from windows(self._library, text)
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"the base's tokenizer cannot encode {text!r:.50}: {error}") from None

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._library.decode([int(i) for i in ids], skip_special_tokens=False)
        return text


def _bounds(text: str) -> NDArray[np.int64]:
    """At which byte of its UTF-8 each character begins, and the last ends: (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    sizes = 1 + (codes > 0x7F) + (codes > 0x7FF).astype(np.int64) + (codes > 0xFFFF)
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


def half(text: str, error: UnicodeEncodeError) -> UserError:
    return UserError(
        f"{_name(text, error.start)} is half a character, which has no UTF-8; leave it out"
    )


def _name(text: str, position: int) -> str:
    character = text[position]
    line = text.count("\n", 0, position) + 1
    return f"{character!r} (U+{ord(character):04X}) at position {position} (line {line})"
