"""The journal: every logged step once, whatever is killed."""

import json
import math
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.training.journal import Journal, read, write_curves
from tests.kit.trainings import metrics, train


def curves(folder: Path) -> list[bytes]:
    write_curves(read(folder / "journal.jsonl"), folder)
    return [(folder / name).read_bytes() for name in ("train.csv", "val.csv")]


@given(kill=st.floats(0, 1), state=st.booleans())
def test_a_kill_at_any_byte_loses_and_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory, kill: float, state: bool
) -> None:
    whole = tmp_path_factory.mktemp("whole")
    train(whole, Journal(whole / "journal.jsonl", None), 1, 12)

    folder = tmp_path_factory.mktemp("killed")
    path = folder / "journal.jsonl"
    journal = Journal(path, None)
    train(folder, journal, 1, 4)
    durable = path.stat().st_size
    train(folder, journal, 5, 8)
    if not state:  # the second append, any part of it, happened; the save of the state did not
        os.truncate(path, durable + round(kill * (path.stat().st_size - durable)))
    saved = 8 if state else 4
    journal = Journal(path, saved)
    assert [row.step for row in read(path)] == list(range(1, saved + 1))
    train(folder, journal, saved + 1, 12)
    assert [row.step for row in read(path)] == list(range(1, 13))
    assert curves(folder) == curves(whole)


def test_curves_hold_what_never_varies(tmp_path: Path) -> None:
    train(tmp_path, Journal(tmp_path / "journal.jsonl", None), 1, 4)
    first, second = curves(tmp_path)
    assert first.decode().splitlines()[:2] == [
        "step,train_loss,learning_rate,grad_norm",
        "1,4,0.01,1",
    ]
    assert second == b"step,val_loss,val_bits_per_byte\n4,1.25,0.625\n"


def test_a_training_without_a_save_starts_an_empty_journal(tmp_path: Path) -> None:
    train(tmp_path, Journal(tmp_path / "journal.jsonl", None), 1, 4)
    Journal(tmp_path / "journal.jsonl", None)
    assert read(tmp_path / "journal.jsonl") == []


def test_a_saved_training_without_its_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl is missing"):
        Journal(tmp_path / "journal.jsonl", 4)


def test_a_journal_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    train(tmp_path, Journal(path, None), 1, 4)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match="cut off"):
        Journal(path, 4)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, None)
    train(tmp_path, journal, 1, 4)
    before = path.read_bytes()
    journal.record(5, metrics(5))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    journal.save()
    assert [row.step for row in read(path)] == [1, 2, 3, 4, 5]


def test_steps_go_forward(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", None)
    train(tmp_path, journal, 1, 4)
    journal.record(4, {"val_loss": 1.0})  # stopped, saved, and scored when it went on
    assert journal.save() == 5
    with pytest.raises(ValueError, match="step 3"):
        journal.record(3, metrics(3))


def test_what_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", None)
    values = {"train_loss": 2.0, "learning_rate": 0.1, "grad_norm": math.nan, "speed": math.inf}
    journal.record(1, values | {"skipped_steps": 1})
    journal.save()
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert strict["metrics"] == {"train_loss": 2.0, "learning_rate": 0.1, "skipped_steps": 1}
    assert curves(tmp_path)[0] == b"step,train_loss,learning_rate,grad_norm\n1,2,0.1,\n"
