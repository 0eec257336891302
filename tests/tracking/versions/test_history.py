"""The history of aliases, against real MLflow databases in temporary folders."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nanogpt.common.errors import UserError
from nanogpt.tracking import describe
from nanogpt.tracking.client import connect
from nanogpt.tracking.versions import history
from nanogpt.tracking.versions.history import Move
from tests.kit.trainings import client

NAME = "nanogpt-plays"


def versions(count: int) -> None:
    """A registered model with as many versions, as somebody else's program makes one."""
    client().create_registered_model(NAME, description="A model.")
    for _ in range(count):
        client().create_model_version(NAME, "file:///elsewhere")


def promote(version: str, why: str = "better") -> Move:
    return history.move(connect(), NAME, "champion", version, why, by="gate")


def champion() -> str:
    return str(client().get_registered_model(NAME).aliases.get("champion", ""))


def known() -> list[tuple[str, str, str]]:
    """From, to and why of each move of the champion."""
    moves = history.moves(connect(), NAME)
    return [(m.before, m.after, m.why) for m in moves if m.alias == "champion"]


def test_each_move_is_kept_with_what_decided_it(root: Path) -> None:
    versions(3)
    evidence = {"new": 2.4, "old": 2.5, "interval": [0.3, 1.2]}
    history.move(connect(), NAME, "champion", "1", "the first", by="gate")
    history.move(connect(), NAME, "candidate", "2", "the newest", by="training")
    told = "0.8 % better\n\tthan \x1b https://me:hunter2@example.org/a.txt"
    history.move(connect(), NAME, "champion", "2", told, evidence, by="gate")
    promote("2")  # it is there
    first, second, third = history.moves(connect(), NAME)
    assert (first.alias, first.before, first.after) == ("champion", "", "1")
    assert (second.alias, second.before, second.after) == ("candidate", "", "2")
    assert (third.before, third.after, third.evidence) == ("1", "2", evidence)
    assert third.why == "0.8 % better than https://example.org/a.txt"
    assert (third.who != "", third.by) == (True, "gate")
    assert first.when < second.when < third.when
    model = client().get_registered_model(NAME)
    assert model.tags == {}  # its page shows them all, at full length
    assert [row.split(" | ")[1:3] for row in describe.rows(model.description)] == [
        ["2", "1"],
        ["1", "none"],
    ]
    assert model.description.startswith("A model.")


def test_a_move_that_was_made_is_so_told_though_its_process_was_killed_right_after(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(2)
    promote("1")
    record = history._record

    def killed(client: MlflowClient, experiment_id: str, move: Move) -> None:
        if move.done:
            raise KeyboardInterrupt
        record(client, experiment_id, move)

    with monkeypatch.context() as patch:
        patch.setattr(history, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            promote("2")
    assert champion() == "2"
    assert history.notice(connect(), NAME) == []
    assert [(move.after, move.done) for move in history.moves(connect(), NAME)] == [
        ("1", True),
        ("2", True),
    ]
    assert "## Champion: version 2" in client().get_registered_model(NAME).description
    promote("1")
    model = client().get_registered_model(NAME).creation_timestamp
    assert history.former(history.moves(connect(), NAME), "champion", model) == ["1", "2", "1"]


def test_more_moves_than_a_page_shows_are_all_kept(root: Path) -> None:
    versions(2)
    for number in range(14):
        promote(str(number % 2 + 1), f"move {number}")
    assert [why for _, _, why in known()] == [f"move {number}" for number in range(14)]
    rows = describe.rows(client().get_registered_model(NAME).description)
    assert len(rows) == describe.MOVES


def test_what_somebody_did_by_hand_is_recorded_and_told_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions(3)
    promote("1")
    client().set_registered_model_alias(NAME, "champion", "3")
    client().set_registered_model_alias(NAME, "prod", "2")
    caplog.set_level(logging.WARNING)
    found = history.notice(connect(), NAME)
    assert [(m.alias, m.before, m.after, m.who) for m in found] == [
        ("champion", "1", "3", ""),
        ("prod", "", "2", ""),
    ]
    assert found[0].why.startswith("set by hand since 20")
    assert "alias champion went from version 1 to version 3 (set by hand since" in caplog.text
    assert len(caplog.records) == 2
    assert "## Champion: version 3" in client().get_registered_model(NAME).description
    assert history.notice(connect(), NAME) == []

    client().delete_registered_model_alias(NAME, "prod")
    client().delete_model_version(NAME, "3")
    gone, removed = history.notice(connect(), NAME)
    assert (gone.alias, gone.before, gone.after) == ("champion", "3", "")
    assert gone.why.startswith("version 3 was deleted since 20")
    assert removed.why.startswith("removed by hand since 20")
    assert "## Champion: none" in client().get_registered_model(NAME).description
    client().set_registered_model_alias(NAME, "champion", "1")
    promote("2")  # notices by itself what was before it
    assert [move[:2] for move in known()] == [
        ("", "1"),
        ("1", "3"),
        ("3", ""),
        ("", "1"),
        ("1", "2"),
    ]


def test_a_model_that_was_deleted_and_made_again_is_another_one(root: Path) -> None:
    versions(1)
    promote("1")
    client().delete_registered_model(NAME)
    (gone,) = history.notice(connect(), NAME)
    assert (gone.before, gone.after) == ("1", "")
    assert gone.why == "nanogpt-plays was deleted, and is not there now"
    assert history.notice(connect(), NAME) == []
    versions(1)
    promote("1", "of the second")
    client().delete_registered_model(NAME)
    versions(1)
    client().set_registered_model_alias(NAME, "champion", "1")  # the same number
    (again,) = history.notice(connect(), NAME)
    assert "was deleted, and made again on 20" in again.why
    moves = history.moves(connect(), NAME)
    assert len(moves) == 4
    model = client().get_registered_model(NAME).creation_timestamp
    assert history.former(moves, "champion", model) == ["1"]


def test_a_registry_from_before_begins_with_what_is_found(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions(2)
    rows = [("2026-01-01 10:00", "2", "1", "better"), ("2026-01-01 09:00", "1", "", "the first")]
    client().update_registered_model(NAME, describe.champions("A model.", rows))
    for alias, version in (("champion", "2"), ("candidate", "1")):
        client().set_registered_model_alias(NAME, alias, version)
    candidate, found = history.notice(connect(), NAME)
    assert (candidate.after, found.after, found.why) == ("1", "2", history.FOUND)
    assert found.evidence == {
        "page": [
            "| 2026-01-01 10:00 | 2 | 1 | better |",
            "| 2026-01-01 09:00 | 1 | none | the first |",
        ]
    }
    assert caplog.text == ""
    assert history.notice(connect(), NAME) == []


def test_a_move_that_was_cut_off_is_none_of_a_persons(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(2)
    promote("1")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote("2", "cut off")
    assert history.notice(connect(), NAME) == []
    promote("2", "again")
    assert [move.done for move in history.moves(connect(), NAME)] == [True, False, True]
    assert history.former(history.moves(connect(), NAME), "champion", model()) == ["1", "2"]


def model() -> int:
    return int(client().get_registered_model(NAME).creation_timestamp)


def test_a_clock_that_is_behind_changes_no_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(2)
    place = client().create_experiment("plays")
    ahead = Move("2999-01-01T00:00:00.000000Z", NAME, "champion", "", "1", "x", model=model())
    client().set_experiment_tag(place, ahead.tag, json.dumps(ahead.__dict__))
    client().set_registered_model_alias(NAME, "champion", "1")
    promote("2")
    assert [move[1] for move in known()] == ["1", "2"]


def test_two_writers_at_once_lose_nothing(root: Path) -> None:
    versions(9)
    promote("9")
    connect()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, map(str, range(1, 9))))
    assert {after for _, after, _ in known()} >= set(map(str, range(1, 10)))
    for move in history.notice(connect(), NAME):
        assert move.why == "two moves at once, of which this one came last"
    assert history.moves(connect(), NAME)[-1].after == champion()


def test_going_back_twice_goes_two_champions_back() -> None:
    def moved(before: str, after: str, by: str = "gate") -> Move:
        return Move("", NAME, "champion", before, after, "", by=by, model=1)

    moves = [moved("", "1"), moved("1", "2"), moved("2", "3")]
    assert history.former(moves, "champion", 1) == ["1", "2", "3"]
    moves += [moved("3", "2", "rollback")]
    assert history.former(moves, "champion", 1) == ["1", "2"]
    assert history.taken_back(moves, "champion", "3", 1) == moves[-1]
    assert history.taken_back(moves, "champion", "1", 1) is None  # by the gate
    moves += [moved("2", "1", "rollback")]
    assert history.former(moves, "champion", 1) == ["1"]
    moves += [moved("1", "3", "promote")]
    assert history.former(moves, "champion", 1) == ["1", "3"]
    assert history.taken_back(moves, "champion", "3", 1) is None
    assert history.taken_back(moves, "champion", "2", 1) is not None
    assert history.former(moves, "champion", 2) == []


def test_a_tag_that_is_no_move_is_named(root: Path) -> None:
    versions(1)
    place = client().create_experiment("plays")
    client().set_experiment_tag(place, f"{history.TAG}2026", "{}")
    with pytest.raises(UserError, match=r"the tag mlflow\.nanogpt\.move\.2026 of its"):
        history.moves(connect(), NAME)
