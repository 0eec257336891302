"""Documents → windows in which none sees another, and none is cut that fits.

packing = Packing([documents], context)
places = packing.places(numbers)            # of the windows of these numbers
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Places(NamedTuple):
    """Where the tokens of windows are in a text, all (B, T); None: there are no borders."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64] | None = None  # in the pieces that a window is of, each from 0
    real: NDArray[np.bool_] | None = None  # what is not is padding, each token a piece of its own

    def counted(self, counted: np.ndarray | None) -> NDArray[np.bool_] | None:
        """Whether the target of each token counts for the loss, (B, T); None: all do.

        Args:
            counted: whether a token of the text does: (tokens,); None: all do.
        """
        if counted is None:
            return self.real
        found = counted[self.ids + 1].astype(bool)
        return found if self.real is None else found & self.real


class Packing:
    """Documents in windows of `context` tokens, of which none is cut that is no longer.

    A longer one is cut from its start. Each piece is read from its first token, and every token is
    a target once but the first of a document. The windows are the same in each epoch: who cannot
    see each other need not meet others.

    Args:
        parts: `Text.documents` of each part of a text, which are packed apart.
    """

    def __init__(self, parts: Sequence[NDArray[np.int64]], context: int) -> None:
        self.context = context
        packed = [_pack(*_pieces(documents, context), context) for documents in parts]
        starts, lengths, pieces = zip(*packed, strict=True)
        self.starts = np.concatenate(starts)  # of pieces, in the order of windows: (pieces,)
        self.lengths = np.concatenate(lengths)  # (pieces,)
        self.first = np.cumsum([0, *np.concatenate(pieces)])  # piece of each window: (windows + 1,)
        self.ends = np.cumsum([0, *map(len, pieces)])  # windows up to each part: (parts + 1,)
        targets = np.concatenate([documents[:, 1] - documents[:, 0] - 1 for documents in parts])
        self.cut = int((targets > context).sum())  # documents

    def __str__(self) -> str:
        count = len(self.first) - 1
        full = self.lengths.sum() / max(1, self.context * count)
        return f"{len(self.lengths):,} pieces of documents in {count:,} windows, {full:.1%} full"

    def places(self, numbers: NDArray[np.int64]) -> Places:
        """The windows of these numbers."""
        counts = self.first[numbers + 1] - self.first[numbers]
        piece = np.repeat(self.first[numbers], counts) + _ramps(counts)
        row = np.repeat(np.arange(len(numbers)), counts)
        lengths = self.lengths[piece]
        before = np.cumsum(lengths) - lengths  # tokens of all pieces before, in these windows
        column = before - before[np.cumsum(counts) - counts][row]  # where a piece starts in its row
        within = _ramps(lengths)
        at = np.repeat(row, lengths), np.repeat(column, lengths) + within
        shape = len(numbers), self.context
        ids, positions, real = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
        ids[at], positions[at] = np.repeat(self.starts[piece], lengths) + within, within
        real[at] = True
        return Places(ids, positions, real)


def _ramps(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... up to each length, one after another."""
    stops = np.cumsum(lengths)
    return np.arange(lengths.sum()) - np.repeat(stops - lengths, lengths)


def _pieces(
    documents: NDArray[np.int64], context: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each piece of documents starts, and how many targets it has, at most `context`."""
    first, last = documents[:, 0], documents[:, 1] - 1  # the last token is a target alone
    counts = np.maximum(-(-(last - first) // context), 0)
    starts = np.repeat(first, counts) + context * _ramps(counts)
    return starts, np.minimum(np.repeat(last, counts) - starts, context)


def _pack(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], context: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pieces in the order of windows, and how many each window has.

    A window takes the longest piece that is left and fits, until none does. That is decided for
    all pieces of a length at once, so that millions take no longer than thousands (Krell et al.
    2021, Efficient Sequence Packing without Cross-contamination; longest first).
    """
    order = np.argsort(-lengths, kind="stable")
    counts = np.bincount(lengths, minlength=context + 1)
    taken = np.cumsum(counts[::-1])[::-1] - counts  # of `order`, before the pieces of a length
    chosen, sizes = [np.empty(0, int)], [np.empty(0, int)]
    for pattern, times in _patterns(counts, context):
        rows = []
        for length, each in pattern:
            some = order[taken[length] : taken[length] + times * each]
            taken[length] += times * each
            rows.append(some.reshape(times, each))
        chosen.append(np.concatenate(rows, axis=1).ravel())
        sizes.append(np.full(times, sum(each for _, each in pattern)))
    ordered = np.concatenate(chosen)
    return starts[ordered], lengths[ordered], np.concatenate(sizes)


def _patterns(
    counts: NDArray[np.int64], context: int
) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Windows as (length, how many of it) and how often each is made, until no piece is left."""
    left = {length: count for length, count in enumerate(counts.tolist()) if count}
    lengths = sorted(left)
    while lengths:
        pattern, room, fitting = [], context, len(lengths)
        while fitting := bisect_right(lengths, room, hi=fitting):
            length = lengths[fitting - 1]
            pattern.append((length, min(left[length], room // length)))
            room -= length * pattern[-1][1]
            fitting -= 1
        times = min(left[length] // each for length, each in pattern)
        for length, each in pattern:
            left[length] -= times * each
            if not left[length]:
                lengths.remove(length)
        yield pattern, times
