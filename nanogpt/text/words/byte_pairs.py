"""Byte-level BPE by tiktoken, which is many times faster than the library, with the same ids.

    if pairs := proven(library, json.loads(library.to_str()), around):
        tokenizer = BPETokenizer(pairs)

Of all neighbours that together are a token, tiktoken merges those first whose token has the lowest
rank. The library merges pairs of a list, in the list's order. `proven` gives tokens ranks in that
order. It takes the merges whose parts are made before, and looks what the library makes by them of
the bytes of each token: if that is not the token alone, no merge ever makes it, and it has no rank
(or, where words are looked up whole, one of the last, unless it is two tokens). Other merges have
to be of tokens that these make.

Then both give the same ids. Let them agree on all merges before those of a token t. Where the bytes
of t stand in a word, and no other token reaches across their ends, they now are the same tokens as
where they stand alone. If these are the parts of t, both merge them; if not, neither makes t there.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tokenizers import models
from tokenizers.normalizers import NFC

from nanogpt.text.words.cuts import cut
from nanogpt.text.words.encoders import HubTokenizer, Tokenizer, half
from nanogpt.text.words.facts import pattern
from nanogpt.text.words.library import EOT, Conventions
from nanogpt.text.words.vocabulary import bytes_by_letter

BYTE = bytes_by_letter()
# the letters of bytes → these bytes; what is no such letter → what is no byte
LETTERS = {code: 0xFFFF for code in range(256)} | {ord(c): byte for c, byte in BYTE.items()}
NO_ID = (1 << 32) - 1


@dataclass(frozen=True)
class Pairs:
    """A byte-level BPE as tiktoken has it."""

    pattern: str
    ranks: dict[bytes, int]  # in their order, from 0 on
    whole: dict[str, int]  # tokens that are found in texts as they are written → their ranks
    ids: NDArray[np.uint32]  # by rank; NO_ID: of a byte that the vocabulary does not have
    sizes: NDArray[np.int64]  # (vocab_size,) bytes that each id stands for; 0: it is no token
    texts: bytes  # of all tokens, by id
    nfc: bool  # whether texts are composed before
    around: Conventions
    packed: bytes  # tokenizer.json, for what tiktoken cannot do

    def save(self, path: Path) -> None:
        """Write what `read_pairs` reads without a proof, in a tenth of the time."""
        about = [self.pattern, self.whole, self.nfc, vars(self.around)]
        np.savez(
            path,
            about=json.dumps(about),
            ranks=np.frombuffer(b"".join(self.ranks), np.uint8),
            rank_sizes=[*map(len, self.ranks)],
            ids=self.ids,
            sizes=self.sizes,
            texts=np.frombuffer(self.texts, np.uint8),
            packed=np.frombuffer(self.packed, np.uint8),
        )


def read_pairs(path: Path) -> Pairs:
    """What `Pairs.save` wrote."""
    with np.load(path) as arrays:
        pattern, whole, nfc, around = json.loads(str(arrays["about"]))
        data, sizes = arrays["ranks"].tobytes(), arrays["rank_sizes"]
        bounds = np.cumsum([0, *sizes]).tolist()
        ranks = {data[a:b]: rank for rank, (a, b) in enumerate(pairwise(bounds))}
        begin, end, special = around["begin"], around["end"], around["special"]
        return Pairs(
            pattern,
            ranks,
            whole,
            arrays["ids"],
            arrays["sizes"],
            arrays["texts"].tobytes(),
            nfc,
            Conventions(tuple(begin), end, special),
            arrays["packed"].tobytes(),
        )


class BPETokenizer(Tokenizer):
    """Byte pairs, by tiktoken."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__(np.flatnonzero(pairs.sizes).tolist(), pairs.around)
        self.pairs = pairs
        self._normalizer = NFC() if pairs.nfc else None
        self._ids, self._whole = pairs.ids, set(pairs.whole)
        self._lacks = bool((pairs.ids == NO_ID).any())
        # tiktoken looks at every character where it has no token to look for
        special = pairs.whole or {EOT: len(pairs.ids)}
        self._bpe = tiktoken.Encoding(
            "bpe", pat_str=pairs.pattern, mergeable_ranks=pairs.ranks, special_tokens=special
        )
        self._sizes, self._bytes = pairs.sizes, np.frombuffer(pairs.texts, np.uint8)
        self._starts = np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _library(self) -> HubTokenizer:
        """For the few texts that tiktoken cannot do; it takes as much memory as all else here."""
        said = zlib.decompress(self.pairs.packed).decode()
        library = tokenizers.Tokenizer.from_str(said)
        return HubTokenizer(library, self.pairs.around, json.loads(said))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        ids = self._fast(text)
        return self._library.encode_array(text) if ids is None else ids

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids = self._fast(text)
        if ids is None:
            return self._library.spans(text)
        sizes = self._sizes[ids]
        ends = np.cumsum(sizes)
        return ids, np.stack((ends - sizes, ends), axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        some = np.fromiter(ids, np.int64)
        some = some[(some >= 0) & (some < self.vocab_size)]  # of others nothing, as the library
        sizes = self._sizes[some]  # (tokens,)
        ends = np.cumsum(sizes)
        places = np.arange(sizes.sum()) + np.repeat(self._starts[some] - (ends - sizes), sizes)
        text: str = self._bytes[places].tobytes().decode("utf-8", "replace")
        return text

    def spell(self, i: int) -> bytes:
        if not 0 <= i < self.vocab_size:
            return b""
        return self._bytes[self._starts[i] :][: self._sizes[i]].tobytes()

    def cut(self, text: str, near: int) -> int | None:
        place = cut(text, near)
        while place is not None and any(
            token in text[max(0, place - len(token) + 1) : place + len(token) - 1]
            for token in self._whole
        ):
            place = cut(text, place + 1)
        return place

    def _fast(self, text: str) -> NDArray[np.uint32] | None:
        """The ids by tiktoken; None: it cannot do this text."""
        try:
            if self._normalizer and not text.isascii():
                text.encode()
                if self._normalizer.normalize_str(text) != text:
                    return None
            # not encode_ordinary: for want of stack that one panics, where this one raises
            ranks = self._bpe.encode_to_numpy(
                text, allowed_special=self._whole, disallowed_special=()
            )
        except UnicodeEncodeError as error:
            raise half(text, error) from None
        except ValueError:  # half a million blanks in a row exhaust the stack of tiktoken's regex
            return None
        ids = self._ids[ranks]
        # the library drops such a byte, and what stands around it may then be one token
        return None if self._lacks and (ids == NO_ID).any() else ids


def proven(
    library: tokenizers.Tokenizer, values: dict[str, Any], around: Conventions
) -> Pairs | None:
    """A tokenizer.json as tiktoken has it; None: it is not proven that tiktoken gives its ids."""
    found = pattern(values)
    if found is None:
        return None
    words: dict[str, int] = values["model"]["vocab"]
    merges, late = [], set()
    places = dict.fromkeys(BYTE, -1)  # of a token's first merge; a byte's is before all
    last = ""
    for place, (first, second) in enumerate(values["model"]["merges"]):
        text = first + second
        parts = max(places.get(first, place), places.get(second, place))
        if parts >= places.get(text, place):  # a part is made later: Llama 3 lists all that may be
            late.add(text)
            continue
        if places.setdefault(text, place) != place and text != last:
            return None  # its merges are not in one place
        merges.append((first, second))
        last = text
    made = [text for text in places if text in words]
    model, whole_words = library.model, bool(values["model"]["ignore_merges"])
    others = [text for text in words if whole_words and text not in places and _bytes(text)]
    if late or whole_words:
        model = models.BPE(words, merges)
    alone = {text: [token.value for token in model.tokenize(text)] for text in [*made, *others]}
    if any(alone.get(text) != [text] for text in late):
        return None
    order = [text for text in made if alone[text] == [text]]
    if whole_words:  # these are ids of words, and no merge makes them
        never = [text for text, tokens in alone.items() if tokens != [text]]
        if any(len(alone[text]) == 2 for text in never):
            return None
        order += never
    lacking = [letter for letter in BYTE if letter not in words]
    ids = [words[text] for text in order] + [NO_ID] * len(lacking)
    ranks = {data: rank for rank, text in enumerate(order + lacking) if (data := _bytes(text))}
    if len(ranks) < len(ids):
        return None
    whole = {}
    for token in values["added_tokens"]:
        if not token["special"]:
            whole[token["content"]] = len(ids)
            ids.append(token["id"])
    vocabulary = library.get_vocab()
    if len(set(vocabulary.values())) < len(vocabulary):
        return None
    texts = [b""] * (1 + max(vocabulary.values()))
    for text, i in vocabulary.items():
        texts[i] = _bytes(text) or text.encode()
    return Pairs(
        found,
        ranks,
        whole,
        np.array(ids, np.uint32),
        np.array([len(text) for text in texts]),
        b"".join(texts),
        library.normalizer is not None,  # `pattern` has seen which
        around,
        zlib.compress(library.to_str().encode()),
    )


def _bytes(text: str) -> bytes:
    """The bytes that a token is written for; none: it has a letter that is no byte's."""
    try:
        return text.translate(LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return b""
