"""What a law promises: the best that a budget buys, and how sure that is.

sizes = sizes_of(settings, tokens)
found = best(law, laws, sizes, flops=lambda depth: 1e13, most=4 * 1_500_000)
found = in_time(law, laws, sizes, most, Rates(settings, sizes, world, 1e11), 8 * 3600)
found.depth, found.loss, found.low, found.high
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nanogpt.common.errors import UserError
from nanogpt.machine.distributed import World
from nanogpt.scaling.law import Law, interval
from nanogpt.settings import FromScratch
from nanogpt.sizing import memory
from nanogpt.sizing.count import Count, config_of, count
from nanogpt.sizing.dial import turn
from nanogpt.sizing.passes import fit
from nanogpt.sizing.speed import measure

DEEPEST = 32  # that is looked at
BESIDE = 0.05  # of the time, for validations and saves

Sizes = Mapping[int, Count]  # by depth


@dataclass(frozen=True)
class Promise:
    """The best depth for a budget, and the loss expected of it.

    Attributes:
        low, high: of the law's interval.
        flops: that it takes.
        ends: whether the text ends it before the budget does.
        deepest: whether it is the deepest that is looked at; a deeper one may be better.
        seconds: that it takes, of a budget in time.
    """

    depth: int
    tokens: int
    loss: float
    low: float
    high: float
    flops: float
    ends: bool
    deepest: bool
    seconds: float | None = None

    def off_by(self, error: float) -> "Promise":
        """With an interval that reaches at least this share of the loss to both sides."""
        less, more = self.loss * (1 - abs(error)), self.loss * (1 + abs(error))
        return replace(self, low=min(self.low, less), high=max(self.high, more))


def sizes_of(settings: FromScratch, vocab_size: int) -> Sizes:
    """What each depth comes to that may be promised."""
    context = settings.model.context
    turned = {d: turn(settings, vocab_size, d, ratio=1.0).settings for d in range(1, DEEPEST + 1)}
    return {depth: count(config_of(one, vocab_size), context) for depth, one in turned.items()}


def best(
    law: Law,
    laws: Sequence[tuple[Law, float]],
    sizes: Sizes,
    flops: Callable[[int], float],
    most: int,
) -> Promise:
    """The depth of the least loss.

    Args:
        flops: operations that a depth may take.
        most: tokens that may be read: those past which the law does not hold.

    Raises:
        UserError: no depth may take any.
    """
    reads = {d: round(min(flops(d) / one.flops_per_token, most)) for d, one in sizes.items()}
    losses = {d: law.loss(sizes[d].matrices, read) for d, read in reads.items() if read > 0}
    if not losses:
        raise UserError("no depth fits into the memory of this machine")
    depth = min(losses, key=lambda depth: losses[depth])
    size, read = sizes[depth], reads[depth]
    low, high = interval(laws, size.matrices, read)
    took = read * size.flops_per_token
    ends, deepest = read >= most, depth == max(sizes)
    return Promise(depth, read, losses[depth], low, high, took, ends, deepest)


class Rates:
    """Operations a second of each depth: the ladder's, until real steps near it are timed."""

    def __init__(
        self, settings: FromScratch, vocab_size: int, sizes: Sizes, world: World, rate: float
    ) -> None:
        self._settings, self._vocab_size = settings, vocab_size
        self._sizes, self._world, self._rate = sizes, world, rate
        self._timed: dict[int, float] = {}

    def of(self, depth: int) -> float:
        # of the nearest that was timed; one that does not fit says nothing of smaller ones
        near = [d for d, rate in self._timed.items() if rate or d <= depth]
        return self._timed[min(near, key=lambda d: abs(d - depth))] if near else self._rate

    def time(self, depth: int) -> bool:
        """Time a depth; whether that was still to be done. What does not fit has no speed."""
        if depth in self._timed or depth not in self._sizes:
            return False
        turned = turn(self._settings, self._vocab_size, depth).settings
        config = config_of(turned, self._vocab_size)
        turned = fit(config, turned, self._world)
        try:
            memory.check(config, turned, self._world)
        except UserError:
            self._timed[depth] = 0.0
        else:
            speed = measure(config, turned, self._world)
            self._timed[depth] = self._sizes[depth].flops_per_token * speed.tokens_per_second
        return True


def in_time(
    law: Law,
    laws: Sequence[tuple[Law, float]],
    sizes: Sizes,
    most: int,
    rates: Rates,
    seconds: float,
) -> Promise:
    """The least loss that so many seconds of this machine buy; the best depth and those beside it
    are timed by real steps."""
    while True:
        found = best(law, laws, sizes, lambda d: rates.of(d) * seconds * (1 - BESIDE), most)
        around = (found.depth - 1, found.depth, found.depth + 1)
        if not any([rates.time(depth) for depth in around]):
            break
    return replace(found, seconds=found.flops / rates.of(found.depth) / (1 - BESIDE))
