# ruff: noqa: RUF001
"""What a corpus is said to be: true for every script, and the same in whatever pieces."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from fontTools.unicodedata import Scripts, script
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.text.checks import scripts
from nanogpt.text.checks.profile import histogram, shortened
from nanogpt.text.checks.survey import Survey, Surveyor

MARK = "\N{BYTE ORDER MARK}"
# pieces that are odd, and such that join to what is odd
SOME = st.lists(
    st.sampled_from(
        ["", " ", "\n", "a", "é", "e\u0301", "Ж", "中", "\r\n", "\ufffd", MARK, "<s>", "👩\u200d🚀"]
    ),
    max_size=12,
).map("".join)


def total(texts: list[str], bounds: list[int]) -> Survey:
    """Of texts whose surveys are added up from some places on, and then these sums."""
    surveyor, found = Surveyor(characters=True, special={"<s>"}), Survey()
    for begin, end in zip([0, *bounds], [*bounds, len(texts)], strict=True):
        task = Survey()
        for i, text in enumerate(texts[begin:end], begin):
            task += surveyor.look(text, "a.txt", i)
        found += task
    return found


def facts(survey: Survey) -> dict[str, object]:
    return vars(survey) | {"scripts": survey.scripts.tolist(), "lines": 0}


@given(st.lists(SOME, max_size=8), st.data())
def test_a_survey_does_not_depend_on_tasks(texts: list[str], data: st.DataObject) -> None:
    some = st.lists(st.integers(0, len(texts)), max_size=4).map(sorted)
    whole, parts = total(texts, []), total(texts, data.draw(some))
    assert facts(whole) == facts(parts)
    assert whole.documents == sum(1 for text in texts if text.strip())
    assert whole.characters == {c for text in texts if text.strip() for c in text}


@given(SOME, st.data())
def test_a_text_in_parts_is_one_text(text: str, data: st.DataObject) -> None:
    # not inside what is odd, as no reader cuts there
    inside = {i for odd in ("<s>", "e\u0301") for i in _inside(text, odd)}
    cuts = [i for i in range(1, len(text)) if i not in inside]
    cut = data.draw(st.sampled_from([len(text), *cuts]))
    surveyor = Surveyor(characters=True, special={"<s>"})
    found = surveyor.look(text[:cut], "a.txt", 7)
    found |= surveyor.look(text[cut:], "a.txt", 7)
    assert facts(found) == facts(surveyor.look(text, "a.txt", 7))


def _inside(text: str, part: str) -> list[int]:
    return [
        i + k for i in range(len(text)) if text.startswith(part, i) for k in range(1, len(part))
    ]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_character_has_one_script(text: str) -> None:
    counts = scripts.count(text)
    assert counts.sum() == len(text)
    names = scripts.by_name(counts)
    assert list(names.values()) == sorted(names.values(), reverse=True)
    assert names == Counter(Scripts.NAMES[script(c)] for c in text)


@pytest.mark.parametrize(
    ("text", "commonest"),
    [
        ("Я помню чудное", "Cyrillic"),
        ("天地玄黃", "Han"),
        ("ひらがな", "Hiragana"),
        ("한국어", "Hangul"),
        ("שלום", "Hebrew"),
        ("مرحبا", "Arabic"),
        ("नमस्ते", "Devanagari"),
        ("Ελληνικά", "Greek"),
        ("𝄞♥👩\u200d🚀 1,2", "Common"),
    ],
)
def test_the_commonest_script_of_a_text(text: str, commonest: str) -> None:
    assert next(iter(scripts.by_name(scripts.count(text)))) == commonest


@pytest.mark.parametrize(
    "text",
    [
        "В чащах юга жил бы цитрус? Да, но фальшивый экземпляр — ёж; «й».",
        "天地玄黃,宇宙洪荒。日月盈昃",
        "مُحَمَّدٌ رَسُولٌ — الشّمس\u200f (2024)",  # shadda before its vowel, as it is typed
        "می\u200cخواهم",
        "बच्चों को क़लम पढ़ना है",
        "क्\u200dष और श्री",
        "בְּרֵאשִׁית בָּרָא",
        "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪",
        "ภาษาไทยไม่มีช่องว่าง",
        "Zu\u00adcker\u00a0und \u202bשלום\u202c",
        "Tiếng Việt có dấu",
        "각하의 한국어",
    ],
)
def test_nothing_odd_is_found_in_ordinary_text(text: str) -> None:
    assert Surveyor(characters=False).look(text, "a.txt", 0).odd == {}


@pytest.mark.parametrize("text", ["Tiếng Việt", "각하의", "Ёжик в тумане й", "ガギグ"])
def test_accents_apart_from_their_letters_are_noted(text: str) -> None:
    apart = unicodedata.normalize("NFD", text)
    assert [*Surveyor(characters=False).look(apart, "a.txt", 0).odd] == ["accents apart"]


@given(st.lists(st.integers(0, 2**40), max_size=30), st.integers(0, 30))
def test_a_histogram_counts_by_powers_of_two(sizes: list[int], cut: int) -> None:
    counts = histogram(sizes)
    assert counts.tolist() == (histogram(sizes[:cut]) + histogram(sizes[cut:])).tolist()
    for i, count in enumerate(counts.tolist()):
        assert count == sum(2**i <= max(1, size) < 2 ** (i + 1) for size in sizes)
    short = shortened(counts)
    assert sum(short) == len(sizes)
    assert not short or short[-1]


def test_a_long_text_is_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Жук, beetle, 甲虫 " * 100
    whole = scripts.count(text)
    monkeypatch.setattr(scripts, "BLOCK", 7)
    np.testing.assert_array_equal(scripts.count(text), whole)


def test_what_could_not_be_read_is_noted_with_the_first_places() -> None:
    surveyor, found = Surveyor(characters=False), Survey()
    for i in range(5):
        found += surveyor.look(None, "a.jsonl", i, fault="broken JSON")
    found += surveyor.look("To be", "a.jsonl", 5, fault="no 'title': made of the other fields")
    assert found.documents == 1
    assert [place.where for place in found.skipped["broken JSON"].places] == [0, 1, 2]
    assert found.skipped["broken JSON"].texts == 5
    assert [*found.odd] == ["no 'title': made of the other fields"]
