"""What MLflow is to be told arrives, once, whatever its server does; it is a real one."""

import logging
import os
import sys
import time
from pathlib import Path

import pytest

from nanogpt.formats.weights import weights_sha256
from nanogpt.tracking import outbox
from nanogpt.tracking.run import Training
from tests.kit.front import Front
from tests.kit.recipes import Recipe, texts
from tests.kit.trainings import (
    SAMPLES,
    TIMEOUT,
    begin,
    check_everything,
    client,
    everything,
    finish,
    identity,
    logged,
    runs,
    save,
    waiting,
)


def test_nothing_waits_where_the_server_works(front: Front, root: Path, model: Path) -> None:
    assert everything(root, model) == "the first champion: 2.0000 bits per byte"
    assert waiting() == []
    check_everything(model)


@pytest.mark.parametrize("fault", ["refuse", "error", "hang"])
def test_what_the_server_did_not_take_arrives_when_it_is_back(
    front: Front,
    root: Path,
    model: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv(TIMEOUT, "1" if fault == "hang" else "60")
    front.fail(fault)
    assert everything(root, model).startswith("not decided: MLflow does not have the scores")
    assert waiting() == ["evaluation", "sample", "training"]
    warnings = [
        record.getMessage() for record in caplog.records if not record.name.endswith("lineage")
    ]  # which misses a commit
    assert len(warnings) == 4, warnings  # while it trains, at its end, `eval`, `sample`
    assert "`nanogpt sync`" in warnings[-1]
    assert outbox.send_all() == os.EX_TEMPFAIL
    assert capsys.readouterr().out.count("waits: ") == 3

    front.mend()
    monkeypatch.setenv(TIMEOUT, "60")
    assert outbox.send_all() == 0
    assert capsys.readouterr().out.splitlines() == [
        "training plays: FINISHED, registered as version 1",
        f"scores of {weights_sha256(model)[:12]}: the first champion: 2.0000 bits per byte",
        f"samples.md of {weights_sha256(model)[:12]}: it is with its run",
    ]
    check_everything(model)
    assert outbox.send_all() == 0
    assert capsys.readouterr().out == ""


def test_training_does_not_wait_for_an_answer(front: Front, root: Path) -> None:
    front.fail("hang")
    run = begin(root / "state", 400, saved=4)
    for step in range(8, 401, 4):
        save(root / "state", step)
    assert (root / "state" / "journal.jsonl").read_text().count("\n") == 400
    assert not run.stop(0)
    assert front.answered == 0


@pytest.mark.slow
def test_cut_off_at_any_request_nothing_arrives_twice(
    front: Front, root: Path, model: Path
) -> None:
    front.fail("refuse")
    everything(root, model)
    front.mend()
    passed = 0
    while waiting():
        front.fail("drop", after=passed)
        list(outbox.deliver(60))
        front.mend()
        passed += 1 if passed < 14 else 3  # from here on mostly files of one upload
    check_everything(model)


def test_the_next_stage_sends_what_waits(front: Front, root: Path, model: Path) -> None:
    front.fail("refuse")
    everything(root, model)
    front.mend()
    (root / "samples.md").write_text("# Others\n", encoding="utf-8")
    outbox.sampled(identity(model), root / "samples.md", SAMPLES)
    assert waiting() == []
    check_everything(model)


def test_times_are_those_of_the_training(front: Front, root: Path) -> None:
    started = time.time() * 1000
    front.fail("refuse")
    finish(begin(root / "state", 8, saved=8))
    ended = time.time() * 1000
    front.mend()
    assert outbox.send_all() == 0
    info = runs()[0].info
    assert started - 1 <= info.start_time <= info.end_time <= ended


def test_a_stopped_training_that_goes_on_takes_back_what_waits(front: Front, root: Path) -> None:
    front.fail("refuse")
    assert not finish(begin(root / "state", 8, saved=4), "KILLED")
    assert waiting() == ["training"]
    front.mend()
    run = begin(root / "state", 12, saved=12)
    assert waiting() == []
    assert finish(run)
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert logged(stored.info.run_id) == list(range(1, 13))


def test_only_what_a_save_covers_leaves_a_stopped_training(front: Front, root: Path) -> None:
    front.fail("refuse")
    finish(begin(root / "state", 8, saved=4), "KILLED")
    front.mend()
    assert outbox.send_all() == 0
    (stored,) = runs()
    assert stored.info.status == "KILLED"
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_what_is_for_one_server_is_not_sent_to_another(
    front: Front, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = front.uri.replace("//", "//me:password@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    front.fail("refuse")
    finish(begin(root / "state", 8))
    front.mend()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert outbox.send_all() == outbox.REFUSED
    assert capsys.readouterr().out == (
        f"training plays: refused: it is for {front.uri}; set MLFLOW_TRACKING_URI to that\n"
    )
    assert not any(b"password" in file.read_bytes() for file in root.rglob("*") if file.is_file())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    assert outbox.send_all() == 0


def test_scores_wait_for_the_training_that_made_the_weights(
    front: Front, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not this one")

    front.fail("refuse")
    everything(root, model)
    front.mend()
    with monkeypatch.context() as patch:
        patch.setattr(Training, "open", refuse)
        assert outbox.send_all() == outbox.REFUSED
    assert waiting() == ["evaluation", "sample", "training"]
    assert outbox.send_all() == 0
    check_everything(model)


def stage(recipe: Recipe, uri: str, command: list[str], code: int = 0) -> str:
    """Run a command in a recipe's folder, with the tracking server there; what it printed."""
    process = recipe.start(["env", f"MLFLOW_TRACKING_URI={uri}", *command])
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    assert "Traceback" not in printed, printed
    return printed


@pytest.mark.slow
def test_stages_go_on_while_the_server_dies_and_comes_back(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = [sys.executable, "-m", "nanogpt.commands", "sync"]
    recipe = Recipe(
        tmp_path / "recipe",
        download__corpus="text/*.txt",
        train__steps=60,
        train__decay_steps=30,
    )
    texts(recipe.folder / "text")
    recipe.run("download")
    recipe.run("tokenize")

    front.fail("refuse")  # down from the start
    printed = stage(recipe, front.uri, recipe.command("train"))
    assert "MLflow does not answer, so training test waits" in printed
    assert "training test: " in stage(recipe, front.uri, sync, code=os.EX_TEMPFAIL)
    front.mend()

    recipe.change(download__corpus="text/*.txt", seed=2, train__steps=60, train__decay_steps=30)
    front.fail("hang", after=25)  # it dies in the middle of the second training
    monkeypatch.setenv(TIMEOUT, "2")
    assert "`nanogpt sync`" in stage(recipe, front.uri, recipe.command("train"))
    front.mend()
    monkeypatch.setenv(TIMEOUT, "60")

    assert "eval: the first champion" in stage(recipe, front.uri, recipe.command("eval"))
    assert stage(recipe, front.uri, sync) == ""
    for run in runs():
        assert run.info.status == "FINISHED"
        assert logged(run.info.run_id) == list(range(1, 61))
    assert len(runs()) == 2
    versions = client().search_model_versions("name = 'nanogpt-test'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
