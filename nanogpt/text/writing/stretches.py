"""The texts of a chunk as a tokenizer gets them: each of one split, and to be encoded alone.

    for stretch in stretches(chunk, where, cut):
        ids = tokenizer.encode_array(stretch.text)

A long document is cut where its tokens are those of the whole: `cut` says where, and two chunks ask
it about the same text, so that each knows where the other begins or ends.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanogpt.text.documents import Text
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.writing.chunks import Chunk
from nanogpt.text.writing.splits import CUT, LEFT_OUT, Cuts

BLOCK = 1 << 19  # characters of a text at a time
BACK = 1 << 12  # characters before a block that a tokenizer looks at

Cut = Callable[[str, int], int | None]  # as `Tokenizer.cut`


@dataclass(frozen=True)
class Place:
    """Where the documents of a chunk go, the one that began before it among them."""

    labels: NDArray[np.uint8]  # (documents,) as `splits.Where` has it
    cuts: dict[int, Cuts]
    done: int = 0  # characters of the first document that are in chunks before


class Stretch(NamedTuple):
    text: str | Conversation
    label: int  # index of SPLITS
    begins: bool  # whether it is the beginning of what the split has of its document
    ends: bool


class _Block(NamedTuple):
    """A text, or part of a long one."""

    text: str | Conversation
    goes_on: bool  # with the document of the block before
    last: bool  # of its document
    place: int = 0  # -1: in the chunk before, 1: in one after


def stretches(chunk: Chunk, place: Place, cut: Cut) -> Iterator[Stretch]:
    """What a task encodes: the texts of its chunk, from one place to cut at to another."""
    left: str | None = None  # waits for a place to cut at; None: another chunk has it
    tail, begins = "", False
    for block, label, first, last in _shares(chunk, place):
        text = block.text
        if block.place > 0 and (left is None or first):
            return
        if isinstance(text, Conversation) or (first and last and block.place == 0):
            yield Stretch(text, label, True, True)
            continue
        if first:
            left, tail, begins = "", "", True
        # of the block before alone, as that is all that another chunk knows
        found = cut(tail + text, len(tail)) if tail and block.place >= 0 else None
        before, tail = len(tail), text[-BACK:]
        if block.place < 0:
            left, begins = None, False
            continue
        if found is not None:
            if left is not None:
                yield Stretch(left + text[: found - before], label, begins, False)
                begins = False
            if block.place > 0:
                return
            left = text[found - before :]
        elif left is not None:
            left += text
        if last and left is not None:
            yield Stretch(left, label, begins, True)
            left = None


def _shares(chunk: Chunk, place: Place) -> Iterator[tuple[_Block, int, bool, bool]]:
    """Blocks of one split each, whether they are the first or the last of what it has."""
    document, at = -1, 0  # characters of the document that are in blocks before
    for block in _blocks(chunk):
        if block.place < 0:
            assert isinstance(block.text, str)
            document, at = 0, place.done - len(block.text)
        elif not block.goes_on:
            document, at = document + 1, 0
        label = int(place.labels[document])
        if label == LEFT_OUT:
            if block.place > 0:
                return
        elif label != CUT:
            yield block, label, not block.goes_on, block.last
        else:
            assert isinstance(block.text, str)
            stop = at + len(block.text)
            for split, (a, b) in enumerate(pairwise((0, *place.cuts[document]))):
                if max(a, at) < min(b, stop):
                    text = block.text[max(a - at, 0) : b - at]
                    yield block._replace(text=text), split, a >= at, b <= stop
            at = stop


def _blocks(chunk: Chunk) -> Iterator[_Block]:
    """All of a chunk, after what is before it, and followed by the rest of its last document."""
    if chunk.before is not None:
        before = chunk.text_before()
        yield _Block(before[(len(before) - 1) // BLOCK * BLOCK :], True, False, -1)
    own = (text for _, text in chunk.texts())
    for text, following in _with_next(own):
        last = not (following.goes_on if following else chunk.goes_on)
        document = text.document or ""
        if isinstance(document, Conversation) or len(document) <= BLOCK:  # as nearly all are
            yield _Block(document, text.goes_on, last)
        else:
            yield from _cut_up(document, text.goes_on, last, 0)
    if chunk.goes_on:
        for text, last in chunk.texts_after():
            assert isinstance(text.document, str | None)
            yield from _cut_up(text.document or "", True, last, 1)


def _cut_up(document: str, goes_on: bool, last: bool, place: int) -> Iterator[_Block]:
    for start in range(0, len(document) or 1, BLOCK):
        stop = start + BLOCK
        ends = last and stop >= len(document)
        yield _Block(document[start:stop], goes_on or start > 0, ends, place)


def _with_next(texts: Iterable[Text]) -> Iterator[tuple[Text, Text | None]]:
    ends: list[Text | None] = [None]
    for text, following in pairwise(chain(texts, ends)):
        assert text
        yield text, following
