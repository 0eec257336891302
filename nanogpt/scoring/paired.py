"""How much better one model is than another on the same text, and how sure that is.

    found = paired(new, old, 0.95)      # of `scoring.blocks.score`, on one text
    print(found)                        # 0.8 % better, 95 % interval 0.3 to 1.2 %, better in 14 …

The bootstrap (Efron 1979): units of the text are drawn again and again with replacement, and the
gain is computed of each draw; both models keep their losses on a unit together, so what makes a
unit hard for both cancels. Where there are documents enough they are the units, for the parts of
one document are alike. Else blocks are, and runs of neighbours are drawn, for these are alike, too:
one by one they would look surer than they are (the circular block bootstrap; Politis and Romano
1992). For few units the percentiles are taken further out, as a t distribution is wider than the
normal one (Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 4.2). The
interval is about the text: of another text of the same kind. A model trained with another seed
differs, too.
"""

import math
from dataclasses import dataclass

import numpy as np

from nanogpt.scoring.blocks import Scores

ENOUGH = 30  # documents
RESAMPLES = 10_000
SEED = 1
AT_ONCE = 1 << 20  # draws in memory
LEAST = 1e-9  # nats: a text of one letter, over and over, costs none at all


@dataclass(frozen=True)
class Difference:
    """Of a new model to an old one. Shares are of the old one's loss: 0.01 is 1 % better."""

    gain: float
    low: float  # of the interval; -inf where there is too little text for one
    high: float
    better: int  # documents in which the new model has the smaller loss
    documents: int
    units: int  # documents, or blocks
    confidence: float

    def __str__(self) -> str:
        word = "worse" if self.gain < 0 else "better"
        said = f"{100 * abs(self.gain):.1f} % {word}, "
        if math.isfinite(self.low) and math.isfinite(self.high):
            said += f"{100 * self.confidence:g} % interval "
            least, most = sorted(100 * abs(end) for end in (self.low, self.high))
            if self.low < 0 < self.high:
                said += f"{-100 * self.low:.1f} % worse to {100 * self.high:.1f} % better"
            else:
                said += f"{least:.1f} to {most:.1f} %"
        else:
            said += f"no interval ({self.units} block{'s' * (self.units != 1)} of text say too"
            said += " little)"
        if self.documents > 1:
            said += f", better in {self.better:,} of {self.documents:,} documents"
        return said


def paired(new: Scores, old: Scores, confidence: float) -> Difference:
    """Compare two scores of one text, in blocks of one size.

    A loss that is NaN or infinite makes its model infinitely worse.

    Raises:
        ValueError: they are of different texts or blocks.
    """
    if not np.array_equal(new.bytes, old.bytes) or not np.array_equal(new.document, old.document):
        raise ValueError("scores of different texts, or in different blocks")
    # the first token has no loss; where one model's is longer, the block it is in says nothing
    kept = slice(int(new.skipped != old.skipped and len(new.bytes) > 1), None)
    document = new.document[kept]
    nats = np.stack((new.nats[kept], old.nats[kept]))  # (2, blocks)
    of_documents = np.stack([np.bincount(document, weights=model) for model in nats])
    better = int((of_documents[0] < of_documents[1]).sum())
    documents = int(new.document[-1]) + 1
    units, run = (of_documents, 1) if documents >= ENOUGH else (nats, _run(nats.shape[1]))
    gain, low, high = _interval(units[0], units[1], run, confidence)
    return Difference(gain, low, high, better, documents, units.shape[1], confidence)


def _run(blocks: int) -> int:
    """Neighbours that are drawn together: the longer a text, the longer runs it has enough of.

    The cube root is the order that makes the error of the variance smallest (Künsch 1989).
    """
    return round(math.cbrt(blocks))


def _interval(
    new: np.ndarray, old: np.ndarray, run: int, confidence: float
) -> tuple[float, float, float]:
    """The gain and its interval.

    Args:
        new, old: nats of each unit, (units,). run: neighbours that are drawn together.
    """
    from scipy.special import ndtr, stdtrit  # a training that never compares need not wait for it

    for model, gain in ((new, -math.inf), (old, math.inf)):
        if not np.isfinite(model).all():
            return gain, gain, gain
    saved, count = old - new, len(new)
    gain = float(saved.sum() / max(old.sum(), LEAST))
    runs, tail = count / run, (1 - confidence) / 2
    # so seldom does the range of all runs miss the middle of what they were drawn from
    if runs < 2 or 0.5**runs > tail:
        return gain, -math.inf, math.inf
    random = np.random.Generator(np.random.PCG64(SEED))
    gains = np.empty(RESAMPLES)
    parts = min(RESAMPLES, max(1, RESAMPLES * count // AT_ONCE))
    for part in np.array_split(np.arange(RESAMPLES), parts):
        first = random.integers(count, size=(len(part), math.ceil(runs), 1))
        drawn = (first + np.arange(run)).reshape(len(part), -1)[:, :count] % count
        gains[part] = saved[drawn].sum(axis=1) / np.maximum(old[drawn].sum(axis=1), LEAST)
    wider = ndtr(math.sqrt(runs / (runs - 1)) * stdtrit(runs - 1, tail))
    low, high = np.quantile(gains, (wider, 1 - wider))
    return gain, float(low), float(high)
