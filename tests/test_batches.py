"""Batches are a function of (seed, step): every window once an epoch, whoever asks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt.batches import (
    Text,
    Windows,
    borders,
    gather,
    in_one_copy,
    turn,
    whole_numbers,
    window_count,
)
from nanogpt.common.errors import UserError
from nanogpt.packing import Packing, Places

contexts = st.integers(1, 64)
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 90), min_size=1, max_size=40)  # tokens of documents
weights = st.lists(st.integers(1, 9) | st.floats(0.01, 9), min_size=2, max_size=4)

END = 0


def running(length: int) -> Text:
    return Text(np.arange(length))


def documents(lengths: list[int], eot: bool = False) -> Text:
    """Documents of so many tokens, each another one; of the last of each it may be said END."""
    ids, starts = np.arange(1, sum(lengths) + 1), np.cumsum([0, *lengths[:-1]])
    if eot:
        ids[np.cumsum(lengths) - 1] = END
    return Text(ids, documents=borders(ids, starts, END))


def visits(windows: Windows, seed: int, batch: int, count: int) -> NDArray[np.int64]:
    """The first `count` windows that a training visits."""
    steps = range(-(-count // batch))
    return np.concatenate([windows.of_step(seed, step, batch) for step in steps])[:count]


@settings(deadline=None, max_examples=60)
@given(length=st.integers(2, 2000), context=contexts, batch=st.integers(1, 40), seed=seeds)
def test_an_epoch_visits_every_window_once(
    length: int, context: int, batch: int, seed: int
) -> None:
    if length <= context:
        with pytest.raises(UserError, match="too few"):
            Windows(running(length), context)
        return
    count = window_count(length, context)
    starts = visits(Windows(running(length), context), seed, batch, 2 * count)
    for epoch in (starts[:count], starts[count:]):
        assert epoch.min() >= 0
        assert epoch.max() + context < length
        ordered = np.sort(epoch)
        assert np.all(np.diff(ordered) == context)  # side by side: none twice, none left out


@settings(deadline=None, max_examples=60)
@given(context=contexts, batch=st.integers(1, 16), step=st.integers(0, 10**9))
def test_a_batch_depends_on_nothing_but_seed_and_step(context: int, batch: int, step: int) -> None:
    windows = Windows(running(5000), context)
    first = windows.of_step(1, step, batch)
    windows.of_step(2, step + 1, batch)
    assert np.array_equal(first, Windows(running(5000), context).of_step(1, step, batch))


def test_epochs_and_seeds_differ() -> None:
    windows, count = Windows(running(5000), 16), window_count(5000, 16)
    first, second = (windows.of_step(1, epoch, count) for epoch in (0, 1))
    other = windows.of_step(2, 0, count)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_targets_are_the_next_tokens() -> None:
    text = Text(np.arange(100, dtype=np.uint16))
    batch = gather(text, Windows(text, 9).places(np.array([0, 35, 90])))
    assert batch.ids.shape == batch.targets.shape == (3, 9)
    assert (batch.targets == batch.ids + 1).all()
    assert batch.ids[:, 0].tolist() == [0, 35, 90]
    assert batch.counted is batch.positions is None


@settings(deadline=None, max_examples=60)
@given(lengths=sizes, context=contexts, eot=st.booleans(), batch=st.integers(1, 9), seed=seeds)
def test_packed_windows_have_every_token_once_an_epoch_and_no_border_inside_a_piece(
    lengths: list[int], context: int, eot: bool, batch: int, seed: int
) -> None:
    text = documents(lengths, eot)
    if not any(length > 1 for length in lengths) and not eot:
        with pytest.raises(UserError, match="no document of two tokens"):
            Windows(text, context)
        return
    if eot and lengths == [1] * len(lengths) and len(lengths) == 1:
        return  # one token alone
    windows = Windows(text, context)
    count = windows.spans[0].windows
    places = windows.places(visits(windows, seed, batch, count))
    ids, positions, real = places
    assert positions is not None
    assert real is not None
    first = {begin: stop for begin, stop in text.documents.tolist()}  # type: ignore[union-attr]
    targets = np.sort(ids[real] + 1)
    expected = [np.arange(begin + 1, stop) for begin, stop in first.items()]
    assert np.array_equal(targets, np.concatenate(expected))
    starts = ids[real][positions[real] == 0]
    own = np.searchsorted([*first], starts, side="right") - 1
    begins = np.array([*first])[own]
    # a piece begins where its document does, or whole windows after that
    assert np.all((starts - begins) % context == 0)
    # and goes on token by token
    inside = real & (positions > 0)
    assert np.array_equal(ids[inside], np.roll(ids, 1, axis=1)[inside] + 1)
    assert np.array_equal(positions[inside], np.roll(positions, 1, axis=1)[inside] + 1)
    assert not positions[~real].any()
    assert windows.targets(visits(windows, seed, batch, count)) == len(targets)


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(2, 33), min_size=1, max_size=60))
def test_what_fits_is_not_cut_and_windows_are_few(lengths: list[int]) -> None:
    text = documents(lengths)
    assert text.documents is not None
    packing = Packing([text.documents], 32)
    assert np.array_equal(np.sort(packing.lengths), np.sort(np.array(lengths) - 1))
    # no two windows that would go into one: so they are less than twice the fewest
    fill = np.sort(np.add.reduceat(packing.lengths, packing.first[:-1]))
    assert len(fill) == 1 or fill[0] + fill[1] > 32


def test_a_document_is_read_from_where_a_sample_begins() -> None:
    ids, starts = np.array([5, 6, END, 7, 8, END, END]), np.array([0, 3, 6])
    # from the end of the one before, if nothing of its own begins it
    assert borders(ids, starts, END).tolist() == [[0, 3], [2, 6], [5, 7]]
    assert borders(ids, starts, None).tolist() == [[0, 3], [3, 6], [6, 7]]


@settings(deadline=None, max_examples=60)
@given(given_weights=weights, step=st.integers(0, 10**7))
def test_shares_of_parts_are_exact(given_weights: list[float], step: int) -> None:
    whole = whole_numbers(given_weights)
    ratios = {round(a / b, 9) for a, b in zip(whole, given_weights, strict=True)}
    assert max(ratios) == pytest.approx(min(ratios))
    if sum(whole) > 500:
        whole = tuple(round(weight) for weight in given_weights if round(weight)) or (1,)
    period = sum(whole)
    turns = [turn(step * period + visit, whole) for visit in range(period)]
    for part, weight in enumerate(whole):
        own = [nth for one, nth in turns if one == part]
        assert own == list(range(step * weight, (step + 1) * weight))


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.lists(st.integers(2, 60), min_size=8, max_size=20), min_size=2, max_size=3),
    packed=st.booleans(),
    given_weights=weights,
    seed=seeds,
)
def test_each_part_has_epochs_of_its_own(
    lengths: list[list[int]], packed: bool, given_weights: list[float], seed: int
) -> None:
    text = documents([length for part in lengths for length in part])
    parts = tuple((f"part {i}", sum(part)) for i, part in enumerate(lengths))
    text = Text(text.ids, documents=text.documents if packed else None, parts=parts)
    chosen = [round(weight) or 1 for weight in [*given_weights, 1.0, 1.0][: len(parts)]]
    windows = Windows(text, 8, chosen)
    numbers = visits(windows, seed, 7, 400)
    stops = np.cumsum([tokens for _, tokens in parts])
    part = np.searchsorted(stops, windows.places(numbers).ids[:, 0], side="right")
    counts = np.bincount(part, minlength=len(parts))
    assert np.abs(counts - 400 * np.array(chosen) / sum(chosen)).max() <= len(parts)
    for i, span in enumerate(windows.spans):
        own = numbers[part == i]
        for first in range(0, len(own) - span.windows + 1, span.windows):
            assert len({*own[first : first + span.windows].tolist()}) == span.windows
        assert windows.epochs(400)[i] == pytest.approx(counts[i] / span.windows)


def test_a_part_too_short_is_named() -> None:
    parts = (("plays", 90), ("notes", 10))
    with pytest.raises(UserError, match=r"split of notes has 10 tokens, too few .*context 16"):
        Windows(Text(np.arange(100), parts=parts), 16, [1, 1])


def test_a_target_counts_as_its_mask_says() -> None:
    counted = np.array([0, 0, 1, 1, 0, 1, 0, 1], np.uint8)
    text = Text(np.arange(8), counted, np.array([[0, 4], [4, 8]]))
    windows = Windows(text, 8)
    batch = gather(text, windows.places(np.array([0])))
    assert batch.targets[0, :6].tolist() == [1, 2, 3, 5, 6, 7]
    assert batch.counted is not None
    assert batch.counted.tolist() == [[False, True, True, True, False, True, False, False]]
    assert windows.targets(np.array([0, 0])) == 8
    assert Places(np.array([[0, 4]])).counted(counted).tolist() == [[False, True]]  # type: ignore[union-attr]


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 12), ranks=st.integers(1, 5), step=st.integers(0, 10**6), seed=seeds)
def test_the_shares_of_all_processes_are_the_batch(
    batch: int, ranks: int, step: int, seed: int
) -> None:
    windows = Windows(running(300), 7)
    numbers = windows.of_step(seed, step, batch)
    shares = [windows.share(seed, step, batch, rank, ranks) for rank in range(ranks)]
    ids = [share.batch.part(slice(share.size)).ids[:, 0] for share in shares]
    assert np.concatenate(ids).tolist() == numbers.tolist()
    assert {share.counted for share in shares} == {7 * batch}
    assert all(len(share.batch.ids) == max(1, share.size) for share in shares)


@pytest.mark.parametrize("packed", [False, True])
def test_one_copy_brings_a_whole_batch(packed: bool) -> None:
    text = documents([5, 9, 4]) if packed else running(30)
    text = Text(text.ids + 2**17, np.arange(len(text.ids)) % 3 == 0, text.documents)
    windows = Windows(text, 6)
    batch = windows.share(1, 0, 2, 0, 1).batch
    moved = in_one_copy(batch, torch.device("cpu"), pin=False)  # pinned memory needs a GPU
    for there, here in zip(moved, batch, strict=True):
        assert (there is None) == (here is None)
        if there is not None and here is not None:
            assert there.dtype == here.dtype
            assert torch.equal(there, here)
            assert there.is_contiguous()
