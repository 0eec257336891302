"""The first reading of a chunk: what its texts are, before anything is decided about them.

found = read(chunk, Surveyor(characters=True), near=False)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanogpt.text.checks.survey import Survey, Surveyor
from nanogpt.text.documents import PIECE
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.talks.template import plain_text
from nanogpt.text.writing import near
from nanogpt.text.writing.chunks import Chunk

DIGEST = 16  # bytes of a SHA-256 that tell documents apart


@dataclass
class Facts:
    """Of texts, or of documents: one row each."""

    goes_on: NDArray[np.bool_]  # (n,) a text that is of the document of the one before it
    blank: NDArray[np.bool_]  # (n,) nothing but blanks, or not all of it to be read
    bad: NDArray[np.bool_]  # (n,) not to be read
    characters: NDArray[np.int64]  # (n,)
    bytes: NDArray[np.int64]  # (n,) of UTF-8
    digests: NDArray[np.uint64]  # (n, 2) of SHA-256
    signatures: NDArray[np.uint32]  # (n, near.PERMUTATIONS), or (n, 0) if nobody asks

    @classmethod
    def joined(cls, several: Sequence["Facts"]) -> Self:
        """One after another."""
        columns = zip(*(vars(facts).values() for facts in several), strict=True)
        return cls(*map(np.concatenate, columns))

    def rows(self, some: NDArray[Any]) -> "Facts":
        """Those that an index or a mask picks."""
        return Facts(*(column[some] for column in vars(self).values()))


@dataclass
class Found:
    """What a chunk holds."""

    begun: Survey | None  # of the document that began before it
    whole: Survey  # of the documents that began here, without the last
    last: Survey | None  # of the last, which may go on after it
    facts: Facts


def read(chunk: Chunk, surveyor: Surveyor, with_near: bool) -> Found:
    """Read a chunk for the first time.

    Args:
        with_near: make signatures, by which documents are found that are almost the same.

    Raises:
        UserError: a text cannot be read; says where.
    """
    begun, whole, last = None, Survey(), None
    goes_on, blank, bad, characters, sizes = [], [], [], [], []
    digests, signatures = bytearray(), []
    for file, text in chunk.texts():
        said: str | None
        if isinstance(text.document, Conversation):
            document, said = text.document.to_json(), plain_text(text.document)
        else:
            document, said = text.document or "", text.document
        looked = surveyor.look(said, file, text.where, not text.goes_on, text.fault)
        if not text.goes_on:
            if last:
                whole += last
            last = looked
        elif last:
            last |= looked
        elif begun:
            begun |= looked
        else:
            begun = looked
        data = document.encode()
        goes_on.append(text.goes_on)
        blank.append(not document or document.isspace())
        bad.append(text.document is None and text.fault is not None)
        characters.append(len(document))
        sizes.append(len(data))
        digests += digest(data)
        if with_near:
            signatures.append(near.signature(document))
    facts = Facts(
        np.array(goes_on, np.bool_),
        np.array(blank, np.bool_),
        np.array(bad, np.bool_),
        np.array(characters, np.int64),
        np.array(sizes, np.int64),
        np.frombuffer(digests, "<u8").reshape(-1, 2),
        np.array(signatures, np.uint32).reshape(len(goes_on), near.PERMUTATIONS * with_near),
    )
    return Found(begun, whole, last, facts)


def digest(data: bytes) -> bytes:
    """What tells a text from others: DIGEST bytes, of its UTF-8.

    That of a long one is of the digests of its blocks, as long texts are read in blocks.
    """
    if len(data) <= PIECE:
        return hashlib.sha256(data).digest()[:DIGEST]
    starts = [0, *range(PIECE, len(data), PIECE), len(data)]
    for i, start in enumerate(starts[1:-1], start=1):
        while start < len(data) and data[start] & 0xC0 == 0x80:  # inside a character
            start += 1
        starts[i] = start
    blocks = (data[a:b] for a, b in pairwise(starts))
    return of_blocks(b"".join(hashlib.sha256(block).digest()[:DIGEST] for block in blocks))


def of_blocks(digests: bytes) -> bytes:
    """The digest of a text in blocks, by those of its blocks."""
    return hashlib.sha256(digests).digest()[:DIGEST]


def documents(found: Sequence[Facts]) -> tuple[Facts, NDArray[np.int64]]:
    """The facts of documents, by those of the texts in them; and the first text of each: (n + 1,).

    A document's `goes_on` says whether it is of several texts.
    """
    texts = Facts.joined(found)
    starts = np.flatnonzero(~texts.goes_on)
    bounds = np.append(starts, len(texts.goes_on))
    several = np.diff(bounds) > 1
    if not len(starts):
        return texts, bounds
    digests = texts.digests[starts]
    for i in np.flatnonzero(several):
        whole = of_blocks(texts.digests[bounds[i] : bounds[i + 1]].tobytes())
        digests[i] = np.frombuffer(whole, "<u8")
    bad = np.logical_or.reduceat(texts.bad, starts)
    return Facts(
        several,
        np.logical_and.reduceat(texts.blank, starts) | bad,
        bad,
        np.add.reduceat(texts.characters, starts),
        np.add.reduceat(texts.bytes, starts),
        digests,
        np.minimum.reduceat(texts.signatures, starts),
    ), bounds
