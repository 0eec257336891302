"""The loop on real text: what the loss must not depend on, and what stops it."""

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt import optim
from nanogpt import trainer as trainer_file
from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text, Windows, borders
from nanogpt.common.errors import Stopped, UserError
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.machine.distributed import World, join
from nanogpt.model import GPT
from nanogpt.optim import orthogonal
from nanogpt.settings import Settings
from nanogpt.trainer import Hooks, Progress, Trainer
from tests.kit.recipes import ROOT, quick

# the text at hand in every checkout
TEXT = np.frombuffer((ROOT / "nanogpt/model.py").read_bytes(), dtype=np.uint8) % 128
PLAIN = Text(TEXT[:8000]), Text(TEXT[8000:9001])


class Training:
    """One training in this process, with what it recorded and saved."""

    def __init__(self, settings: Settings, train: Text = PLAIN[0], val: Text = PLAIN[1]) -> None:
        self.settings, self.val_text = settings, val
        self.windows = Windows(train, settings.model.context, settings.train.weights)
        self.world = join(settings.machine)
        torch.manual_seed(settings.seed)
        shape = settings.model.model_dump()
        head_dim = settings.model.n_embd // settings.model.n_head
        config = GPTConfig(vocab_size=128, head_dim=head_dim, **shape)
        self.model = self.world.place(GPT(config, self.world.compute))
        self.optimizers = optim.build(self.model, settings.train)
        self.progress = Progress()
        self.rows: dict[int, dict[str, float]] = {}
        self.saves: list[dict[str, Any]] = []
        self.stop_at = math.inf

    def record(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.setdefault(step, {}).update(metrics)

    def save(self, progress: Progress) -> None:
        tensors = {name: t.detach().clone() for name, t in self.state().items()}
        self.saves.append({"progress": replace(progress), "tensors": tensors})

    def resume(self, save: dict[str, Any]) -> None:
        self.progress = replace(save["progress"])
        with torch.no_grad():
            for name, tensor in self.state().items():
                tensor.copy_(save["tensors"][name])

    def state(self) -> dict[str, torch.Tensor]:
        moments = optim.state_tensors(self.model, self.optimizers)
        return {**dict(self.model.named_parameters()), **moments}

    def run(self) -> "Training":
        told = Hooks(
            self.record,
            self.save,
            lambda loss, part: loss / math.log(2),  # a byte a token
            lambda: 15 if self.progress.step >= self.stop_at else 0,
        )
        Trainer(
            self.model,
            self.optimizers,
            self.windows,
            self.val_text,
            self.settings,
            self.world,
            self.progress,
            told,
        ).fit()
        return self

    def curve(self, name: str) -> list[float]:
        return [row[name] for _, row in sorted(self.rows.items()) if name in row]


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(architecture: str, optimizer: str) -> None:
    settings = quick(model__architecture=architecture, train__optimizer=optimizer, train__steps=60)
    training = Training(settings).run()
    first = training.curve("train_loss")[0]
    assert first == pytest.approx(math.log(128), abs=0.2)
    assert training.curve("val_loss")[-1] < first - 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_micro_batch_changes_nothing_but_rounding(optimizer: str) -> None:
    changes = {"train__optimizer": optimizer, "train__steps": 50}
    whole = Training(quick(**changes)).run().curve("train_loss")
    for size in (1, 3):  # 8 and 3 passes for a batch of 8
        settings = quick(machine__micro_batch=size, **changes)
        assert Training(settings).run().curve("train_loss") == pytest.approx(whole, abs=1e-4)


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
    assert replace(resumed.progress, seconds=0.0) == replace(whole.progress, seconds=0.0)


def mixture() -> tuple[Text, Text]:
    """Two corpora of short documents, in which every other word of eight bytes counts."""
    stops = np.cumsum(np.random.default_rng(0).integers(2, 40, 430))
    stops = stops[stops <= 9000]

    def text(first: int, stop: int) -> Text:
        starts = np.append(first, stops[(stops > first) & (stops < stop)]) - first
        counted = (np.arange(stop - first) // 8 % 2).astype(np.uint8)
        ids, half = TEXT[first:stop], int(starts[len(starts) // 2])
        parts = (("code", half), ("more", stop - first - half))
        return Text(ids, counted, borders(ids, starts, None), parts)

    return text(0, 8000), text(8000, 9000)


MIXTURE = {
    "download__corpus": ["code", "more"],
    "train__packing": "documents",
    "train__weights": [3, 1],
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_mixture_is_the_same_bit_for_bit(dropout: float) -> None:
    settings = quick(train__log_interval=4, model__dropout=dropout, **MIXTURE)
    whole = Training(settings, *mixture()).run()
    resumed = Training(settings, *mixture())
    resumed.resume(whole.saves[1])
    resumed.run()
    for name, tensor in whole.saves[-1]["tensors"].items():
        assert torch.equal(tensor, resumed.saves[-1]["tensors"][name]), name
    assert resumed.rows[12] == whole.rows[12] | resumed.rows[12]


def test_the_loss_is_the_mean_over_what_counts_however_the_batch_is_cut() -> None:
    changes = {"train__steps": 30, "train__optimizer": "adamw", **MIXTURE}
    whole = Training(quick(**changes), *mixture()).run()
    for size in (1, 3):
        cut = Training(quick(machine__micro_batch=size, **changes), *mixture()).run()
        assert cut.curve("train_loss") == pytest.approx(whole.curve("train_loss"), abs=1e-4)
    # by hand, of the first step
    start = Training(quick(**changes), *mixture())
    windows, model = start.windows, start.model
    places = windows.places(windows.of_step(start.settings.seed, 0, 8))
    assert places.positions is not None
    counted = places.counted(windows.text.counted)
    nats = []
    for row, column in np.argwhere(counted):
        before = places.ids[row, column - places.positions[row, column] : column + 1]
        ids = torch.from_numpy(windows.text.ids[before].astype(np.int64))[None]
        target = int(windows.text.ids[places.ids[row, column] + 1])
        nats.append(-model(ids)[0, -1].log_softmax(-1)[target].item())
    assert whole.curve("train_loss")[0] == pytest.approx(np.mean(nats), abs=1e-4)


def test_parts_are_scored_by_themselves_and_make_up_the_whole() -> None:
    training = Training(quick(**MIXTURE), *mixture()).run()
    (_, val), row = mixture(), training.rows[12]
    assert val.counted is not None
    assert val.documents is not None
    targets = val.counted.astype(bool)
    targets[val.documents[:, 0]] = False  # of which nothing is known
    count = [int(some.sum()) for some in np.split(targets, [val.parts[0][1]])]
    whole = (row["val_loss/code"] * count[0] + row["val_loss/more"] * count[1]) / sum(count)
    assert row["val_loss"] == pytest.approx(whole, rel=1e-9)
    assert row["val_loss/code"] != row["val_loss/more"]
    assert row["val_bits_per_byte/code"] == pytest.approx(row["val_loss/code"] / math.log(2))


def test_a_batch_in_which_nothing_counts_changes_no_figure() -> None:
    train, val = mixture()
    assert train.counted is not None
    settings = quick(train__packing="documents", train__optimizer="adamw")
    nothing = replace(train, counted=np.zeros_like(train.counted))
    training = Training(settings, nothing, val).run()
    assert "train_loss" not in training.rows[1]
    assert training.curve("skipped_steps")[-1] == 0
    assert len({*training.curve("val_loss")}) == 1


def test_the_best_is_the_lowest_validation_loss() -> None:
    training = Training(quick(train__learning_rate=0.3, train__steps=60)).run()
    losses = {step: row["val_loss"] for step, row in training.rows.items() if "val_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert (training.progress.best_step, training.progress.best_loss) == (best, losses[best])


def test_a_diverged_training_stops_and_says_what_to_try() -> None:
    training = Training(quick())
    with torch.no_grad():
        training.model.blocks[0].mlp.up.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"loss is nan at step 6.*lower train\.learning_rate"):
        training.run()


def test_a_model_from_nothing_is_saved_at_its_start_and_not_scored() -> None:
    training = Training(quick()).run()
    assert [save["progress"].step for save in training.saves] == [0, 6, 12]
    assert [step for step, row in sorted(training.rows.items()) if "val_loss" in row] == [6, 12]
    assert math.isnan(training.progress.first_loss)
    for settings in (quick(), quick(train__eval_interval=5)):  # what is resumed from there
        resumed, whole = Training(settings), Training(settings).run()
        resumed.resume(whole.saves[0])
        resumed.run()
        for name in ("train_loss", "val_loss"):
            assert resumed.curve(name) == whole.curve(name)


@pytest.mark.parametrize("changes", [{}, {"model__tied": True}, {"train__optimizer": "adamw"}])
def test_an_embedding_has_a_rate_of_its_own_beside_muon_unless_it_is_the_head(
    changes: dict[str, Any],
) -> None:
    training = Training(quick(train__embedding_learning_rate=0.5, **changes))
    rates = {
        id(p): group["peak"]
        for optimizer in training.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    model, train = training.model, training.settings.train
    assert len(rates) == len([*model.parameters()])
    assert rates[id(model.embedding.weight)] == (train.learning_rate if changes else 0.5)
    assert rates[id(model.head.weight)] == rates[id(model.norm.weight)] == train.learning_rate
    before = model.embedding.weight.detach().clone()
    training.run()
    assert training.curve("learning_rate")[0] == train.learning_rate
    moved = (model.embedding.weight.detach() - before).abs().max().item()
    assert (moved > 0.5) is (not changes)


def test_muon_takes_each_matrix_by_itself() -> None:
    # as wide inside as queries, keys and values together: one shape, and other parts
    training = Training(quick(model__n_inner=96))
    model, (_, muon) = training.model, training.optimizers
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    muon.step()
    for name, p in model.named_parameters():
        if "blocks." in name and p.ndim == 2:
            assert p.grad is not None
            step = (before[name] - p.detach()) / muon.param_groups[0]["lr"]
            rows = 32 if "qkv" in name else len(p)
            for part, grad in zip(step.split(rows), p.grad.split(rows), strict=True):
                tall = len(grad) > grad.shape[1]
                done = orthogonal((grad.mT if tall else grad)[None], torch.float32)[0]
                scaled = done.mT * (len(grad) / grad.shape[1]) ** 0.5 if tall else done
                assert torch.allclose(part, scaled, atol=1e-3), name


def test_muon_makes_directions_about_equally_long() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 20, 50, generator=generator)
    matrices *= torch.tensor([1e-8, 1, 1e8])[:, None, None]
    for values in torch.linalg.svdvals(orthogonal(matrices, torch.float32)):
        assert values.min() > 0.2
        assert values.max() < 2.0


def inject(training: Training, steps: range, value: float) -> None:
    """Make one number of the gradient `value` in these steps."""
    count = iter(range(10**6))

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if next(count) in steps:
            gradient = gradient.clone()
            gradient[0, 0] = value
        return gradient

    training.model.blocks[0].mlp.up.weight.register_hook(spoil)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_no_weight(optimizer: str, value: float) -> None:
    settings = quick(train__optimizer=optimizer, train__eval_interval=1)
    training = Training(settings)
    inject(training, range(4, 7), value)
    training.run()
    before, during = training.saves[4]["tensors"], training.saves[7]["tensors"]
    for name, tensor in before.items():
        assert torch.equal(tensor, during[name]), name
    assert training.progress.guard.skipped == 3
    assert training.progress.guard.skipped_in_a_row == 0
    assert [training.rows[step]["skipped_steps"] for step in (5, 6, 7, 8)] == [1, 2, 3, 3]
    assert "train_loss" not in training.rows[6]
    assert training.curve("val_loss")[-1] < training.curve("val_loss")[4]


def test_too_many_skipped_steps_in_a_row_end_it_with_the_last_good_state() -> None:
    training = Training(quick(train__max_skips=3, train__steps=60))
    inject(training, range(8, 60), math.nan)
    with pytest.raises(UserError, match=r"in 3 steps in a row, up to step 11.*lower"):
        training.run()
    assert training.saves[-1]["progress"].step == 6
    assert all(t.isfinite().all() for t in training.saves[-1]["tensors"].values())


def test_float16_lowers_its_scale_before_it_gives_up() -> None:
    training = Training(quick(train__max_skips=1))
    training.world = replace(training.world, compute=torch.float16)
    inject(training, range(3, 6), math.inf)
    training.run()
    assert training.progress.guard.loss_scale == 65536 / 2**3
    assert training.progress.guard.skipped == 3
    # the scale is divided out again: the gradient's norm does not show it
    alone = Training(quick()).run().curve("grad_norm")
    assert training.curve("grad_norm")[:3] == pytest.approx(alone[:3], rel=1e-2)


def test_it_stops_when_no_validation_is_better_any_more() -> None:
    changes = {"train__learning_rate": 0.5, "train__muon_learning_rate": 1.0}
    training = Training(
        quick(train__steps=600, train__eval_interval=5, train__patience=3, **changes)
    ).run()
    losses = {step: row["val_loss"] for step, row in training.rows.items() if "val_loss" in row}
    assert training.progress.step == max(losses) < 600
    assert training.progress.step == training.progress.best_step + 3 * 5
    assert training.progress.best_step == min(losses, key=lambda step: losses[step])


def test_a_time_budget_shortens_the_schedule() -> None:
    seconds = 2.0
    training = Training(
        quick(train__steps=10**6, train__decay_steps=10**6, train__max_minutes=seconds / 60)
    ).run()
    assert 0 < training.progress.step < 10**6
    assert training.progress.seconds >= seconds
    rates = training.curve("learning_rate")
    assert rates[0] > 0.9 * training.settings.train.learning_rate
    # where the machine is busy, the last step before the end is early in the schedule
    assert rates[-1] < 0.5 * rates[0]
    assert max(training.rows) == training.progress.step == training.progress.scored_step


def test_a_time_budget_for_no_step_leaves_a_model_that_is_scored() -> None:
    training = Training(quick(train__max_minutes=1e-9)).run()
    assert training.progress.step == training.progress.best_step == 0
    assert training.curve("val_loss") == [training.progress.best_loss]
    # the time may also run out after the save at the start, which another command went on from
    saved, late = Training(quick()).run().saves[0], Training(quick(train__max_minutes=1e-9))
    late.resume(saved)
    late.run()
    assert late.progress.best_loss == training.progress.best_loss


def test_told_to_stop_it_saves_and_goes_on_as_if_nothing_had_been() -> None:
    settings = quick()
    whole = Training(settings).run()
    stopped = Training(settings)
    for stop_at in (0, 4, 6, 6, 12):  # 6 and 12 are to be validated: the first save is before that
        stopped.stop_at = stop_at
        with pytest.raises(Stopped, match=f"stopped at step {stop_at}") as raised:
            stopped.run()
        assert raised.value.signal == 15
        resumed = Training(settings)
        resumed.resume(stopped.saves[-1])
        resumed.rows = {s: row for s, row in stopped.rows.items() if s <= resumed.progress.step}
        stopped = resumed
    stopped.run()
    for name, tensor in whole.saves[-1]["tensors"].items():
        assert torch.equal(tensor, stopped.saves[-1]["tensors"][name]), name
    for name in ("train_loss", "learning_rate", "grad_norm", "val_loss"):
        assert stopped.curve(name) == whole.curve(name)


def test_no_batch_is_made_that_no_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    share, made = Windows.share, []

    def counted(windows: Windows, seed: int, step: int, *rest: int) -> Any:
        made.append(step)
        return share(windows, seed, step, *rest)

    monkeypatch.setattr(Windows, "share", counted)
    Training(quick(train__steps=6)).run()
    assert made == [0, 1, 2, 3, 4, 5]


def test_a_validation_between_two_points_takes_nothing_from_the_time_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU is still busy with steps when the CPU comes to it."""
    settings = quick(train__steps=6, train__log_interval=4, train__eval_interval=2)
    carried, validate = trainer_file._carried, Trainer._validate

    class Busy(torch.Tensor):
        """Of a device that has half a second to go, when it is first waited for."""

        left = 0.0

        def tolist(self) -> Any:
            time.sleep(Busy.left)
            Busy.left = 0.0
            return self.as_subclass(torch.Tensor).tolist()

    def begin(trainer: Trainer) -> float:
        Busy.left = 0.5 if trainer.progress.step == 2 else 0.0
        return validate(trainer)

    monkeypatch.setattr(trainer_file, "_carried", lambda *of: carried(*of).as_subclass(Busy))
    monkeypatch.setattr(Trainer, "_validate", begin)
    assert Training(settings).run().rows[4]["step_ms"] > 1000 * 0.5 / 4


@pytest.mark.parametrize(("other", "known"), [(312e12, True), (math.nan, False)])
def test_utilisation_is_of_all_gpus_of_whatever_kind(
    monkeypatch: pytest.MonkeyPatch, other: float, known: bool
) -> None:
    monkeypatch.setattr("nanogpt.trainer.peak_flops", lambda device: 989e12)
    monkeypatch.setattr(World, "sum", lambda world, t: t if t.ndim else t + other)
    training = Training(quick(train__steps=6)).run()
    flops = training.model.flops_per_token(training.settings.model.context)
    speeds = training.curve("tokens_per_second") if known else []
    assert training.curve("mfu") == pytest.approx([flops * s / 1301e12 for s in speeds])


def test_every_token_is_scored_once() -> None:
    training = Training(quick())
    model, world = training.model.eval(), training.world
    for length in (2, 16, 17, 18, 100, 1001):
        tokens = TEXT[:length]
        heard: list[int] = []
        nats, count = total_loss(model, Text(tokens), 16, world, heard.append)
        assert count == length - 1
        assert sum(heard) == window_total(Text(tokens), 16)
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        expected = 0.0
        for start in range(0, length - 1, 16):
            end = min(start + 16, length - 1)
            expected += model(ids[:, start:end], ids[:, start + 1 : end + 1]).sum().item()
        assert nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, MIXTURE])
def test_two_shapes_are_compiled_and_no_loss_changes(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """One for validations, whose last windows are shorter or fewer, and one for steps."""
    settings = quick(machine__micro_batch=4, train__steps=6, **changes)
    texts = mixture() if changes else PLAIN
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **options: compile(m, backend=keep, **options))
    # more than a pass of validation, and a rest
    monkeypatch.setattr("nanogpt.evaluation.TOKENS_AT_ONCE", 7 * settings.model.context)
    curves = []
    for compiled in (False, True):
        torch._dynamo.reset()
        training = Training(settings, *texts)
        training.world = replace(training.world, compile=compiled)
        training.run()
        curves.append([*training.curve("val_loss"), *training.curve("train_loss")])
        assert len(graphs) == (2 if compiled else 0)
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


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
    rates = [optim.rate(step, step, train) for step in range(101)]
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert rates[10] == 1
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx({"wsd": 0.1, "cosine": 0.1, "constant": 1.0}[schedule])
    if schedule == "wsd":
        assert rates[60] == 1
        assert rates[80] == pytest.approx(0.55)
    if schedule == "cosine":
        assert rates[25] == pytest.approx(0.55)  # half way from warm-up to decay_steps
