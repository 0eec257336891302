"""fit(): the training loop, and nothing that knows files or MLflow.

It reports through two calls that it is given: `record(step, metrics)` and `save(progress)`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from nanogpt import optim
from nanogpt.batches import gather, window_starts, windows_at_once
from nanogpt.config import Settings, Train
from nanogpt.devices import peak_flops, return_freed_memory
from nanogpt.distributed import World
from nanogpt.errors import Stopped
from nanogpt.evaluation import total_loss
from nanogpt.guard import Guard, diverged
from nanogpt.model import GPT
from nanogpt.progress import bar

MICRO_BATCH_TOKENS = 16384  # of one forward pass, at most, where machine.micro_batch is auto


@dataclass
class Progress:
    """Where a training stands: with the weights and the optimizers, all that a resume needs."""

    step: int = 0
    seconds: float = 0.0  # spent on training and validation
    pending: int = 0  # steps since the last point of the curve,
    loss_sum: float = 0.0  # their loss, without those that were skipped,
    loss_steps: float = 0.0  # and how many that are
    first_loss: float = math.nan  # of the first validation: of the base, where there is one
    scored_step: int = -1
    saved_step: int = -1
    best_step: int = -1
    best_loss: float = math.inf
    stale: int = 0  # validations since the best
    loss_scale: float = 0.0  # 0: as the training starts
    scale_age: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


Record = Callable[[int, dict[str, float]], None]
Save = Callable[[Progress], None]
Stop = Callable[[], int]


def fit(
    model: GPT,
    optimizers: list[Optimizer],
    train_tokens: np.ndarray,
    val_tokens: np.ndarray,
    settings: Settings,
    world: World,
    progress: Progress,
    record: Record,
    save: Save,
    stop: Stop = lambda: 0,
) -> None:
    """Train `model` in place from `progress.step` to the last step.

    Every `eval_interval` steps, and at both ends, the whole validation split is scored and `save`
    called; `progress.best_step == progress.step` says that this is the best so far. The global
    batch does not depend on processes, micro-batch or restarts, and so, up to rounding and but for
    dropout's masks, neither does the loss.

    Args:
        stop: asked before each step; a number that is not 0 is a signal to save and stop.

    Raises:
        Stopped: `stop` said so; the state is saved.
        UserError: the loss is no longer a number, or too many gradients in a row were not.
    """
    train, context = settings.train, settings.model.context
    # a validation has windows of its own number and length: each shape is compiled for itself
    core = torch.compile(model, dynamic=False) if world.compile else model
    wrapped = world.wrap(core)  # type: ignore[arg-type]
    parameters = [p for p in model.parameters() if p.requires_grad]
    half = world.compute == torch.float16
    guard = Guard(vars(progress), train.max_skips, half, world.device)
    peak = peak_flops(world.device)
    sums = _carried(progress, world)
    norm = torch.tensor(math.nan)
    passes = pass_count(settings, model.config.vocab_size, world)
    model.train()
    progress_bar = bar(train.steps, "train", "step", initial=progress.step, disable=world.rank > 0)
    started = time.perf_counter() - progress.seconds
    clock, timed_steps = time.perf_counter(), 0

    def keep() -> None:
        progress.loss_sum, progress.loss_steps = world.sum(sums.clone()).tolist()
        progress.seconds = time.perf_counter() - started
        vars(progress).update(guard.state())
        save(progress)

    def stop_if_told() -> float:
        """Seconds so far, the same for all processes, unless one of them is told to stop."""
        world.check_parent()
        signal, seconds = world.largest(stop(), time.perf_counter() - started)
        if signal:
            keep()
            raise Stopped(f"stopped at step {progress.step:,}, which is saved", int(signal))
        return seconds

    def point() -> None:
        """Record a point of the training curve, over the steps since the last one."""
        nonlocal clock, timed_steps
        skipped = guard.check(progress.step)
        loss_sum, loss_steps = world.sum(sums).tolist()
        if not math.isfinite(loss_sum):
            raise diverged(f"the training loss is {loss_sum} at step {progress.step}")
        metrics = {
            "learning_rate": optimizers[0].param_groups[0]["lr"],
            "skipped_steps": float(skipped),
        }
        if loss_steps:
            metrics |= {"train_loss": loss_sum / loss_steps, "grad_norm": norm.item()}
        if timed_steps:
            seconds = (time.perf_counter() - clock) / timed_steps
            speed = train.batch_size * context / seconds
            metrics |= {"tokens_per_second": speed, "step_ms": 1000 * seconds}
            if peak:
                metrics["mfu"] = model.flops_per_token(context) * speed / (peak * world.size)
        record(progress.step, metrics)
        sums.zero_()
        progress.pending = 0
        clock, timed_steps = time.perf_counter(), 0

    while True:
        seconds = stop_if_told()
        position = _schedule_step(progress.step, seconds, train)
        at_end = position >= train.steps or progress.stale >= (train.patience or math.inf)
        due = progress.step % train.eval_interval == 0 or at_end
        if progress.pending and (progress.pending >= train.log_interval or at_end):
            point()
        if due and progress.scored_step < progress.step:
            paused = time.perf_counter()
            return_freed_memory()
            nats, count = total_loss(
                core,  # type: ignore[arg-type]
                val_tokens,
                context,
                world,
                lambda _: stop_if_told(),
            )
            val_loss = nats / count
            if not math.isfinite(val_loss):
                raise diverged(f"the validation loss is {val_loss} at step {progress.step}")
            if progress.scored_step < 0:
                progress.first_loss = val_loss
            progress.scored_step = progress.step
            progress.stale += 1
            if val_loss < progress.best_loss:
                progress.best_step, progress.best_loss = progress.step, val_loss
                progress.stale = 0
            record(progress.step, {"val_loss": val_loss})
            progress_bar.set_postfix_str(f"val loss {val_loss:.4f}", refresh=False)
            keep()
            clock += time.perf_counter() - paused
            continue  # the time and the patience that are left have changed
        if at_end:
            break

        optim.set_rate(optimizers, optim.rate(progress.step, position, train))
        loss = _accumulate(
            wrapped, train_tokens, settings, world, progress.step, passes, guard.scale
        )
        norm = guard.norm(parameters, train.grad_clip)
        bad = guard.step(optimizers, norm)
        # each step is counted once, by the first process
        good = torch.stack((loss, torch.full_like(loss, float(world.rank == 0))))
        sums += torch.where(bad > 0, torch.zeros_like(sums), good)
        progress.step += 1
        progress.pending += 1
        timed_steps += 1
        progress_bar.update()
    progress_bar.close()


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


def _accumulate(
    model: torch.nn.Module,
    tokens: np.ndarray,
    settings: Settings,
    world: World,
    step: int,
    passes: int,
    scale: Tensor,
) -> Tensor:
    """Add up the gradient of the global batch's mean loss; returns this process's part of it."""
    train, context = settings.train, settings.model.context
    starts = window_starts(settings.seed, step, train.batch_size, len(tokens), context)
    share = np.array_split(starts, world.size)[world.rank]
    # the same number for all processes: with fsdp each pass is a meeting of them
    parts = np.array_split(share, passes)
    total = torch.zeros((), device=world.device)
    for index, part in enumerate(parts):
        if settings.model.dropout:
            # the masks are a function of step, process and pass: a restart draws the same ones
            seed = np.random.SeedSequence([settings.seed, step, world.rank, index])
            torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        world.meet(model, last=index == len(parts) - 1)
        ids, targets = (
            t.to(world.device, non_blocking=True)
            for t in gather(tokens, part if len(part) else starts[:1], context)
        )
        loss = model(ids, targets)[1].sum() / (train.batch_size * context)
        if not len(part):
            loss = loss * 0.0
        # gradients are averaged over the processes; the loss is a share of a sum
        (loss * (world.size * scale)).backward()
        total += loss.detach()
    return total


def _carried(progress: Progress, world: World) -> Tensor:
    """Loss and steps since the last point, on one process: the others' parts are in it.

    In float64 sums of float32 losses are exact, so that they do not depend on their order.
    """
    values = [progress.loss_sum, progress.loss_steps] if world.rank == 0 else [0.0, 0.0]
    dtype = torch.float32 if world.device.type == "mps" else torch.float64
    return torch.tensor(values, device=world.device, dtype=dtype)
