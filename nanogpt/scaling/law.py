"""A scaling law: what loss so many weights reach on so many tokens, fitted to small trainings.

    law = fit(points)
    law.loss(matrices, tokens)
    interval(bootstrap(points, seed=0), matrices, tokens)

Two forms of five numbers, which agree inside of a ladder and part outside of it:

    Hoffmann et al. 2022    L(N, D) = E + A / N^alpha + B / D^beta
    Kaplan et al. 2020      L(N, D) = [(A / N^alpha)^p + (B / D^beta)^p]^(1/p)

In Hoffmann's a larger model is better by as much after few tokens as after many. In Kaplan's,
whose own p is 1 / beta, the larger of the two terms decides, the more so the larger p is, and no
loss is the least. The law is Hoffmann's; its interval has what Kaplan's says in it as well. Fitted
by Huber's loss on log L from many starts (Hoffmann's approach 3; on its optimizer, which stopped
too early, Besiroglu et al. 2024).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
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
POWERS = 1.0, 100.0  # and p
LEAST = -12.0  # log of the least that E, A and B may be
# of Hoffmann's form: E / least L, exponents; of Kaplan's: p, exponents
STARTS = tuple(product((0.3, 0.6, 0.9), (0.2, 0.5, 1.0), (0.2, 0.5, 1.0)))
KAPLANS = tuple(product((2.0, 10.0), (0.05, 0.2), (0.05, 0.2)))
DRAWS = 100  # of the bootstrap, of each form
CONFIDENCE = 0.9

Floats = NDArray[np.float64]


class Point(NamedTuple):
    """One training."""

    matrices: float  # N, weights that multiply
    tokens: float  # D
    loss: float  # L, in any unit; here bits per byte


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + [(A / (N / n)^alpha)^p + (B / (D / d)^beta)^p]^(1/p).

    n and d are the middle of the ladder: there A and B are losses, and hardly move with the
    exponents. In Hoffmann's form p is 1, in Kaplan's E is 0.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    n: float
    d: float
    p: float = 1.0

    @property
    def form(self) -> str:
        return "Hoffmann" if self.E else "Kaplan"

    def loss(self, matrices: float, tokens: float) -> float:
        """What is expected of so many weights and tokens."""
        of_size = math.log(self.A) - self.alpha * math.log(matrices / self.n)
        of_data = math.log(self.B) - self.beta * math.log(tokens / self.d)
        return self.E + float(np.exp(np.logaddexp(self.p * of_size, self.p * of_data) / self.p))

    def best(self, product: float) -> tuple[float, float]:
        """N and D of the least loss among all with N · D = `product`.

        There alpha (A / N^alpha)^p = beta (B / D^beta)^p; for p = 1: Hoffmann et al., eq. 4.
        """
        size = math.log(self.alpha) / self.p + math.log(self.A) + self.alpha * math.log(self.n)
        data = math.log(self.beta) / self.p + math.log(self.B) + self.beta * math.log(self.d)
        both = self.alpha + self.beta
        matrices = math.exp((size - data + self.beta * math.log(product)) / both)
        return matrices, product / matrices

    @property
    def limited(self) -> list[str]:
        """Numbers that stand at the end of where they were looked for: nothing decides them."""
        found = {"alpha": self.alpha, "beta": self.beta}
        low, high = EXPONENTS
        names = [name for name, x in found.items() if not 1.01 * low < x < 0.99 * high]
        if self.form == "Kaplan":
            return names if self.p < 0.99 * POWERS[1] else [*names, "p"]
        return names if math.log(self.E) > 0.99 * LEAST else ["E", *names]


def fit(points: Sequence[Point]) -> Law:
    """The law of these trainings, in Hoffmann's form.

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


def bootstrap(points: Sequence[Point], seed: int) -> list[tuple[Law, float]]:
    """Other laws that might as well have been found, each with an error of one more training.

    Of both forms as many. What was left over is drawn anew onto what a law says (Efron &
    Tibshirani 1993), larger by the five numbers that it was fitted with. That both forms are wrong
    is not in it.
    """
    random = np.random.default_rng(seed)
    low = min(p.loss for p in points)
    found = []
    for law in (_fit(points, STARTS), fit_kaplan(points)):
        expected = np.log([law.loss(p.matrices, p.tokens) for p in points])
        left = np.log([p.loss for p in points]) - expected
        left = (left - left.mean()) * (len(points) / (len(points) - 5)) ** 0.5
        anew, first = (_fit, law.E / low) if law.form == "Hoffmann" else (fit_kaplan, law.p)
        for _ in range(DRAWS):
            drawn = np.exp(expected + random.choice(left, len(points)))
            others = [p._replace(loss=float(x)) for p, x in zip(points, drawn, strict=True)]
            other = anew(others, [(first, law.alpha, law.beta)])
            found.append((other, float(random.choice(left))))
    return found


def interval(
    laws: Sequence[tuple[Law, float]], matrices: float, tokens: float
) -> tuple[float, float]:
    """Between what a training's loss will be, with CONFIDENCE, if one of the forms holds so far."""
    losses = [law.loss(matrices, tokens) * np.exp(error) for law, error in laws]
    low, high = np.quantile(losses, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


Starts = Sequence[tuple[float, float, float]]


class _Table(NamedTuple):
    """A ladder in logarithms, N and D relative to their middle."""

    n: float
    d: float
    sizes: Floats
    lengths: Floats
    losses: Floats

    @classmethod
    def of(cls, points: Sequence[Point]) -> "_Table":
        logs = np.log(np.array(points, np.float64))  # (points, 3)
        middle = logs[:, :2].mean(axis=0)
        sizes, lengths = (logs[:, :2] - middle).T
        n, d = np.exp(middle).tolist()
        return cls(n, d, sizes, lengths, logs[:, 2])


def _fit(points: Sequence[Point], starts: Starts) -> Law:
    n, d, sizes, lengths, losses = _Table.of(points)
    low = float(np.exp(losses.min()))

    def terms(x: Floats) -> Floats:
        of_size, of_length = x[1] - x[3] * sizes, x[2] - x[4] * lengths
        found: Floats = np.exp(np.stack((np.full_like(sizes, x[0]), of_size, of_length)))
        return found  # (3, points)

    def left(x: Floats) -> Floats:
        found: Floats = np.log(terms(x).sum(0)) - losses
        return found

    def slopes(x: Floats) -> Floats:
        shares = terms(x)
        shares /= shares.sum(0)
        found: Floats = np.stack((*shares, -sizes * shares[1], -lengths * shares[2]), axis=1)
        return found  # (points, 5)

    bottom = [LEAST, LEAST, LEAST, EXPONENTS[0], EXPONENTS[0]]
    top = [math.log(low), 6.0, 6.0, EXPONENTS[1], EXPONENTS[1]]
    first = []
    for share, alpha, beta in starts:
        rest = math.log(max(low - share * low, 1e-3 * low) / 2)
        first.append([math.log(share * low), rest, rest, alpha, beta])
    e, a, b, alpha, beta = _least(left, slopes, first, bottom, top)
    return Law(math.exp(e), math.exp(a), alpha, math.exp(b), beta, n, d)


def fit_kaplan(points: Sequence[Point], starts: Starts = KAPLANS) -> Law:
    """The law in Kaplan's form."""
    n, d, sizes, lengths, losses = _Table.of(points)

    def terms(x: Floats) -> Floats:
        return np.stack((x[0] - x[2] * sizes, x[1] - x[3] * lengths))  # (2, points)

    def left(x: Floats) -> Floats:
        power = np.exp(x[4])
        found: Floats = np.logaddexp(*(power * terms(x))) / power - losses
        return found

    def slopes(x: Floats) -> Floats:
        of_size, of_length = found = terms(x)
        power = np.exp(x[4])
        total = np.logaddexp(*(power * found))
        share = np.exp(power * of_size - total)
        by_power = share * of_size + (1 - share) * of_length - total / power
        parts = share, 1 - share, -sizes * share, -lengths * (1 - share), by_power
        return np.stack(parts, axis=1)  # (points, 5)

    bottom = [LEAST, LEAST, EXPONENTS[0], EXPONENTS[0], math.log(POWERS[0])]
    top = [6.0, 6.0, EXPONENTS[1], EXPONENTS[1], math.log(POWERS[1])]
    middle = float(losses.mean())
    first = [
        [middle - math.log(2) / power] * 2 + [alpha, beta, math.log(power)]
        for power, alpha, beta in starts
    ]
    a, b, alpha, beta, power = _least(left, slopes, first, bottom, top)
    return Law(0.0, math.exp(a), alpha, math.exp(b), beta, n, d, math.exp(power))


def _least(
    left: Callable[[Floats], Floats],
    slopes: Callable[[Floats], Floats],
    starts: Sequence[Sequence[float]],
    bottom: Sequence[float],
    top: Sequence[float],
) -> list[float]:
    """The numbers of the least loss that any start leads to."""
    found = [
        least_squares(
            left,
            np.clip(start, bottom, np.subtract(top, 1e-9)),
            slopes,
            (bottom, top),
            loss="huber",
            f_scale=HUBER,
            x_scale="jac",
        )
        for start in starts
    ]
    best: Floats = min(found, key=lambda done: float(done.cost)).x
    numbers: list[float] = best.tolist()
    return numbers
