"""Where documents go: by their text alone, in the shares that were asked for, copies left out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.text.tokens import SPLITS
from nanogpt.text.writing import first, near
from nanogpt.text.writing.first import Facts
from nanogpt.text.writing.splits import CUT, LEFT_OUT, MANY, Where, cut, decide
from tests.text.test_documents import settings

texts = st.lists(st.text("ab\n", min_size=1, max_size=6), min_size=1, max_size=60)
seeds = st.integers(0, 2**32 - 1)


def facts(documents: list[str]) -> Facts:
    """What the first reading finds of them."""
    data = [document.encode() for document in documents]
    digests = b"".join(map(first.digest, data))
    return Facts(
        goes_on=np.zeros(len(data), np.bool_),
        blank=np.array([document.isspace() for document in documents], np.bool_),
        bad=np.zeros(len(data), np.bool_),
        characters=np.array([*map(len, documents)], np.int64),
        bytes=np.array([*map(len, data)], np.int64),
        digests=np.frombuffer(digests, "<u8").reshape(-1, 2),
        signatures=np.empty((len(data), 0), np.uint32),
    )


def by_text(documents: list[str], where: Where) -> dict[str, int]:
    pairs = zip(documents, where.labels.tolist(), strict=True)
    return {document: label for document, label in pairs if label != LEFT_OUT}


def numbered(count: int) -> list[str]:
    return [f"document {i}" * (1 + i % 7) for i in range(count)]


def shares(sizes: NDArray[np.int64], where: Where) -> list[float]:
    has = np.bincount(where.labels, sizes, minlength=3)
    for document, ends in where.cuts.items():
        has[CUT] -= sizes[document]
        has[:3] += np.diff((0, *ends)) * sizes[document] / ends[-1]
    return list(has[:3] / has.sum())


@given(st.integers(10, 3_000_000))
def test_the_cut_is_nanogpts(length: int) -> None:
    ends = cut(length, settings(val=0.1, test=0.0))
    assert ends == (int(length * 0.9), length)


@settings_of(max_examples=10, deadline=None)
@given(st.integers(MANY, 1500), st.integers(1, 500), seeds)
def test_documents_stay_where_they_are_when_the_corpus_grows(
    count: int, more: int, seed: int
) -> None:
    these = settings(seed=seed)
    before = by_text(numbered(count), decide([facts(numbered(count))], these, [True]))
    grown = [f"new {i}" for i in range(more)] + numbered(count)[::-1]
    after = by_text(grown, decide([facts(grown)], these, [True]))
    assert {document: after[document] for document in before} == before


@settings_of(max_examples=50, deadline=None)
@given(texts, texts, seeds)
def test_no_text_is_there_twice(one: list[str], two: list[str], seed: int) -> None:
    these = settings(seed=seed, val=0.3, test=0.3)
    two += ["enough " * 9]  # to divide
    one += ["of it " * 9]
    where = decide([facts(part) for part in (one, two)], these, [True, True])
    kept = [
        document
        for document, label in zip(one + two, where.labels, strict=True)
        if label != LEFT_OUT
    ]
    assert sorted(kept) == sorted({document for document in one + two if not document.isspace()})
    assert where.copies == sum(not document.isspace() for document in one + two) - len(kept)
    everything = [*dict.fromkeys(document for document in one + two if not document.isspace())]
    assert kept == everything  # of copies the first


@settings_of(max_examples=50, deadline=None)
@given(st.lists(st.integers(20, 4000), min_size=1, max_size=200), seeds)
def test_the_shares_are_about_what_was_asked_for(sizes: list[int], seed: int) -> None:
    documents = [f"{i:04}" * (size // 4) for i, size in enumerate(sizes)]
    found = facts(documents)
    where = decide([found], settings(val=0.1, test=0.1, seed=seed), [True])
    has = shares(found.bytes, where)
    assert min(has) > 0
    if len(documents) <= 50:
        assert all(0.05 <= share <= 0.2 for share in has[1:])
    else:  # no nearer than half of the longest document
        assert abs(has[1] - 0.1) <= found.bytes.max() / found.bytes.sum()


def test_three_files_of_very_different_length() -> None:
    found = facts(["abc " * 250_000, "x" * 1000, "y" * 1000])
    where = decide([found], settings(val=0.025, test=0.05), [True])
    assert where.labels.tolist() == [CUT, 0, 0]
    assert shares(found.bytes, where) == pytest.approx([0.925, 0.025, 0.05], rel=0.01)


def test_many_documents_go_where_their_own_hash_says() -> None:
    found = facts(numbered(20_000))
    for seed in range(3):
        where = decide([found], settings(val=0.05, test=0.1, seed=seed), [True])
        assert np.bincount(where.labels) / 20_000 == pytest.approx([0.85, 0.05, 0.1], rel=0.1)


def test_one_part_of_a_mixture_is_one_document() -> None:
    where = decide([facts(["long " * 1000]), facts(numbered(100))], settings(), [True, True])
    assert where.labels[0] == CUT
    assert set(where.labels[1:]) == set(range(len(SPLITS)))


WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "it", "looks"]


def edited(number: int, last: str) -> str:
    """One of many documents that have nothing in common, with another last word."""
    return " ".join(f"{word}{number}" for word in WORDS * 3) + f" {last}"


@pytest.mark.parametrize("what", ["count", "drop"])
def test_near_copies(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [edited(i, last) for last in ("one", "two") for i in range(150)]
    found = replace(
        facts(documents), signatures=np.array([near.signature(one) for one in documents])
    )
    these = settings().model_copy(update={"near_duplicates": what})
    where = decide([found], these, [True])
    split = where.labels.reshape(2, 150)
    held_out = np.isin(split, (1, 2))
    if what == "drop":  # of no document that is held out is there a near copy to train on
        assert not ((split[0] == 0) & held_out[1]).any()
        assert not ((split[1] == 0) & held_out[0]).any()
        assert ((split[0] == 0) | held_out.any(axis=0)).all()
        assert not ((split[0] == 0) & (split[1] == 0)).any()
    else:
        assert LEFT_OUT not in split
    assert where.near is not None
    assert where.near >= 148  # one word of 37 differs: of a pair the second is found
    assert (
        "are almost another one (75% of their words in fives, or more)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "documents", [["Anna", "Boris", "Chloé"], ["!!!", "😀😀", "😀"], ["二", "三", "四"]]
)
def test_documents_of_one_word_each_are_no_copies(documents: list[str]) -> None:
    """As of a file with a name in each line."""
    seen = near.Seen()
    for document in documents:
        assert not seen.has(near.signature(document))
        seen.add(near.signature(document))
    assert all(seen.has(near.signature(document)) for document in documents)


def test_near_copies_of_held_out_documents_alone_leave_nothing_to_train_on() -> None:
    documents = [edited(0, str(i)) for i in range(10)]
    signatures = np.array([near.signature(one) for one in documents])
    these = settings().model_copy(update={"near_duplicates": "drop"})
    with pytest.raises(UserError, match="leaves nothing to train on"):
        decide([replace(facts(documents), signatures=signatures)], these, [True])


def test_more_documents_than_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MOST", 10)
    these = settings().model_copy(update={"near_duplicates": "count"})
    with pytest.raises(UserError, match="11 documents need about 0 GB of memory"):
        decide([facts(numbered(11))], these, [True])
