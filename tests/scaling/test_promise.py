"""A promise goes by the speed of each depth on this machine, its memory, and the text."""

from typing import Any

import pytest

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.machine.distributed import join
from nanogpt.scaling import promise
from nanogpt.scaling.law import Law
from nanogpt.scaling.promise import BESIDE, Promise, Rates, Sizes, best, in_time, sizes_of
from nanogpt.settings import FromScratch
from nanogpt.sizing.speed import Speed
from tests.kit.recipes import quick

LAW = Law(1.0, 0.5, 0.4, 0.4, 0.4, n=1e5, d=1e6)
LAWS = [(LAW, 0.0)]
ENTRIES, SECONDS, PLENTY = 100, 100.0, 10**12
RATE = 1e9  # operations a second


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    monkeypatch.setattr(promise, "DEEPEST", 12)
    return sizes_of(settings(), ENTRIES)


def settings() -> FromScratch:
    found = quick()
    assert isinstance(found, FromScratch)
    return found


def promised(
    patch: pytest.MonkeyPatch, sizes: Sizes, most: int = PLENTY, slow: int = 99, fits: int = 99
) -> Promise:
    """Where depths from `slow` on have a tenth of the speed, and those past `fits` no room."""

    def measure(config: GPTConfig, *_: Any) -> Speed:
        return Speed(rate(config.n_layer, slow) / sizes[config.n_layer].flops_per_token, 10, 1)

    def check(config: GPTConfig, *_: Any) -> None:
        if config.n_layer > fits:
            raise UserError("too big")

    patch.setattr(promise, "measure", measure)
    patch.setattr("nanogpt.sizing.memory.check", check)
    # the ladder ran three times as fast as any larger model does
    rates = Rates(settings(), ENTRIES, sizes, join(settings().machine), 3 * RATE)
    return in_time(LAW, LAWS, sizes, most, rates, SECONDS)


def rate(depth: int, slow: int) -> float:
    return RATE / 10 if depth >= slow else RATE


@pytest.mark.parametrize("slow", [99, 4, 2])
def test_it_is_the_best_at_the_speeds_that_are_timed(
    monkeypatch: pytest.MonkeyPatch, sizes: Sizes, slow: int
) -> None:
    found = promised(monkeypatch, sizes, slow=slow)
    budget = SECONDS * (1 - BESIDE)
    known = best(LAW, LAWS, sizes, lambda depth: rate(depth, slow) * budget, PLENTY)
    assert 1 < best(LAW, LAWS, sizes, lambda _: RATE * budget, PLENTY).depth < 12
    assert (found.depth, found.tokens, found.loss) == (known.depth, known.tokens, known.loss)
    assert found.seconds == pytest.approx(SECONDS, rel=1e-3)
    assert not found.ends
    assert not found.deepest
    assert best(LAW, LAWS, sizes, lambda _: 1e6 * RATE * budget, PLENTY).deepest


def test_what_does_not_fit_is_not_promised(monkeypatch: pytest.MonkeyPatch, sizes: Sizes) -> None:
    free = promised(monkeypatch, sizes).depth
    for fits in (free - 1, 1):  # 1: all that is timed first is too big
        assert promised(monkeypatch, sizes, fits=fits).depth == fits
    with pytest.raises(UserError, match="no depth fits"):
        promised(monkeypatch, sizes, fits=0)


def test_the_text_may_end_it_before_the_time_does(
    monkeypatch: pytest.MonkeyPatch, sizes: Sizes
) -> None:
    free = promised(monkeypatch, sizes)
    found = promised(monkeypatch, sizes, most=free.tokens // 10)
    assert found.ends
    assert found.tokens == free.tokens // 10
    assert found.depth > free.depth
    assert found.seconds is not None
    assert found.seconds < SECONDS


def test_an_interval_is_at_least_as_wide_as_a_check_was_off(
    monkeypatch: pytest.MonkeyPatch, sizes: Sizes
) -> None:
    found = promised(monkeypatch, sizes)
    for error in (0.03, -0.03):
        wider = found.off_by(error)
        assert (wider.low, wider.high) == pytest.approx((0.97 * found.loss, 1.03 * found.loss))
        assert found.off_by(0.0) == found
