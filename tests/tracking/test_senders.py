"""What waits for MLflow, and several who send it."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanogpt.common.errors import UserError
from nanogpt.tracking import entries, location, outbox
from nanogpt.tracking.versions import registry
from tests.kit.front import Front
from tests.kit.recipes import contents
from tests.kit.trainings import (
    SAMPLES,
    SCORES,
    begin,
    check_everything,
    client,
    everything,
    identity,
    make_model,
    registration,
    runs,
    scored,
    trial,
    waiting,
)


def test_a_model_that_waits_takes_no_room_of_its_own(root: Path, model: Path) -> None:
    entry = wait_for_mlflow(root, model)
    for file in model.iterdir():
        assert (entry / "model" / file.name).samefile(file)
    before = contents(model)
    shutil.rmtree(model)  # as DVC does before the stage runs again
    make_model(model, 2)
    assert contents(entry / "model") == before


def test_where_a_file_cannot_have_two_names_it_is_copied(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    entry = wait_for_mlflow(root, model)
    assert contents(entry / "model") == contents(model)
    assert not (entry / "model" / "config.json").samefile(model / "config.json")


def wait_for_mlflow(root: Path, model: Path) -> Path:
    """End a training while there is no MLflow; returns what waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "connect", lambda: 1 / 0)
        outbox.end(begin(root / "state", 8), "FINISHED", model, registration(model, 2.0))
    (entry,) = location.outbox().glob("training-*")
    return entry


def test_of_two_senders_one_sends(front: Front, root: Path, model: Path) -> None:
    front.fail("refuse")
    everything(root, model)
    front.mend()
    first = outbox.deliver(60)
    assert next(first).says == "FINISHED, registered as version 1"  # it is in the middle
    with ThreadPoolExecutor(1) as other:  # a lock is a thread's
        waits = other.submit(lambda: list(outbox.deliver(60)))
        assert [result.done for result in first] == [True, True]
        assert waits.result() == []  # it waited, and found nothing to send
    check_everything(model)


def test_a_sender_does_not_wait_for_ever_for_another(
    front: Front, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LOCK_SECONDS", 0)
    front.fail("refuse")
    everything(root, model)
    front.mend()
    first = outbox.deliver(60)
    next(first)
    (root / "samples.md").write_text("# Others\n", encoding="utf-8")
    with ThreadPoolExecutor(1) as other:
        results = other.submit(lambda: list(outbox.deliver(60))).result()
        assert [result.says for result in results] == ["another process is sending"] * 2
        other.submit(outbox.sampled, identity(model), root / "samples.md", SAMPLES).result()
        told = other.submit(
            outbox.evaluated, identity(model), SCORES, scored("text"), trial(2.0)
        ).result()
    assert told.startswith("not decided: MLflow does not have the scores (another process is send")
    assert waiting() == ["evaluation", "sample"]
    assert [result.done for result in first] == [True, True]
    check_everything(model)


def test_what_another_process_has_just_sent_is_no_error(root: Path) -> None:
    (location.outbox() / "sample-0123").mkdir(parents=True)  # listed, and gone when it is read
    assert waiting() == ["sample"]
    assert outbox.send_all() == 0


def test_what_is_told_anew_while_it_is_sent_is_sent_as_well(
    front: Front, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(client: Any, run: object, **values: Any) -> None:
        record_samples(client, run, **values)
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "deliver", lambda _: iter(()))  # it is another process
            outbox.sampled(identity(model), root / "samples.md", SAMPLES)
        monkeypatch.setattr(registry, "record_samples", record_samples)

    everything(root, model)
    record_samples = registry.record_samples
    monkeypatch.setattr(registry, "record_samples", record)
    front.fail("refuse")
    outbox.sampled(identity(model), root / "samples.md", SAMPLES)
    front.mend()
    (root / "samples.md").write_text("# Newer\n", encoding="utf-8")
    assert outbox.send_all() == 0
    assert waiting() == []
    path = client().download_artifacts(runs()[0].info.run_id, "samples.md")
    assert Path(path).read_text() == "# Newer\n"


def test_what_is_for_one_database_is_not_sent_to_another(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_mlflow(root, model)
    shutil.copy(root / "mlflow.db", root / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    told = "not decided: .* does not have its training: it is for sqlite:///mlflow.db; set MLFLOW_"
    with pytest.raises(UserError, match=told):  # the model was trained there
        outbox.evaluated(identity(model), SCORES, scored("text"), trial(2.0))
    assert runs() == []
    capsys.readouterr()
    assert outbox.send_all() == outbox.REFUSED
    assert capsys.readouterr().out.count("refused: ") == 2
    (location.outbox() / "note").touch()
    moved = root.rename(root.with_name("moved"))  # the entries go with their database
    monkeypatch.chdir(moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    list(outbox.deliver(60))
    assert waiting() == ["evaluation"]  # that one is for the other
    assert len(runs()) == 1


def test_a_damaged_entry_is_refused_by_name(root: Path, model: Path) -> None:
    with entries.new("sample-plays-0.0", "samples.md") as entry:
        (entry / "values.json").write_text("{")
    with entries.new("training-0.0", "a training of older code") as entry:
        (entry / "run.json").write_text('{"dataset": {}}')
    told = {"identity": asdict(identity(model)), "metrics": SCORES, "dataset": scored("text")}
    with entries.new("evaluation-plays-0.0", "scores") as entry:
        (entry / "values.json").write_text(json.dumps(told))
        trial(2.0).save(entry)
        (entry / "scores.npz").write_bytes(b"")  # a disk was full, or the power went
    names = ["training-0.0", "evaluation-plays-0.0", "sample-plays-0.0"]
    for result, name in zip(outbox.deliver(60), names, strict=True):
        assert result.refused
        assert f"{name} is damaged, or of another version of this code" in result.says


def test_an_end_that_cannot_be_told_does_not_hide_what_ended_it(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(root / "state", 8, saved=4)
    (root / "state" / "save-00000004" / "progress.json").unlink()
    outbox.end(run, "FAILED")
    assert "MLflow is not told that training plays is FAILED: " in caplog.text
    assert waiting() == []
