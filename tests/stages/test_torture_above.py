"""`kill` of who waits for a training alone: make or DVC, at every seam up to DVC's lock.

    make torture        # a dozen of them too, some minutes

What runs below notices, saves and ends. The next `dvc repro` comes to the same lock and the same
version, and what was trained to its end is not trained again.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from nanogpt.common.states import FINISHED
from pipelines.run import mend_locks
from tests.kit.checkouts import SCRIPTS, make_checkout, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="takes kill -9")]

OUTERMOST = {
    "make": ["make", "--silent", "run", "--old-file=.venv/ready"],
    "dvc": ["dvc", "repro"],
}
# an instant is when one of these files is there, and some of these seconds later
SEAMS = {
    "training": ("data/test/state/*/save-00000020", 0.0),
    "publication": ("data/test/.nanogpt-*.partial/new-model", 0.0),
    "registration": ("data/.outbox/training-*", 0.5),
    "between the end and the lock": (f"data/test/state/*/{FINISHED}", 2.5),
}
CASES = [(who, seam) for seam in SEAMS for who in OUTERMOST]
PATIENCE = 120


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A checkout of all our code, with tokens to train on."""
    longer = {"train__steps": 60, "train__eval_interval": 10}
    folder = make_checkout(tmp_path_factory.mktemp("above") / "checkout", **longer)
    shutil.copy(empty_database, folder)
    run(folder, "dvc", "repro", "tokenize")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tokenized: Path) -> dict[str, Any]:
    folder = tokenized.with_name("undisturbed")
    shutil.copytree(tokenized, folder, symlinks=True)
    run(folder, "dvc", "repro", "train")
    return left_by(folder)


def left_by(folder: Path) -> dict[str, Any]:
    """What DVC's lock holds of the training, and what MLflow has of it."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    assert experiment
    (ran,) = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions("name = 'nanogpt-test'")
    losses = client.get_metric_history(ran.info.run_id, "train_loss")
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["train"]
    return {
        # sizes are left out: DVC does not know all of them where its run cache had the result
        "lock": {entry["path"]: entry["md5"] for entry in lock["deps"] + lock["outs"]},
        "status": ran.info.status,
        "versions": [version.tags["weights_sha256"] for version in versions],
        "losses": [(point.step, point.value) for point in losses],
    }


def alone(session: int) -> list[psutil.Process]:
    """The processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def stop(folder: Path, who: str, seam: str, number: int, dice: random.Random) -> str:
    """Start, and send a signal to the outermost process alone at this seam; what was said."""
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    pattern, later = SEAMS[seam]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            OUTERMOST[who],
            cwd=folder,
            env=known | {"PATH": f"{SCRIPTS}{os.pathsep}{known['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    while process.poll() is None and not list(folder.glob(pattern)):
        time.sleep(0.002)
    assert process.poll() is None, (folder / "said").read_text()
    time.sleep(dice.random() * later)
    process.send_signal(number)
    code = process.wait(PATIENCE)
    if who == "make" and number == signal.SIGTERM:
        assert code in (-number, 128 + number)
        assert not alone(process.pid), "it waits for the end of what it started"
    end = time.monotonic() + PATIENCE
    while left := alone(process.pid):
        assert time.monotonic() < end, [process.cmdline() for process in left]
        time.sleep(0.1)
    return (folder / "said").read_text()


@pytest.mark.parametrize(
    ("number", "cases"),
    [
        (signal.SIGTERM, [("make", "training"), ("dvc", "between the end and the lock")]),
        pytest.param(signal.SIGTERM, CASES, marks=pytest.mark.torture),
        pytest.param(signal.SIGKILL, CASES, marks=pytest.mark.torture),
        # make waits for the whole run after it; a terminal tells all of them
        pytest.param(signal.SIGHUP, [("dvc", "training")], marks=pytest.mark.torture),
    ],
)
def test_who_waits_for_a_training_may_be_stopped_at_any_seam(
    tokenized: Path,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    number: signal.Signals,
    cases: list[tuple[str, str]],
) -> None:
    seed = int(os.environ.get("NANOGPT_TORTURE_SEED", random.randrange(10**6)))
    print(f"NANOGPT_TORTURE_SEED={seed}")
    dice = random.Random(seed)
    for index, (who, seam) in enumerate(cases):
        folder = tmp_path / str(index)
        shutil.copytree(tokenized, folder, symlinks=True)
        said = stop(folder, who, seam, number, dice)
        assert "Traceback" not in said, said
        if seam == "training":
            assert "which is saved; run the same command to go on" in said, said
        finished = bool(list(folder.glob(SEAMS["between the end and the lock"][0])))
        mend_locks(folder)  # which DVC itself writes in place; `make run` does so first
        printed = run(folder, "dvc", "repro", "train")
        print(f"{number.name} to {who}, {seam}:", "finished" if finished else "not finished")
        assert not finished or " steps of " not in printed, printed
        assert left_by(folder) == undisturbed
        run(folder, "dvc", "repro", "eval")
        assert not list(folder.glob("data/test/state/*"))
        shutil.rmtree(folder)
