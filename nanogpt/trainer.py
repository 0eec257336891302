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
from nanogpt.batches import gather, window_starts
from nanogpt.config import Settings
from nanogpt.distributed import World
from nanogpt.errors import UserError
from nanogpt.evaluation import total_loss
from nanogpt.model import GPT
from nanogpt.progress import bar

MICRO_BATCH_TOKENS = 16384  # of one forward pass, where machine.micro_batch is auto


@dataclass
class Progress:
    """Where a training stands: with the weights and the optimizers, all that a resume needs."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last point of the curve
    loss_steps: int = 0
    best_step: int = -1
    best_loss: float = math.inf
    loss_scale: float = 65536.0  # float16 alone scales its loss
    loss_scale_age: int = 0


Record = Callable[[int, dict[str, float]], None]
Save = Callable[[Progress], None]


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
) -> None:
    """Train `model` in place from `progress.step` to the last step.

    Every `eval_interval` steps, and at both ends, the whole validation split is scored and `save`
    called; `progress.best_step == progress.step` says that this is the best so far. The global
    batch, hence the loss up to rounding, does not depend on processes, micro-batch or restarts.

    Raises:
        UserError: the loss is no longer a number.
    """
    train, context = settings.train, settings.model.context
    core = torch.compile(model) if world.compile else model
    wrapped = world.wrap(core)  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler(
        world.device.type,
        init_scale=progress.loss_scale,
        enabled=world.compute == torch.float16,
    )
    if scaler.is_enabled():
        scaler.load_state_dict(
            scaler.state_dict()
            | {"scale": progress.loss_scale, "_growth_tracker": progress.loss_scale_age}
        )
    loss_sum = _carried(progress, world)
    model.train()
    progress_bar = bar(train.steps, "train", "step", initial=progress.step, disable=world.rank > 0)
    resumed = progress.best_step >= 0  # the save that it goes on from has been scored
    clock, timed_steps = time.perf_counter(), 0

    while True:
        at_end = progress.step == train.steps
        if (progress.step % train.eval_interval == 0 or at_end) and not resumed:
            paused = time.perf_counter()
            nats, count = total_loss(core, val_tokens, context, world)  # type: ignore[arg-type]
            val_loss = nats / count
            if not math.isfinite(val_loss):
                raise _diverged(progress.step, "validation loss", val_loss)
            if val_loss < progress.best_loss:
                progress.best_step, progress.best_loss = progress.step, val_loss
            record(progress.step, {"val_loss": val_loss})
            progress_bar.set_postfix_str(f"val loss {val_loss:.4f}", refresh=False)
            progress.loss_sum = world.sum(loss_sum).item()
            loss_sum = _carried(progress, world)
            if scaler.is_enabled():
                scales = scaler.state_dict()
                progress.loss_scale = scales["scale"]
                progress.loss_scale_age = scales["_growth_tracker"]
            save(progress)
            clock += time.perf_counter() - paused
        resumed = False
        if at_end:
            break

        world.check_parent()
        optim.set_rate(optimizers, optim.rate(progress.step, train))
        loss = _accumulate(wrapped, train_tokens, settings, world, progress.step, scaler)
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip or math.inf)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        scaler.update()
        loss_sum = loss_sum + loss
        progress.loss_steps += 1
        progress.step += 1
        timed_steps += 1
        progress_bar.update()

        if progress.step % train.log_interval == 0 or progress.step == train.steps:
            mean = world.sum(loss_sum).item() / progress.loss_steps
            if not math.isfinite(mean):
                raise _diverged(progress.step, "training loss", mean)
            seconds = (time.perf_counter() - clock) / timed_steps
            record(
                progress.step,
                {
                    "train_loss": mean,
                    "learning_rate": train.learning_rate * optim.rate(progress.step - 1, train),
                    "grad_norm": norm.item(),
                    "tokens_per_second": train.batch_size * context / seconds,
                    "step_ms": 1000 * seconds,
                },
            )
            loss_sum, progress.loss_steps = torch.zeros_like(loss_sum), 0
            clock, timed_steps = time.perf_counter(), 0
    progress_bar.close()


def _accumulate(
    model: torch.nn.Module,
    tokens: np.ndarray,
    settings: Settings,
    world: World,
    step: int,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Add up the gradient of the global batch's mean loss; returns this process's part of it."""
    train, machine, context = settings.train, settings.machine, settings.model.context
    starts = window_starts(settings.seed, step, train.batch_size, len(tokens), context)
    share = np.array_split(starts, world.size)[world.rank]
    micro = (
        max(1, MICRO_BATCH_TOKENS // context)
        if machine.micro_batch == "auto"
        else machine.micro_batch
    )
    parts = np.array_split(share, max(1, math.ceil(len(share) / micro)))
    total = torch.zeros((), device=world.device)
    for index, part in enumerate(parts):
        if settings.model.dropout:
            # the masks too are a function of the step alone: a restart draws the same ones
            seed = np.random.SeedSequence([settings.seed, step, world.rank, index])
            torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        if world.size > 1:
            model.require_backward_grad_sync = index == len(parts) - 1  # type: ignore[assignment]
        ids, targets = (
            t.to(world.device, non_blocking=True) for t in gather(tokens, part, context)
        )
        loss = model(ids, targets)[1].sum() / (train.batch_size * context)
        # DDP averages gradients over the processes; the loss is a share of a sum
        scaler.scale(loss * world.size).backward()
        total += loss.detach()
    return total


def _carried(progress: Progress, world: World) -> Tensor:
    """The loss summed so far, on one process: the others' parts are in it, as after a resume."""
    return torch.tensor(progress.loss_sum if world.rank == 0 else 0.0, device=world.device)


def _diverged(step: int, what: str, value: float) -> UserError:
    return UserError(
        f"the {what} is {value} at step {step}: the training diverged. Try a lower"
        " train.learning_rate, more train.warmup_steps or a smaller train.grad_clip"
    )
