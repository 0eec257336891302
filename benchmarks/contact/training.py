"""Trainings in this process, by the loop alone: no stage, no MLflow, no file but the settings."""

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.processes import ROOT
from nanogpt import optim
from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text, Windows, borders
from nanogpt.common.errors import Stopped
from nanogpt.machine.distributed import World, join
from nanogpt.model import GPT
from nanogpt.settings import FromScratch, load
from nanogpt.sizing.passes import fit
from nanogpt.trainer import Hooks, Progress, Trainer

SMALL = ROOT / "pipelines/shakespeare_gpu/params.yaml"
LARGE = ROOT / "pipelines/gpt2_openwebtext/params.yaml"


@dataclass
class Data:
    """Tokens of both splits, and how many there are to know."""

    train: Text
    val: Text
    vocabulary: int


@dataclass
class Ran:
    """What is known of a training."""

    world: World
    settings: FromScratch
    config: GPTConfig
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)  # of validations, by `clock`
    saves: list[tuple[Progress, dict[str, torch.Tensor]]] = field(default_factory=list)
    model: GPT | None = None

    def curve(self, name: str) -> list[float]:
        return [row[name] for _, row in sorted(self.rows.items()) if name in row]

    @property
    def step_seconds(self) -> float:
        """Median of all points but the first third."""
        found = self.curve("step_ms")
        return float(np.median(found[len(found) // 3 :])) / 1000

    @property
    def digest(self) -> str:
        """Of all weights."""
        assert self.model is not None
        found = hashlib.sha256()
        for p in self.model.parameters():
            found.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def settings_of(recipe: Path, device: str, **sections: dict[str, Any]) -> FromScratch:
    """A recipe's settings on a device, with sections changed."""
    settings = load(recipe)
    assert isinstance(settings, FromScratch)
    for name in ("model", "train", "machine"):
        change = sections.get(name, {}) | ({"device": device} if name == "machine" else {})
        changed = getattr(settings, name).model_copy(update=change)
        settings = settings.model_copy(update={name: changed})
    return settings


def train(
    settings: FromScratch,
    data: Data,
    go_on: tuple[Progress, dict[str, torch.Tensor]] | None = None,
    keeps: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    made: Callable[[World], World] = lambda world: world,
    scores: bool = True,
) -> Ran:
    """Train from the start, or go on from a save; `keeps` the saves; `made` changes the world.

    If it is not to score its end, torch.compile has nothing to compile for that either.
    """
    world = made(join(settings.machine, trains=True))
    torch.manual_seed(settings.seed)
    shape = settings.model.model_dump()
    head_dim = settings.model.n_embd // settings.model.n_head
    config = GPTConfig(vocab_size=data.vocabulary, head_dim=head_dim, **shape)
    settings = fit(config, settings, world)
    ran = Ran(world, settings, config)
    model = GPT(config, world.compute)
    model.activation_checkpointing = settings.machine.activation_checkpointing
    ran.model = model = world.place(model)
    optimizers = optim.build(model, settings.train)
    tensors = dict(model.named_parameters()) | optim.state_tensors(model, optimizers)
    progress = Progress()
    if go_on:
        progress = replace(go_on[0])
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(go_on[1][name])

    def record(step: int, metrics: dict[str, float]) -> None:
        ran.rows.setdefault(step, {}).update(metrics)
        if "val_loss" in metrics:
            ran.times[step] = clock()

    def save(progress: Progress) -> None:
        if keeps:
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            ran.saves.append((replace(progress), copies))

    windows = Windows(data.train, settings.model.context)
    bits = lambda loss, part: loss / math.log(2)  # noqa: E731

    def stop() -> int:
        return int(not scores and progress.step >= settings.train.steps)

    hooks = Hooks(record, save, bits, stop)
    with suppress(Stopped):
        Trainer(model, optimizers, windows, data.val, settings, world, progress, hooks).fit()
    return ran


def characters(text: Path) -> Data:
    """As nanoGPT prepares a text: its characters in order, the last tenth to validate on."""
    said = text.read_text(encoding="utf-8")
    known = {character: index for index, character in enumerate(sorted({*said}))}
    ids = np.array([known[character] for character in said], np.uint16)
    cut = int(len(said) * 0.9)
    return Data(Text(ids[:cut]), Text(ids[cut:]), len(known))


def code() -> Data:
    """Bytes of this repository's own files, each a document: text that is in every checkout."""
    files = sorted((ROOT / "nanogpt").rglob("*.py"))
    parts = [np.frombuffer(file.read_bytes(), np.uint8) % 128 for file in files]

    def text(some: list[np.ndarray]) -> Text:
        ids = np.concatenate(some).astype(np.uint16)
        starts = np.cumsum([0, *map(len, some)])[:-1]
        return Text(ids, documents=borders(ids, starts, None))

    cut = len(parts) - len(parts) // 10
    return Data(text(parts[:cut]), text(parts[cut:]), 128)


def noise(tokens: int) -> Data:
    """Random tokens of GPT-2's vocabulary, padded as nanoGPT pads it: speed does not read them."""
    random = np.random.default_rng(0)
    some, rest = (random.integers(50257, size=n, dtype=np.uint16) for n in (tokens, 10_000))
    return Data(Text(some), Text(rest), 50304)


def together(data: Data) -> Data:
    """The same, where a window may hold several documents."""
    return Data(Text(data.train.ids), Text(data.val.ids), data.vocabulary)
