"""(seed, step) → the global batch → this rank's share. No state: a restart needs only the step.

    windows = Windows(text, context)
    share = windows.share(seed, step, size, rank, ranks)

Each epoch visits every window once, in an order of its own. The global batch depends neither on the
number of processes nor on the size of a micro-batch.

Where a window may hold parts of several documents, each epoch cuts the tokens anew, from a phase of
its own. Where documents may not see each other, windows are packed once: each holds whole documents
or, of one that is longer than the context, a piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.common.errors import UserError
from nanogpt.packing import Packing, Places


@dataclass(frozen=True)
class Text:
    """Tokens that windows are cut from."""

    ids: np.ndarray  # (tokens,)
    counted: np.ndarray | None = None  # whether a token counts for the loss: (tokens,); None: all
    # where each document begins, with the token that is read first, and ends: (documents, 2) int64;
    # None: windows do not heed where
    documents: NDArray[np.int64] | None = None
    parts: tuple[tuple[str, int], ...] = ()  # the corpora, one after another: name and tokens


def borders(ids: np.ndarray, starts: NDArray[np.int64], eot: int | None) -> NDArray[np.int64]:
    """`Text.documents`, of the tokens at which documents start.

    Args:
        eot: the id from which a text is begun in generation, where no ids of a document's own begin
            it: such an end of the document before is the first token that is read.
    """
    stops = np.append(starts[1:], len(ids))
    before = starts > 0
    if eot is None:
        before[:] = False
    else:
        before &= ids[starts - 1] == eot
    return np.stack((starts - before, stops), axis=1)


class Batch(NamedTuple):
    ids: Tensor  # (B, T) int64
    targets: Tensor  # the tokens after them: (B, T) int64
    counted: Tensor | None  # whether a target counts for the loss: (B, T) bool; None: all do
    positions: Tensor | None  # as the model takes them: (B, T) int64

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cuda":
            return in_one_copy(self, device)
        # not non_blocking: MPS may read it after it is freed (pytorch issue 189690)
        moved = (None if t is None else t.to(device) for t in self)
        return Batch(*moved)  # type: ignore[arg-type]

    def part(self, rows: slice) -> "Batch":
        """Some of the windows."""
        return Batch(*(None if t is None else t[rows] for t in self))  # type: ignore[arg-type]


def in_one_copy(batch: Batch, device: torch.device, pin: bool = True) -> Batch:
    """A batch on a device, which fetches it while this process goes on.

    For that what is copied has to be pinned: of other memory the process waits for the copy, and
    so for all that the device was told before.
    """
    there = [t for t in batch if t is not None]
    packed = torch.empty(len(there), *batch.ids.shape, dtype=torch.int32, pin_memory=pin)
    for row, tensor in zip(packed, there, strict=True):
        row.copy_(tensor)
    moved = iter(packed.to(device, non_blocking=True).long())
    ids, targets, counted, positions = (None if t is None else next(moved) for t in batch)
    assert ids is not None
    assert targets is not None
    return Batch(ids, targets, None if counted is None else counted.bool(), positions)


class Share(NamedTuple):
    """A process's part of a global batch."""

    size: int  # windows; where it is 0, there is one in `batch` all the same: it is not to count
    counted: int  # targets of the whole global batch that count for the loss
    batch: Batch


class Span(NamedTuple):
    """Windows of which an epoch visits each once: number low + stride · i + phase, i < windows."""

    low: int
    windows: int
    stride: int
    phases: int  # an epoch draws its phase among so many


class Windows:
    """The windows of a text, and the order in which a training visits them.

    A window's number is the place where it starts or, of packed ones, how many are before it.

    Args:
        weights: windows to take of each of `text.parts`, in proportion; None: all windows are
            visited alike, and one may hold the end of a part and the start of the next.

    Raises:
        UserError: the text, or the part of it that is named, has not one window.
    """

    def __init__(self, text: Text, context: int, weights: Sequence[float] | None = None) -> None:
        self.text, self.context = text, context
        self.weights = whole_numbers(weights) if weights else (1,)
        parts = text.parts if weights else (("", len(text.ids)),)
        stops = np.cumsum([tokens for _, tokens in parts])
        starts = stops - [tokens for _, tokens in parts]
        self.packing = None
        if text.documents is not None:
            # a part's documents are those that end in it: one may begin with the end of another
            after = np.searchsorted(text.documents[:, 1], stops, side="right")
            self.packing = Packing(np.split(text.documents, after)[: len(parts)], context)
        self.spans = []
        for i, (name, tokens) in enumerate(parts):
            of = f" of {name}" if name else ""
            if self.packing:
                low, high = self.packing.ends[i : i + 2].tolist()
                if low == high:
                    raise UserError(f"the training split{of} has no document of two tokens")
                self.spans.append(Span(low, high - low, stride=1, phases=1))
            else:
                count = window_count(tokens, context, of)
                self.spans.append(Span(starts[i], count, context, tokens - count * context))
        self._order = lru_cache(2 * len(parts))(self._draw)

    def of_step(self, seed: int, step: int, size: int) -> NDArray[np.int64]:
        """The numbers of the windows of the global batch of a step: (size,)."""
        visits = range(step * size, (step + 1) * size)
        turns = np.array([turn(visit, self.weights) for visit in visits])  # (size, 2)
        numbers = np.empty(size, np.int64)
        for part, span in enumerate(self.spans):
            epochs, places = np.divmod(turns[:, 1], span.windows)
            for epoch in np.unique(epochs[turns[:, 0] == part]):
                here = (turns[:, 0] == part) & (epochs == epoch)
                numbers[here] = self._order(seed, int(epoch), part)[places[here]]
        return numbers

    def share(self, seed: int, step: int, size: int, rank: int, ranks: int) -> Share:
        """What one of so many processes trains on in a step."""
        numbers = self.of_step(seed, step, size)
        own = np.array_split(numbers, ranks)[rank]
        batch = gather(self.text, self.places(own if len(own) else numbers[:1]))
        return Share(len(own), self.targets(numbers), batch)

    def _draw(self, seed: int, epoch: int, part: int) -> NDArray[np.int64]:
        """The windows of an epoch of a part in the order of training."""
        span = self.spans[part]
        seeds = [seed, epoch, part] if part else [seed, epoch]
        random = np.random.Generator(np.random.PCG64(seeds))
        phase = random.integers(span.phases)
        return span.low + random.permutation(span.windows) * span.stride + phase

    def epochs(self, visits: int) -> list[float]:
        """How often each part is seen in the first so many visits of windows."""
        found, rest = [], sum(self.weights)
        for weight, span in zip(self.weights, self.spans, strict=True):
            own = visits * weight // rest
            found.append(own / span.windows)
            visits, rest = visits - own, rest - weight
        return found

    def places(self, numbers: NDArray[np.int64]) -> Places:
        """Where the tokens of these windows are in the text."""
        if self.packing:
            return self.packing.places(numbers)
        return Places(numbers[:, None] + np.arange(self.context))

    def targets(self, numbers: NDArray[np.int64]) -> int:
        """How many targets of these windows count for the loss."""
        if not self.packing and self.text.counted is None:
            return len(numbers) * self.context
        counted = self.places(numbers).counted(self.text.counted)
        assert counted is not None
        return int(counted.sum())


def window_count(length: int, context: int, of: str = "") -> int:
    """Windows in an epoch of `length` tokens: each needs `context` tokens and the one after.

    Raises:
        UserError: there is not one whole window.
    """
    # the phase moves windows by up to `context - 1` tokens, so that many must be to spare
    count = max((length - context) // context, min(1, (length - 1) // context))
    if count == 0:
        raise UserError(
            f"the training split{of} has {length:,} tokens, too few for one window of model.context"
            f" {context} and the token after it: bring more text or lower model.context"
        )
    return count


def turn(visit: int, weights: Sequence[int]) -> tuple[int, int]:
    """Which part a visit takes its window from, and how many it took from it before.

    Of any n visits in a row from the first, the first part has n · weight / sum, rounded down; the
    others share the rest in the same way. So shares are exact after each `sum(weights)` visits.
    """
    rest = sum(weights)
    for part, weight in enumerate(weights):
        before, after = visit * weight // rest, (visit + 1) * weight // rest
        if after > before:
            return part, before
        visit, rest = visit - before, rest - weight
    raise ValueError("no weights")


def whole_numbers(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportion of weights, as they are written in decimals."""
    exact = [Fraction(repr(weight)) for weight in weights]
    scaled = [int(one * lcm(*(each.denominator for each in exact))) for one in exact]
    return tuple(one // gcd(*scaled) for one in scaled)


def gather(text: Text, places: Places) -> Batch:
    """The tokens at these places, and those after them."""
    if places.positions is None:  # each window is one run of tokens, which is read once
        runs = text.ids[np.append(places.ids, places.ids[:, -1:] + 1, axis=1)].astype(np.int64)
        ids, targets = runs[:, :-1], runs[:, 1:]  # of (B, T + 1)
    else:
        ids, targets = (text.ids[some].astype(np.int64) for some in (places.ids, places.ids + 1))
    counted = places.counted(text.counted)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        None if counted is None else torch.from_numpy(counted),
        None if places.positions is None else torch.from_numpy(places.positions),
    )
