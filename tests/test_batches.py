"""Batches are a function of (seed, step): every window once an epoch, whoever asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.batches import gather, window_count, window_starts
from nanogpt.common.errors import UserError

lengths = st.integers(2, 2000)
contexts = st.integers(1, 64)


@given(length=lengths, context=contexts, batch=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_visits_every_window_once(
    length: int, context: int, batch: int, seed: int
) -> None:
    if length <= context:
        with pytest.raises(UserError, match="too few"):
            window_count(length, context)
        return
    count = window_count(length, context)
    steps = -(-2 * count // batch)
    starts = np.concatenate(
        [window_starts(seed, step, batch, length, context) for step in range(steps)]
    )
    for epoch in (starts[:count], starts[count : 2 * count]):
        assert epoch.min() >= 0
        assert epoch.max() + context < length
        ordered = np.sort(epoch)
        assert np.all(np.diff(ordered) == context)  # side by side: none twice, none left out


@given(context=contexts, batch=st.integers(1, 16), step=st.integers(0, 10**9))
def test_a_batch_depends_on_nothing_but_seed_and_step(context: int, batch: int, step: int) -> None:
    first = window_starts(1, step, batch, 5000, context)
    window_starts(2, step + 1, batch, 5000, context)
    assert np.array_equal(first, window_starts(1, step, batch, 5000, context))


def test_epochs_and_seeds_differ() -> None:
    count = window_count(5000, 16)
    first, second = (window_starts(1, epoch, count, 5000, 16) for epoch in (0, 1))
    other = window_starts(2, 0, count, 5000, 16)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_targets_are_the_next_tokens() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    ids, targets = gather(tokens, np.array([0, 35, 90]), 9)
    assert ids.shape == targets.shape == (3, 9)
    assert (targets == ids + 1).all()
    assert ids[:, 0].tolist() == [0, 35, 90]
