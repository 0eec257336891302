"""The training loop, and nothing that knows files or MLflow.

Trainer(model, optimizers, windows, val_text, settings, world, progress, hooks).fit()
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from nanogpt import optim
from nanogpt.batches import Share, Text, Windows
from nanogpt.common.errors import Stopped
from nanogpt.common.memory import return_freed_memory
from nanogpt.common.progress import bar
from nanogpt.evaluation import ByPart, total_loss, window_total
from nanogpt.gradients import Guard, GuardState, diverged
from nanogpt.machine.devices import peak_flops, windows_at_once
from nanogpt.machine.distributed import World
from nanogpt.model import GPT
from nanogpt.settings import FromScratch, Settings, Train

# of one forward pass, at most, where machine.micro_batch is auto and no GPU's memory decides
MICRO_BATCH_TOKENS = 16384


@dataclass
class Progress:
    """Where a training stands: with the weights and the optimizers, all that a resume needs."""

    step: int = 0
    seconds: float = 0.0  # spent on training and validation
    pending: int = 0  # steps since the last point of the curve
    loss_sum: float = 0.0  # sum of their losses; skipped steps are left out
    loss_steps: float = 0.0  # how many losses are in the sum
    first_loss: float = math.nan  # of the base, if there is one
    scored_step: int = -1
    saved_step: int = -1
    best_step: int = -1
    best_loss: float = math.inf
    stale: int = 0  # validations since the best
    guard: GuardState = field(default_factory=GuardState)


@dataclass(frozen=True)
class Hooks:
    """The functions that the loop calls; it knows nothing else of files or of MLflow."""

    record: Callable[[int, dict[str, float]], None]  # takes the metrics of a step
    save: Callable[[Progress], None]  # keeps the weights and the optimizers as they are now
    # of a validation, nats a token → bits per byte of its text, or of the part that is named
    bits: Callable[[float, str | None], float]
    stop: Callable[[], int] = lambda: 0  # before each step; not 0: the signal that ends it


class Trainer:
    """Trains `model` in place from `progress.step` to the last step.

    Args:
        windows: what to train on. val_text: what to validate on.
    """

    def __init__(
        self,
        model: GPT,
        optimizers: list[Optimizer],
        windows: Windows,
        val_text: Text,
        settings: Settings,
        world: World,
        progress: Progress,
        hooks: Hooks,
    ) -> None:
        self.model, self.optimizers = model, optimizers
        self.settings, self.train, self.context = settings, settings.train, settings.model.context
        self.windows, self.val_text = windows, val_text
        self.world, self.progress, self.hooks = world, progress, hooks
        # validation batches have another shape than training batches: each is compiled separately
        self.core = world.compiled(model)
        self.wrapped = world.wrap(self.core)
        self.reorders = world.reorders(self.wrapped)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        half = world.compute == torch.float16
        self.guard = Guard(progress.guard, self.train.max_skips, half, world.device)
        # of all processes, whose GPUs may be of several kinds; NaN: one of them is not known
        own = torch.tensor(peak_flops(world.device) or math.nan, device=world.device)
        self.peak = world.sum(own).item()
        self.passes = pass_count(settings, model.config.vocab_size, world)
        self.ahead: Share | None = None  # what the next step trains on, once one is made
        self.sums = _carried(progress, world)
        self.norm = torch.tensor(math.nan)
        self.started = time.perf_counter() - progress.seconds
        self.clock, self.timed_steps = time.perf_counter(), 0  # for the speed at the next point

    def fit(self) -> None:
        """Train to the end.

        Every `eval_interval` steps, and at both ends, the whole validation split is scored and
        `hooks.save` called; `progress.best_step == progress.step` says that this is the best so
        far. A model that starts from nothing is saved at its start, to see that it can be, but not
        scored, unless it ends there: it knows nothing yet. The global batch does not depend on
        processes, micro-batch or restarts, and so, up to rounding and but for dropout's masks,
        neither does the loss.

        Raises:
            Stopped: `hooks.stop` said so; the state is saved.
            UserError: the loss is NaN or infinite, or too many gradients in a row were.
        """
        train, progress = self.train, self.progress
        self.model.train()
        first, rank = progress.step, self.world.rank
        with bar(train.steps, "train", "step", initial=first, disable=rank > 0) as shown:
            while True:
                told, seconds = self._ask()
                position = _schedule_step(progress.step, seconds, train)
                at_end = position >= train.steps or progress.stale >= (train.patience or math.inf)
                due = progress.step % train.eval_interval == 0 or at_end
                if progress.pending and (progress.pending >= train.log_interval or at_end):
                    self._point()
                if told:  # after the point, of whose last step a save knows neither norm nor rate
                    self._stop(told)
                untried = at_end and progress.best_step < 0  # at the start, if no time is left
                if untried or (due and progress.scored_step < progress.step):
                    fresh = not progress.step and isinstance(self.settings, FromScratch)
                    if fresh and not untried:
                        progress.scored_step = 0
                        self._keep()
                        continue
                    bits = self._validate()
                    shown.set_postfix_str(f"val {bits:.4f} bits per byte", refresh=False)
                    continue  # the remaining time and patience have changed
                if at_end:
                    break
                optim.set_rate(self.optimizers, optim.rate(progress.step, position, train))
                self._step()
                shown.update()

    def _step(self) -> None:
        """One step of the optimizers, skipped where the gradient is NaN or infinite."""
        if self.reorders:  # a training that goes on sums as one that was not stopped
            self._accumulate()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            self.reorders = False
        loss, counted = self._accumulate()
        self.norm = self.guard.norm(self.parameters, self.train.grad_clip)
        bad = self.guard.step(self.optimizers, self.norm)
        # each step is counted once, by the first process, if it had something to learn
        once = float(self.world.rank == 0 and counted > 0)
        good = torch.stack((loss, torch.full_like(loss, once)))
        self.sums += torch.where(bad > 0, torch.zeros_like(self.sums), good)
        self.progress.step += 1
        self.progress.pending += 1
        self.timed_steps += 1
        last = self.progress.step >= self.train.steps
        self.ahead = None if last else self._share(self.progress.step)  # while a GPU is still busy

    def _accumulate(self) -> tuple[Tensor, int]:
        """Add up the gradient of the global batch's mean loss; this process's part of it.

        The mean is over all targets of the global batch that count, whichever process or pass has
        them; how many there are is returned, too.
        """
        settings, world, step = self.settings, self.world, self.progress.step
        share = self.ahead or self._share(step)
        # all processes make the same number of passes: with fsdp they meet in each
        parts = np.array_split(np.arange(share.size), self.passes)
        total = torch.zeros((), device=world.device)
        for index, part in enumerate(parts):
            if settings.model.dropout:
                # the masks depend on step, process and pass alone: a restart draws the same ones
                seed = np.random.SeedSequence([settings.seed, step, world.rank, index])
                torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
            world.meet(self.wrapped, last=index == len(parts) - 1)
            batch = share.batch.part(slice(part[0], part[-1] + 1) if len(part) else slice(1))
            losses = self.wrapped(batch.ids, batch.targets, positions=batch.positions)
            if batch.counted is not None:
                losses = losses * batch.counted
            loss = losses.sum() / max(share.counted, 1)
            if not len(part):
                loss = loss * 0.0
            # gradients are averaged over the processes; the loss is a share of a sum
            (loss * (world.size * self.guard.scale)).backward()
            total += loss.detach()
        return total, share.counted

    def _share(self, step: int) -> Share:
        """What this process trains on in a step, on its device."""
        seed, world = self.settings.seed, self.world
        share = self.windows.share(seed, step, self.train.batch_size, world.rank, world.size)
        return share._replace(batch=share.batch.to(world.device))

    def _validate(self) -> float:
        """Score the whole validation split, and save; the loss in bits per byte."""
        progress = self.progress
        self.sums.tolist()  # waits for the device: what it still does of steps is no part of this
        paused = time.perf_counter()
        return_freed_memory()
        by_part = ByPart(self.val_text)
        share = math.ceil(window_total(self.val_text, self.context) / self.world.size)
        with bar(share, "validate", "window", leave=False, disable=self.world.rank > 0) as shown:

            def advance(windows: int) -> None:
                shown.update(windows)
                self._stop(self._ask()[0])

            nats, count = total_loss(
                self.core, self.val_text, self.context, self.world, advance, by_part.hear
            )
        loss = nats / count
        if not math.isfinite(loss):
            raise diverged(f"the validation loss is {loss} at step {progress.step}")
        if not progress.step:
            progress.first_loss = loss
        progress.scored_step = progress.step
        progress.stale += 1
        if loss < progress.best_loss:
            progress.best_step, progress.best_loss = progress.step, loss
            progress.stale = 0
        bits = self.hooks.bits(loss, None)
        metrics = {"val_loss": loss, "val_bits_per_byte": bits}
        for name, own in by_part.losses(self.world).items():
            metrics[f"val_loss/{name}"] = own
            metrics[f"val_bits_per_byte/{name}"] = self.hooks.bits(own, name)
        self.hooks.record(progress.step, metrics)
        self._keep()
        self.clock += time.perf_counter() - paused
        return bits

    def _point(self) -> None:
        """Record a point of the training curve, over the steps since the last one."""
        progress, world = self.progress, self.world
        skipped = self.guard.check(progress.step)
        loss_sum, loss_steps = world.sum(self.sums).tolist()
        if not math.isfinite(loss_sum):
            raise diverged(f"the training loss is {loss_sum} at step {progress.step}")
        metrics = {
            "learning_rate": self.optimizers[0].param_groups[0]["lr"],
            "skipped_steps": float(skipped),
        }
        if loss_steps:
            metrics |= {"train_loss": loss_sum / loss_steps, "grad_norm": self.norm.item()}
        if self.timed_steps:
            seconds = (time.perf_counter() - self.clock) / self.timed_steps
            speed = self.train.batch_size * self.context / seconds
            metrics |= {"tokens_per_second": speed, "step_ms": 1000 * seconds}
            if not math.isnan(self.peak):
                flops = self.model.flops_per_token(self.context)
                metrics["mfu"] = flops * speed / self.peak
        self.hooks.record(progress.step, metrics)
        self.sums.zero_()
        progress.pending = 0
        self.clock, self.timed_steps = time.perf_counter(), 0

    def _keep(self) -> None:
        """Have the weights saved, with the progress as it is now."""
        progress = self.progress
        progress.loss_sum, progress.loss_steps = self.world.sum(self.sums.clone()).tolist()
        progress.seconds = time.perf_counter() - self.started
        progress.guard = self.guard.state()
        self.hooks.save(progress)

    def _ask(self) -> tuple[int, float]:
        """The signal to stop, or 0, and seconds so far: the same for all processes."""
        self.world.check_parent()
        spent = time.perf_counter() - self.started
        signal, seconds = self.world.largest(self.hooks.stop(), spent)
        return int(signal), seconds

    def _stop(self, signal: int) -> None:
        """Save and stop, if there is a signal."""
        if signal:
            self._keep()
            raise Stopped(f"stopped at step {self.progress.step:,}, which is saved", signal)


def _schedule_step(step: int, seconds: float, train: Train) -> float:
    """How far the schedule is, in steps: further than `step` if the time budget ends before."""
    if train.max_minutes is None:
        return step
    return max(step, train.steps * seconds / (60 * train.max_minutes))


def pass_count(settings: Settings, vocab_size: int, world: World) -> int:
    """Forward passes in a step of each process, as many as the largest share needs."""
    micro = settings.machine.micro_batch
    if micro == "auto":
        context = settings.model.context
        micro = windows_at_once(MICRO_BATCH_TOKENS, context, vocab_size, world.device)
    return math.ceil(math.ceil(settings.train.batch_size / world.size) / micro)


def _carried(progress: Progress, world: World) -> Tensor:
    """Loss and steps since the last point, on one process: the others' parts are in it.

    In float64 sums of float32 losses are exact, so that they do not depend on their order.
    """
    values = [progress.loss_sum, progress.loss_steps] if world.rank == 0 else [0.0, 0.0]
    dtype = torch.float32 if world.device.type == "mps" else torch.float64
    return torch.tensor(values, device=world.device, dtype=dtype)
