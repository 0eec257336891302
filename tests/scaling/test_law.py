"""A known law is found again from losses that follow it; too small a ladder is refused."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.scaling.law import Law, Point, bootstrap, fit, fit_kaplan, interval

KAPLAN = Law(0.0, 2.0, 0.07, 2.3, 0.09, n=1e6, d=1e7, p=13)  # as the default recipe's (docs)
SIZES, RATIOS = (2e5, 6e5, 2e6, 6e6), (1, 4, 16, 64)


def chinchilla(matrices: float, tokens: float) -> float:
    """Hoffmann's data as Besiroglu et al. 2024 fitted them."""
    return 1.8172 + 482.01 * matrices**-0.3478 + 2085.43 * tokens**-0.3658


def ladder(loss: Callable[[float, float], float]) -> list[Point]:
    trainings = [(size, ratio * size) for size, ratio in product(SIZES, RATIOS)]
    return [Point(matrices, tokens, loss(matrices, tokens)) for matrices, tokens in trainings]


def test_chinchillas_law_is_found_again() -> None:
    law = fit(ladder(chinchilla))
    assert (law.E, law.alpha, law.beta) == pytest.approx((1.8172, 0.3478, 0.3658), rel=1e-3)
    # a million times the operations of the ladder's largest
    assert law.loss(70e9, 1.4e12) == pytest.approx(chinchilla(70e9, 1.4e12), rel=1e-3)
    # its replication says about 20 tokens a parameter there
    matrices, tokens = law.best(5.76e23 / 6)
    assert 15 < tokens / matrices < 25


@settings(max_examples=8, deadline=None)
@given(
    floor=st.floats(0.5, 2),
    alpha=st.floats(0.2, 0.7),
    beta=st.floats(0.2, 0.7),
    a=st.floats(0.2, 1),
    b=st.floats(0.2, 1),
)
def test_exponents_are_recovered(
    floor: float, alpha: float, beta: float, a: float, b: float
) -> None:
    truth = Law(floor, a, alpha, b, beta, n=1e6, d=1e7)
    law = fit(ladder(truth.loss))
    assert (law.alpha, law.beta) == pytest.approx((alpha, beta), rel=0.02)
    assert law.loss(5e7, 1e9) == pytest.approx(truth.loss(5e7, 1e9), rel=0.005)
    assert not law.limited


def test_the_best_of_a_budget_is_the_least_loss_of_all_sizes() -> None:
    law = Law(1.0, 0.5, 0.3, 0.4, 0.5, n=1e6, d=1e7)
    matrices, tokens = law.best(1e14)
    assert matrices * tokens == pytest.approx(1e14)
    others = np.geomspace(matrices / 10, 10 * matrices, 41)
    assert law.loss(matrices, tokens) <= min(law.loss(n, 1e14 / n) for n in others) + 1e-12


@pytest.mark.parametrize("truth", [chinchilla, KAPLAN.loss], ids=["Hoffmann", "Kaplan"])
def test_what_noise_leaves_open_is_in_the_interval(truth: Callable[[float, float], float]) -> None:
    random = np.random.default_rng(1)
    points = [
        p._replace(loss=p.loss * float(np.exp(0.003 * random.normal()))) for p in ladder(truth)
    ]
    laws = bootstrap(points, seed=0)
    near = interval(laws, 2e6, 3e7)
    assert near[0] < truth(2e6, 3e7) < near[1]
    far = interval(laws, 6e7, 1e9)
    assert far[0] < truth(6e7, 1e9) < far[1]
    assert 0.003 < near[1] / near[0] - 1 < far[1] / far[0] - 1 < 0.2
    assert bootstrap(points, seed=0) == laws


@pytest.mark.parametrize(
    "few",
    [
        ladder(chinchilla)[:7],
        [p for p in ladder(chinchilla) if p.matrices < 1e6],
        [p for p in ladder(chinchilla) if p.tokens / p.matrices < 10],
        3 * ladder(chinchilla)[:4],
    ],
    ids=["points", "sizes", "budgets", "different ones"],
)
def test_too_small_a_ladder_is_refused(few: list[Point]) -> None:
    with pytest.raises(UserError, match="a law of five numbers needs 8 trainings, of 3 sizes"):
        fit(few)


def test_a_loss_that_is_no_number_is_refused() -> None:
    points = ladder(chinchilla)
    with pytest.raises(UserError, match="no positive number"):
        fit([points[0]._replace(loss=float("nan")), *points[1:]])


def test_what_nothing_decides_is_named() -> None:
    # a loss that does not fall with the tokens says nothing of beta
    law = fit(ladder(lambda matrices, tokens: 1 + 100 * matrices**-0.4))
    assert law.loss(2e6, 1e7) == pytest.approx(1 + 100 * 2e6**-0.4, rel=1e-3)
    assert law.limited == ["beta"]
    # nor does one that falls without end say where it ends
    assert fit(
        ladder(lambda matrices, tokens: 10 * matrices**-0.2 + 20 * tokens**-0.2)
    ).limited == ["E"]
    # and one that the larger term alone decides, not how they go together
    sharp = ladder(lambda matrices, tokens: max(9 * matrices**-0.1, 12 * tokens**-0.1))
    assert fit_kaplan(sharp).limited == ["p"]


@settings(max_examples=4, deadline=None)
@given(
    alpha=st.floats(0.05, 0.2),
    beta=st.floats(0.05, 0.2),
    power=st.floats(2, 20),
)
def test_kaplans_form_is_found_again(alpha: float, beta: float, power: float) -> None:
    truth = Law(0.0, 1.9, alpha, 2.1, beta, n=1e6, d=1e7, p=power)
    law = fit_kaplan(ladder(truth.loss))
    assert (law.alpha, law.beta) == pytest.approx((alpha, beta), rel=0.05)
    assert law.loss(5e7, 1e9) == pytest.approx(truth.loss(5e7, 1e9), rel=0.01)
    matrices, tokens = law.best(1e14)
    others = np.geomspace(matrices / 10, 10 * matrices, 41)
    assert law.loss(matrices, tokens) <= min(law.loss(n, 1e14 / n) for n in others) + 1e-12


def test_kaplans_own_law() -> None:
    """Kaplan et al. 2020, eq. 1.5 and table 2, whose p is 1 / beta."""

    def published(matrices: float, tokens: float) -> float:
        return float(((6.4e13 / matrices) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103)

    law = fit_kaplan(ladder(published))
    assert law.p == pytest.approx(1 / 0.103, rel=0.02)
    assert law.loss(1.5e9, 2e10) == pytest.approx(published(1.5e9, 2e10), rel=0.005)
