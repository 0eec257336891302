"""How long a step takes: measured here by real steps, reckoned for devices that are elsewhere.

speed = measure(config, settings, join(settings.machine, trains=True))
speed.tokens_per_second
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from nanogpt import optim
from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text, Windows
from nanogpt.common.errors import Stopped
from nanogpt.machine.devices import PEAK_TERAFLOPS
from nanogpt.machine.distributed import World
from nanogpt.model import GPT
from nanogpt.settings import FromScratch
from nanogpt.trainer import Hooks, Progress, Trainer

WARM, TIMED = 2, 10  # steps that are not counted (memory, kernels, compiling), and those that are
SECONDS = 60.0  # after which fewer steps have to do
CPU_STEP = 3e11  # operations: a step of more is measured with fewer windows, on a CPU
# of a device's peak. nanoGPT reports 37 % for GPT-2 124M on an A100 (its transformer_sizing.ipynb),
# PaLM 46 % (Chowdhery et al. 2022)
SHARE = 0.4
DEVICES = "H100", "A100", "RTX 4090", "L4", "T4"


@dataclass(frozen=True)
class Speed:
    """Of training steps on this machine.

    Attributes:
        steps: how many were timed.
        windows: of each of them; a recipe's step may have more.
    """

    tokens_per_second: float
    steps: int
    windows: int


def measure(config: GPTConfig, settings: FromScratch, world: World) -> Speed:
    """Train a model of this shape for some steps on random tokens, in this process alone.

    Saving and validating take no part in the time. The median is taken.
    """
    train, context = settings.train, settings.model.context
    windows = train.batch_size
    torch.manual_seed(settings.seed)
    model = world.place(GPT(config, world.compute)).train()
    if world.device.type == "cpu":
        most = CPU_STEP / (model.flops_per_token(context) * context)
        windows = max(1, min(windows, int(most)))
    model.activation_checkpointing = settings.machine.activation_checkpointing
    steps = WARM + TIMED
    changes = {
        "steps": steps,
        "batch_size": windows,
        "schedule": "constant",
        "eval_interval": steps,
        "log_interval": 1,
        "patience": None,
        "max_minutes": None,
        "packing": "continuous",
        "weights": None,
    }
    short = settings.model_copy(update={"train": train.model_copy(update=changes)})
    ids = np.random.default_rng(0).integers(config.vocab_size, size=(windows + 2) * context)
    text, times = Text(ids.astype(np.uint32)), list[float]()

    def record(step: int, metrics: dict[str, float]) -> None:
        if "step_ms" in metrics:
            times.append(metrics["step_ms"] / 1000)

    progress = Progress()

    def stop() -> int:
        # before the end is scored, for which torch.compile would compile once more
        done = progress.step >= steps
        return int(done or (len(times) > WARM and sum(times) > SECONDS))

    trainer = Trainer(
        model,
        optim.build(model, short.train),
        Windows(text, context),
        Text(text.ids[: context + 1]),
        short,
        world,
        progress,
        Hooks(record, lambda progress: None, lambda loss, part: math.nan, stop),
    )
    with suppress(Stopped):
        trainer.fit()
    timed = times[WARM:]
    return Speed(windows * context / median(timed), len(timed), windows)


def elsewhere(flops: float) -> dict[str, float]:
    """Seconds that so many operations take on one device of each name, at SHARE of its peak."""
    return {name: flops / (SHARE * 1e12 * PEAK_TERAFLOPS[name]) for name in DEVICES}
