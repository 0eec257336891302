"""A scaling law: what loss so many weights reach on so many tokens, fitted to small trainings.

    law = fit(points)
    law.loss(matrices, tokens)
    interval(bootstrap(points, law, seed=0), matrices, tokens)

L(N, D) = E + A / N^alpha + B / D^beta, fitted by Huber's loss on log L from many starts (Hoffmann
et al. 2022, approach 3; on its optimizer, which stopped too early, Besiroglu et al. 2024).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from nanogpt.common.errors import UserError

# of log L: past it an error counts by its size, not by its square. Hoffmann et al. take 1e-3; small
# trainings differ by 5e-3 from seed to seed
HUBER = 1e-2
SIZES, POINTS = 3, 8  # the fewest that five numbers are fitted to
EXPONENTS = 0.02, 3.0  # between which the exponents are looked for
LEAST = -12.0  # log of the least that E, A and B may be
STARTS = tuple(product((0.3, 0.6, 0.9), (0.2, 0.5, 1.0), (0.2, 0.5, 1.0)))  # E / least L, exponents
DRAWS = 200  # of the bootstrap
CONFIDENCE = 0.9

Floats = NDArray[np.float64]


class Point(NamedTuple):
    """One training."""

    matrices: float  # N, weights that multiply
    tokens: float  # D
    loss: float  # L, in any unit; here bits per byte


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / (N / n)^alpha + B / (D / d)^beta.

    n and d are the middle of the ladder: there A and B are losses, and hardly move with the
    exponents.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    n: float
    d: float

    def loss(self, matrices: float, tokens: float) -> float:
        """What is expected of so many weights and tokens."""
        of_size = self.A * (matrices / self.n) ** -self.alpha
        return float(self.E + of_size + self.B * (tokens / self.d) ** -self.beta)

    def best(self, product: float) -> tuple[float, float]:
        """N and D of the least loss among all with N · D = `product` (Hoffmann et al., eq. 4)."""
        size = self.alpha * self.A * self.n**self.alpha
        data = self.beta * self.B * self.d**self.beta
        both = self.alpha + self.beta
        matrices = (size / data) ** (1 / both) * product ** (self.beta / both)
        return matrices, product / matrices

    @property
    def limited(self) -> list[str]:
        """Numbers that stand at the end of where they were looked for: nothing decides them."""
        found = {"alpha": self.alpha, "beta": self.beta}
        low, high = EXPONENTS
        names = [name for name, x in found.items() if not 1.01 * low < x < 0.99 * high]
        return names if math.log(self.E) > 0.99 * LEAST else ["E", *names]


def fit(points: Sequence[Point]) -> Law:
    """The law of these trainings.

    Raises:
        UserError: they are too few, or too much alike; or a loss is no number.
    """
    check_enough([(point.matrices, point.tokens) for point in points])
    if not all(np.isfinite(p.loss) and p.loss > 0 for p in points):
        raise UserError("a training of the ladder has a loss that is no positive number")
    return _fit(points, STARTS)


def check_enough(trainings: Sequence[tuple[float, float]]) -> None:
    """Refuse trainings, each N and D, to which no law could be fitted, before they are made.

    Raises:
        UserError: they are too few, or too much alike, to tell five numbers.
    """
    sizes = Counter(matrices for matrices, _ in set(trainings))
    several = sum(budgets >= 3 for budgets in sizes.values())
    if sizes.total() < POINTS or len(sizes) < SIZES or several < 2:
        raise UserError(
            f"a law of five numbers needs {POINTS} trainings, of {SIZES} sizes, two of which have"
            f" three budgets each; the ladder has {sizes.total()}, of {len(sizes)}: give it more"
            " depths, more budgets or a larger one (those of too few steps, and those that would"
            " read the text too often, are left out)"
        )


def bootstrap(points: Sequence[Point], law: Law, seed: int) -> list[tuple[Law, float]]:
    """Other laws that might as well have been found, each with an error of one more training.

    What was left over is drawn anew onto what the law says (Efron & Tibshirani 1993), larger by
    the five numbers that it was fitted with. That the form itself is wrong is not in it.
    """
    random = np.random.default_rng(seed)
    expected = np.log([law.loss(p.matrices, p.tokens) for p in points])
    left = np.log([p.loss for p in points]) - expected
    left = (left - left.mean()) * (len(points) / (len(points) - 5)) ** 0.5
    low = min(p.loss for p in points)
    start = [(law.E / low, law.alpha, law.beta)]
    found = []
    for _ in range(DRAWS):
        drawn = np.exp(expected + random.choice(left, len(points)))
        others = [p._replace(loss=float(x)) for p, x in zip(points, drawn, strict=True)]
        found.append((_fit(others, start), float(random.choice(left))))
    return found


def interval(
    laws: Sequence[tuple[Law, float]], matrices: float, tokens: float
) -> tuple[float, float]:
    """Between what a training's loss will be, with CONFIDENCE, if the form holds that far."""
    losses = [law.loss(matrices, tokens) * np.exp(error) for law, error in laws]
    low, high = np.quantile(losses, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _fit(points: Sequence[Point], starts: Sequence[tuple[float, float, float]]) -> Law:
    table = np.array(points, np.float64)  # (points, 3)
    n, d = (float(np.exp(np.log(table[:, i]).mean())) for i in (0, 1))
    sizes, lengths = np.log(table[:, 0] / n), np.log(table[:, 1] / d)
    logs = np.log(table[:, 2])
    low = float(table[:, 2].min())

    def terms(x: Floats) -> Floats:
        of_size, of_length = x[1] - x[3] * sizes, x[2] - x[4] * lengths
        found: Floats = np.exp(np.stack((np.full_like(sizes, x[0]), of_size, of_length)))
        return found  # (3, points)

    def left(x: Floats) -> Floats:
        found: Floats = np.log(terms(x).sum(0)) - logs
        return found

    def slopes(x: Floats) -> Floats:
        shares = terms(x)
        shares /= shares.sum(0)
        found: Floats = np.stack((*shares, -sizes * shares[1], -lengths * shares[2]), axis=1)
        return found  # (points, 5)

    bottom = [LEAST, LEAST, LEAST, EXPONENTS[0], EXPONENTS[0]]
    top = [np.log(low), 6.0, 6.0, EXPONENTS[1], EXPONENTS[1]]
    best = None
    for share, alpha, beta in starts:
        rest = np.log(max(low - share * low, 1e-3 * low) / 2)
        x0 = np.clip([np.log(share * low), rest, rest, alpha, beta], bottom, np.subtract(top, 1e-9))
        done = least_squares(
            left, x0, slopes, (bottom, top), loss="huber", f_scale=HUBER, x_scale="jac"
        )
        if best is None or done.cost < best.cost:
            best = done
    assert best is not None
    e, a, b, alpha, beta = best.x.tolist()
    return Law(float(np.exp(e)), float(np.exp(a)), alpha, float(np.exp(b)), beta, n, d)
