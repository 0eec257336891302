"""Trainings in processes of their own: the peak of their memory, beside what was estimated.

python -m tests.kit.measured '{"float32": {"shape": {"n_layer": 2}, "machine__dtype": "float32"}}'

The disk is slow: the copies that a save makes live until the first step is done.
"""

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from nanogpt import optim
from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text, Windows
from nanogpt.common.memory import return_freed_memory
from nanogpt.machine.distributed import join
from nanogpt.model import GPT
from nanogpt.settings import Lora, Settings
from nanogpt.sizing import memory
from nanogpt.trainer import Hooks, Progress, Trainer
from nanogpt.training import lora
from nanogpt.training.checkpoint import Saves
from tests.kit.recipes import quick

SHAPE = {
    "architecture": "llama",
    "vocab_size": 8192,
    "context": 256,
    "n_layer": 8,
    "n_head": 8,
    "n_kv_head": 4,
    "n_embd": 512,
    "n_inner": 1408,
    "head_dim": 64,
    "tied": True,
}
SMALL = {"n_layer": 1, "n_embd": 64, "n_inner": 64, "context": 16, "vocab_size": 128}
TRAIN = {
    "train__optimizer": "adamw",
    "train__steps": 2,
    "train__decay_steps": 0,
    "train__eval_interval": 2,
    "train__batch_size": 4,
    "machine__micro_batch": 4,
}


def settings_of(config: GPTConfig, adapters: Lora | None = None, **changes: Any) -> Settings:
    settings = quick(**(TRAIN | {"model__context": config.context} | changes))
    train = settings.train.model_copy(update={"lora": adapters})
    return settings.model_copy(update={"train": train})


def train(config: GPTConfig, settings: Settings) -> None:
    """Train a random model on random tokens."""
    world = join(settings.machine)
    model = GPT(config, world.compute)
    model.activation_checkpointing = settings.machine.activation_checkpointing
    if settings.train.lora:
        lora.add(model, settings.train.lora)
    model = world.place(model)
    optimizers = optim.build(model, settings.train)
    stepped = threading.Event()
    fsync = os.fsync
    os.fsync = lambda file: stepped.wait() and fsync(file)  # type: ignore[assignment]
    random = np.random.default_rng(0)
    tokens = random.integers(0, config.vocab_size, 20_000).astype(np.uint16)

    def record(step: int, metrics: dict[str, float]) -> None:
        if step:
            stepped.set()
        if "step_ms" in metrics:
            print(f"step {step}: {metrics['step_ms'] / 1000:.2f} s", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        saves = Saves(Path(folder) / "state", world, patience=1)

        def save(progress: Progress) -> None:
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            tensors = trained | optim.state_tensors(model, optimizers)
            saves.save(tensors, progress, rows=0)

        args = (
            model,
            optimizers,
            Windows(Text(tokens), settings.model.context),
            Text(tokens[:4200]),
            settings,
            world,
            Progress(),
            Hooks(record, save, lambda loss, part: loss),
        )
        Trainer(*args).fit()
        saves.wait()
    os.fsync = fsync


def measure(name: str, shape: dict[str, Any], adapters: Lora | None, **changes: Any) -> None:
    config = GPTConfig(**(SHAPE | shape))  # type: ignore[arg-type]
    settings = settings_of(config, adapters, **changes)
    return_freed_memory()
    before = psutil.Process().memory_info().rss
    train(config, settings)
    measured = memory.peak(torch.device("cpu")) - before
    estimated = memory.estimate(config, settings, join(settings.machine))
    print(json.dumps({"name": name, "measured": measured, "estimated": estimated}), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    small = GPTConfig(**(SHAPE | SMALL))  # type: ignore[arg-type]
    train(small, settings_of(small))  # what is imported late is no part of the peak
    for name, case in json.loads(sys.argv[1]).items():
        if os.fork() == 0:
            adapters = case.pop("lora", None)
            measure(name, case.pop("shape", {}), adapters and Lora(**adapters), **case)
            os._exit(0)
        _, status = os.wait()
        assert status == 0
