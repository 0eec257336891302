"""What a recipe expects of its text: kept in silence, or refused with every figure."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nanogpt.common.errors import UserError
from nanogpt.settings import Expect
from nanogpt.text.checks.contract import check
from nanogpt.text.writer import tokenize
from tests.text.test_documents import make_raw, settings

MIXED = {"Latin": 900, "Cyrillic": 100, "Common": 5000}
KEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"documents": 0, "bytes": 0, "tokens": 0, "scripts": {}}),
    ({"min_documents": 3}, {"documents": 3}),
    ({"min_tokens": 3}, {"documents": 1}),  # not known yet
    ({"max_duplicate_share": 0.5}, {"duplicate_share": 0.5}),
    ({"max_duplicate_share": 0.0}, {"duplicate_share": 0.0}),
    ({"scripts": ["Latin"], "max_other_scripts": 0.1}, {"scripts": MIXED}),
    ({"scripts": ["Latin", "Cyrillic"]}, {"scripts": MIXED}),
    ({"scripts": ["Latin"]}, {"scripts": {"Latin": 1, "Common": 9, "Inherited": 9}}),
]
BROKEN: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (
        {"min_documents": 1000, "min_bytes": 9},
        {"documents": 38, "bytes": 8},
        [
            "min_documents: at least 1,000 expected, 38 found",
            "min_bytes: at least 9 expected, 8 found",
        ],
    ),
    (
        {"max_duplicate_share": 0.1, "min_documents": 1},
        {"documents": 3, "duplicate_share": 1 / 3},
        ["max_duplicate_share: at most 10% expected, 33.3% found"],
    ),
    (
        {"min_bytes_per_token": 2.0, "max_unknown_share": 0.0},
        {"bytes_per_token": 1.5, "unknown_share": 1e-6},
        [
            "max_unknown_share: at most 0% expected, 0.0001% found",
            "min_bytes_per_token: at least 2.000 expected, 1.500 found",
        ],
    ),
    (
        {"scripts": ["Latin"], "max_other_scripts": 0.05},
        {"scripts": MIXED},
        [
            "scripts: Latin expected, and at most 5% of the letters of others; found Latin 90%,"
            " Cyrillic 10%"
        ],
    ),
    ({"scripts": ["Han"]}, {"scripts": {"Common": 9}}, ["of others; found no letters"]),
]


@pytest.mark.parametrize(("expect", "found"), KEPT)
def test_what_is_as_expected_passes(expect: dict[str, Any], found: dict[str, Any]) -> None:
    check(None, **found)
    check(Expect.model_validate(expect), **found)


@pytest.mark.parametrize(("expect", "found", "says"), BROKEN)
def test_what_is_not_is_refused_with_figures(
    expect: dict[str, Any], found: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        check(Expect.model_validate(expect), **found)
    _, *lines, _ = str(refused.value).splitlines()
    assert len(lines) == len(says)
    for line, said in zip(lines, says, strict=True):
        assert said in line


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"scripts": ["Latn"]}, "did you mean Latin?"),
        ({"scripts": ["Chinese"]}, "'Chinese' is no script of Unicode, such as Latin, Cyrillic"),
        ({"scripts": ["Common"]}, "'Common' is no script of Unicode"),
        ({"max_other_scripts": 0.1}, "other than which? name scripts"),
        ({"min_token": 1}, "min_token"),
    ],
)
def test_what_cannot_be_expected_is_refused(expect: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("?", r"\?")):
        Expect.model_validate(expect)


def test_documents_that_are_dropped_do_not_count(tmp_path: Path) -> None:
    same = "The same text, but for its last word: " * 9
    others = {f"{name}.txt": f"{name} has a text of its own " * 9 for name in "abcd"}
    raw = make_raw(tmp_path / "raw", others | {f"{i}.txt": f"{same}{i}" for i in range(5)})
    asked = {"expect": Expect(min_documents=9), "near_duplicates": "drop"}
    with pytest.raises(UserError, match="min_documents: at least 9 expected, 5 found"):
        tokenize(raw, tmp_path / "tokens", settings().model_copy(update=asked))


def test_a_stage_fails_before_its_long_work_where_it_can(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", {f"{i}.txt": f"Text {i % 8}, \ufffd. " * 9 for i in range(10)})
    asked = {"min_documents": 9, "min_bytes": 10**4, "max_duplicate_share": 0.1}
    early = asked | {"scripts": ["Greek"], "max_unknown_share": 0.01, "min_tokens": 10**6}
    expected = settings().model_copy(update={"expect": Expect.model_validate(early)})
    with pytest.raises(UserError) as refused:
        tokenize(raw, tmp_path / "tokens", expected)
    said = str(refused.value)
    for key in (*asked, "scripts", "max_unknown_share"):
        assert f"\n  {key}: " in said
    assert "20% found" in said
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}
    late = Expect.model_validate({"min_tokens": 10**6, "min_bytes_per_token": 1.5})
    with pytest.raises(UserError, match="min_tokens: at least 1,000,000 expected, 800 found"):
        tokenize(raw, tmp_path / "tokens", settings().model_copy(update={"expect": late}))
    assert not (tmp_path / "tokens").exists()
    tokenize(raw, tmp_path / "tokens", settings())
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "tokens"}
