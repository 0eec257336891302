"""What is drawn follows the distribution that the options say, row by row."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.generation.draw import Penalties, draw
from nanogpt.generation.options import Options

PLAIN = Options(tokens=1, temperature=1.0, seed=0)
LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.9, -math.inf, 0.5])


def shares(options: Options, logits: torch.Tensor = LOGITS) -> list[float]:
    """How often each id is drawn, by 20,000 numbers at equal distances."""
    numbers = [(i + 0.5) / 20000 for i in range(20000)]
    ids = draw(logits.expand(20000, -1), [options] * 20000, numbers)
    return (ids.bincount(minlength=len(logits)) / 20000).tolist()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 5]),
        ({"temperature": 0.3}, [0, 1, 2, 3, 5]),
        ({"temperature": 1e300}, [0, 1, 2, 3, 5]),
        ({"temperature": 1e-300}, [0]),
        ({"temperature": 0.0}, [0]),
        ({"top_k": 2}, [0, 3]),
        ({"top_k": 3}, [0, 2, 3, 5]),  # as likely as the third
        ({"top_k": 99}, [0, 1, 2, 3, 5]),
        ({"top_p": 0.5}, [0, 3]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 5]),
        ({"top_p": 1e-300}, [0]),
        ({"top_k": 3, "top_p": 0.1}, [0]),
        ({"min_p": 0.2}, [0, 2, 3, 5]),
        ({"min_p": 1.0}, [0]),
    ],
)
def test_shares_are_the_probabilities_of_what_is_kept(
    options: dict[str, float], kept: list[int]
) -> None:
    wanted = replace(PLAIN, **options)  # type: ignore[arg-type]
    weights = [0.0] * len(LOGITS)
    for i in kept:
        heat = max(wanted.temperature, 1e-3)
        weights[i] = math.exp((LOGITS[i].item() - 2.0) / heat)
    expected = [weight / sum(weights) for weight in weights]
    assert shares(wanted) == pytest.approx(expected, abs=1e-4)


options_of_a_row = st.builds(
    Options,
    tokens=st.just(1),
    temperature=st.sampled_from([0.0, 1e-6, 0.7, 1.0, 50.0]),
    seed=st.just(0),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    min_p=st.none() | st.floats(0, 1, exclude_min=True),
)
numbers_of_a_row = st.floats(0, 1) | st.sampled_from([0.0, 1 - 2**-53, 1.0])


@given(st.data())
def test_a_row_is_drawn_as_if_alone_and_never_what_cannot_be(
    data: st.DataObject,
) -> None:
    B, V = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    value = st.floats(-1e4, 1e4, width=32) | st.just(-math.inf) | st.just(0.0)
    rows = data.draw(st.lists(st.lists(value, min_size=V, max_size=V), min_size=B, max_size=B))
    for row in rows:
        row[data.draw(st.integers(0, V - 1))] = 1.0  # at least one is possible
    logits = torch.tensor(rows, dtype=torch.float32)
    options = data.draw(st.lists(options_of_a_row, min_size=B, max_size=B))
    numbers = data.draw(st.lists(numbers_of_a_row, min_size=B, max_size=B))
    ids = draw(logits, options, numbers)
    for place, (row, one, number) in enumerate(zip(logits, options, numbers, strict=True)):
        assert row[ids[place]] > -math.inf
        assert draw(row[None], [one], [number]).item() == ids[place]
        if one.temperature == 0 or one.top_k == 1 == (row == row.max()).sum():
            assert row[ids[place]] == row.max()


def test_penalties_take_what_their_formulas_say() -> None:
    options = replace(PLAIN, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    penalties = Penalties(options, [0, 1], 6, torch.device("cpu"))
    for i in (0, 3, 3):
        penalties.add(i)
    expected = [2 / 2 - 0.25 - 0.5, -1 * 2, 0.5, 1.9 / 2 - 0.25 - 2 * 0.5, -math.inf, 0.5]
    assert penalties(LOGITS).tolist() == pytest.approx(expected)


def test_a_penalty_that_rounds_to_nothing_makes_no_infinity() -> None:
    options = replace(PLAIN, repetition_penalty=1e-300)
    penalties = Penalties(options, [0, 1, 4], 6, torch.device("cpu"))
    assert shares(options, penalties(LOGITS)) == [1, 0, 0, 0, 0, 0]
