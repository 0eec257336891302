"""The loop on real text: what the loss must not depend on, and what stops it."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt import optim
from nanogpt.config import Settings
from nanogpt.distributed import join
from nanogpt.errors import UserError
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.model import GPT, GPTConfig
from nanogpt.trainer import Progress, fit
from tests.recipes import ROOT, quick

# the text at hand in every checkout
TEXT = np.frombuffer((ROOT / "nanogpt/model.py").read_bytes(), dtype=np.uint8) % 128


class Training:
    """One training in this process, with what it recorded and saved."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.world = join(settings.machine)
        torch.manual_seed(settings.seed)
        shape = settings.model.model_dump()
        head_dim = settings.model.n_embd // settings.model.n_head
        self.model = GPT(GPTConfig(vocab_size=128, head_dim=head_dim, **shape))
        self.optimizers = optim.build(self.model, settings.train)
        self.progress = Progress()
        self.rows: dict[int, dict[str, float]] = {}
        self.saves: list[dict[str, Any]] = []

    def record(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.setdefault(step, {}).update(metrics)

    def save(self, progress: Progress) -> None:
        state = dict(self.model.named_parameters()) | optim.state_tensors(self.optimizers)
        tensors = {name: t.detach().clone() for name, t in state.items()}
        self.saves.append({"progress": Progress(**vars(progress)), "tensors": tensors})

    def resume(self, save: dict[str, Any]) -> None:
        self.progress = Progress(**vars(save["progress"]))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(save["tensors"][name])
        optim.load_state_tensors(self.optimizers, save["tensors"])

    def run(self) -> "Training":
        splits = TEXT[:8000], TEXT[8000:9001]
        fit(
            self.model,
            self.optimizers,
            *splits,
            self.settings,
            self.world,
            self.progress,
            self.record,
            self.save,
        )
        return self

    def curve(self, name: str) -> list[float]:
        return [row[name] for _, row in sorted(self.rows.items()) if name in row]


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(architecture: str, optimizer: str) -> None:
    settings = quick(model__architecture=architecture, train__optimizer=optimizer, train__steps=60)
    losses = Training(settings).run().curve("val_loss")
    assert losses[0] == pytest.approx(math.log(128), abs=0.2)
    assert losses[-1] < losses[0] - 1


# Muon orthogonalises in bfloat16, which makes more of a last bit
@pytest.mark.parametrize(("optimizer", "rounding"), [("adamw", 1e-4), ("muon", 2e-3)])
def test_the_micro_batch_changes_nothing_but_rounding(optimizer: str, rounding: float) -> None:
    whole = Training(quick(train__optimizer=optimizer)).run().curve("train_loss")
    for size in (1, 3):
        settings = quick(train__optimizer=optimizer, machine__micro_batch=size)
        assert Training(settings).run().curve("train_loss") == pytest.approx(whole, abs=rounding)


@pytest.mark.parametrize("changes", [{}, {"model__dropout": 0.2}, {"train__optimizer": "adamw"}])
def test_a_resumed_training_is_the_same_bit_for_bit(changes: dict[str, Any]) -> None:
    settings = quick(train__log_interval=4, **changes)  # no multiple of the saves' interval
    whole = Training(settings).run()
    resumed = Training(settings)
    resumed.resume(whole.saves[1])
    assert resumed.progress.step == 6
    resumed.run()
    for name, tensor in whole.saves[-1]["tensors"].items():
        assert torch.equal(tensor, resumed.saves[-1]["tensors"][name]), name
    for step in (8, 12):
        assert resumed.rows[step]["train_loss"] == whole.rows[step]["train_loss"]
    assert resumed.progress == whole.progress


def test_the_best_is_the_lowest_validation_loss() -> None:
    training = Training(quick(train__learning_rate=0.3, train__steps=60)).run()
    losses = {step: row["val_loss"] for step, row in training.rows.items() if "val_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert (training.progress.best_step, training.progress.best_loss) == (best, losses[best])


def test_a_diverged_training_stops_and_says_what_to_try() -> None:
    training = Training(quick())
    with torch.no_grad():
        training.model.blocks[0].mlp.up.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"loss is nan at step 0.*lower train\.learning_rate"):
        training.run()


def test_every_token_is_scored_once() -> None:
    training = Training(quick())
    model, world = training.model.eval(), training.world
    for length in (2, 16, 17, 18, 100, 1001):
        tokens = TEXT[:length]
        heard: list[int] = []
        nats, count = total_loss(model, tokens, 16, world, heard.append)
        assert count == length - 1
        assert sum(heard) == window_total(tokens, 16)
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        expected = 0.0
        for start in range(0, length - 1, 16):
            end = min(start + 16, length - 1)
            expected += model(ids[:, start:end], ids[:, start + 1 : end + 1])[1].sum().item()
        assert nats == pytest.approx(expected, rel=1e-5)


def test_measures_of_a_uniform_guess() -> None:
    # 256 equally likely bytes: 8 bits each
    figures = measures(nats=99 * math.log(256), count=99, tokens=100, text_bytes=100)
    assert figures["bits_per_byte"] == pytest.approx(8)
    assert figures["perplexity"] == pytest.approx(256)


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_schedules(schedule: str) -> None:
    train = quick(
        train__schedule=schedule,
        train__steps=100,
        train__warmup_steps=10,
        train__decay_steps=40,
        train__min_lr_ratio=0.1,
    ).train
    rates = [optim.rate(step, train) for step in range(101)]
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert rates[10] == 1
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx({"wsd": 0.1, "cosine": 0.1, "constant": 1.0}[schedule])
    if schedule == "wsd":
        assert rates[60] == 1
        assert rates[80] == pytest.approx(0.55)
    if schedule == "cosine":
        assert rates[25] == pytest.approx(0.55)  # half way from warm-up to decay_steps
