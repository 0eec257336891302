"""The gain of one model over another has an interval that holds the truth as often as it says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt.scoring import paired as module
from nanogpt.scoring.blocks import Scores
from nanogpt.scoring.paired import Difference, paired

Nats = NDArray[np.float64]


def scores(nats: Nats, document: NDArray[np.int64] | None = None, skipped: int = 1) -> Scores:
    count = len(nats)
    return Scores(
        nats=nats,
        bytes=np.full(count, 512),
        document=np.zeros(count, np.int64) if document is None else document,
        total=float(nats.sum()),
        count=count,
        tokens=count + 1,
        context=16,
        skipped=skipped,
        unknown=0,
    )


losses = st.lists(st.floats(100, 900), min_size=27, max_size=80).map(np.array)


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 1000)


@given(losses)
def test_a_model_is_no_better_than_itself(nats: Nats) -> None:
    found = paired(scores(nats), scores(nats), 0.95)
    assert (found.gain, found.low, found.high, found.better) == (0, 0, 0, 0)


@given(losses, st.integers(0, 1000))
def test_the_other_way_round_the_gain_is_a_loss(nats: Nats, seed: int) -> None:
    other = nats * np.random.default_rng(seed).uniform(0.8, 1.1, len(nats))
    there, back = (paired(scores(a), scores(b), 0.9) for a, b in ((nats, other), (other, nats)))
    # shares of the other one's loss: 20 % less one way is 25 % more the other way
    assert back.gain == pytest.approx(-there.gain / (1 - there.gain))
    assert back.low == pytest.approx(-there.high / (1 - there.high), abs=1e-3)
    assert back.high == pytest.approx(-there.low / (1 - there.low), abs=1e-3)
    assert there.low <= there.gain <= there.high


@given(losses, st.floats(0.1, 10))
def test_the_unit_of_losses_does_not_matter(nats: Nats, factor: float) -> None:
    other = nats[::-1]
    plain = paired(scores(nats), scores(other), 0.95)
    scaled = paired(scores(factor * nats), scores(factor * other), 0.95)
    assert (scaled.gain, scaled.low, scaled.high) == pytest.approx(
        (plain.gain, plain.low, plain.high)
    )


@given(losses)
def test_what_is_always_better_by_one_share_is_sure(nats: Nats) -> None:
    found = paired(scores(nats * 0.9), scores(nats), 0.99)
    assert (found.gain, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_more_confidence_the_wider() -> None:
    random = np.random.default_rng(1)
    new, old = random.normal(500, 50, (2, 2000))
    widths = [
        found.high - found.low
        for found in (paired(scores(new), scores(old), c) for c in (0.5, 0.9, 0.99))
    ]
    assert widths == sorted(widths)
    # of the mean of 2000 differences, each of spread 50·√2 of 500
    assert widths[1] == pytest.approx(2 * 1.645 * 50 * math.sqrt(2 / 2000) / 500, rel=0.2)


@pytest.mark.parametrize("alike", [0.0, 0.3])  # correlation of a block with the one before it
@pytest.mark.parametrize("count", [20, 200])
def test_the_interval_holds_the_truth(
    monkeypatch: pytest.MonkeyPatch, count: int, alike: float
) -> None:
    """Blocks of one text are of another difficulty each, which both models share."""
    monkeypatch.setattr(module, "RESAMPLES", 400)
    random, trials, held = np.random.default_rng(count), 400, 0
    for _ in range(trials):
        old, noise = random.gamma(20, 25, count), random.normal(size=count)
        for i in range(1, count):
            noise[i] = alike * noise[i - 1] + math.sqrt(1 - alike**2) * noise[i]
        found = paired(scores(old * (0.99 + 0.05 * noise)), scores(old), 0.9)
        held += found.low <= 0.01 <= found.high
    assert 0.84 <= held / trials <= 0.96  # one by one, neighbours alike, it would be 0.74


def test_whole_documents_are_drawn_where_there_are_enough() -> None:
    """The blocks of one document are alike; drawn one by one they look surer than they are."""
    random = np.random.default_rng(1)
    document = np.repeat(np.arange(40), 10)
    old = random.normal(500, 50, 400)
    new = old * np.repeat(random.normal(1, 0.05, 40), 10)
    by_document = paired(scores(new, document), scores(old, document), 0.95)
    by_block = paired(scores(new), scores(old), 0.95)
    assert (by_document.units, by_block.units) == (40, 400)
    assert by_document.gain == pytest.approx(by_block.gain)
    assert by_document.high - by_document.low > 1.3 * (by_block.high - by_block.low)
    assert (by_document.documents, by_block.documents) == (40, 1)
    sums = (np.bincount(document, model) for model in (new, old))
    assert by_document.better == int(np.less(*sums).sum())


def test_the_same_scores_always_have_the_same_interval() -> None:
    new, old = np.random.default_rng(1).normal(500, 50, (2, 50))
    assert paired(scores(new), scores(old), 0.95) == paired(scores(new), scores(old), 0.95)


@pytest.mark.parametrize(("count", "confidence"), [(1, 0.5), (10, 0.95), (14, 0.99)])
def test_little_text_has_no_interval(count: int, confidence: float) -> None:
    nats = np.linspace(400, 500, count)
    found = paired(scores(nats * 0.9), scores(nats), confidence)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert "no interval" in str(found)
    more = np.append(nats, [450.0] * 30)
    assert paired(scores(more * 0.9), scores(more), confidence).low > 0


def test_a_loss_that_is_no_number_is_never_better() -> None:
    nats = np.full(50, 500.0)
    for value in (math.nan, math.inf):
        broken = np.append(nats[1:], value)
        assert paired(scores(broken), scores(nats), 0.95).high == -math.inf
        assert paired(scores(nats), scores(broken), 0.95).low == math.inf
        assert paired(scores(broken), scores(broken), 0.95).high == -math.inf


def test_the_first_token_of_another_length_decides_nothing() -> None:
    """A model whose first token is longer has fewer bytes to pay for."""
    old = np.full(50, 500.0)
    new = old.copy()
    new[0] = 100
    assert paired(scores(new, skipped=8), scores(old), 0.95).gain == 0
    assert paired(scores(new), scores(old), 0.95).gain > 0


def test_what_costs_nothing_cannot_be_beaten() -> None:
    nothing = np.zeros(50)
    assert paired(scores(nothing), scores(nothing), 0.95).high == 0
    assert paired(scores(nothing + 1), scores(nothing), 0.95).high < 0
    known = np.append(nothing, [450.0])  # of most draws nothing is left to save
    assert paired(scores(known * 0.9), scores(known), 0.95).low == 0


def test_a_text_of_more_blocks_than_draws_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 32)
    nats = np.linspace(400, 500, 64)
    assert paired(scores(nats * 0.9), scores(nats), 0.95).low == pytest.approx(0.1)


def test_scores_of_different_texts() -> None:
    with pytest.raises(ValueError, match="different texts"):
        paired(scores(np.ones(8)), scores(np.ones(9)), 0.95)


def test_what_is_said() -> None:
    said = str(Difference(0.008, 0.003, 0.012, 14, 17, 400, 0.95))
    assert said == "0.8 % better, 95 % interval 0.3 to 1.2 %, better in 14 of 17 documents"
    said = str(Difference(-0.008, -0.012, -0.003, 0, 1, 400, 0.99))
    assert said == "0.8 % worse, 99 % interval 0.3 to 1.2 %"
    said = str(Difference(-0.001, -0.004, 0.002, 0, 1, 400, 0.95))
    assert said == "0.1 % worse, 95 % interval 0.4 % worse to 0.2 % better"
