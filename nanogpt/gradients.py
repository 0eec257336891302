"""Clip gradients, skip a step whose gradient is NaN or infinite, and scale float16's loss.

Everything is decided on the device: the CPU does not wait for it until a point of the curve, but
for MPS.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nanogpt.common.errors import UserError

FIRST_SCALE = 65536.0
GROWTH_INTERVAL = 2000  # good steps, after which float16's scale doubles


@dataclass
class GuardState:
    """What a guard resumes from."""

    loss_scale: float = 0.0  # 0: as a training starts
    scale_age: int = 0  # good steps since the scale changed
    skipped: int = 0  # steps
    skipped_in_a_row: int = 0


class Guard:
    """Steps the optimizers unless the gradient is NaN or infinite, and counts the steps it skips.

    float16 multiplies its loss by a scale that halves with each skipped step and grows again
    (Micikevicius et al. 2018); every other type has a scale of one.

    Args:
        state: of a training that goes on.
        max_skips: how many skipped steps in a row end the training.
        scaled: whether to scale the loss.
    """

    def __init__(
        self, state: GuardState, max_skips: int, scaled: bool, device: torch.device
    ) -> None:
        self._scaled = scaled
        self._max_skips = max_skips
        scale = (state.loss_scale or FIRST_SCALE) if scaled else 1.0
        self.scale = torch.tensor(scale, device=device)
        self._age = torch.tensor(state.scale_age, device=device)
        self._skipped = torch.tensor(state.skipped, device=device)
        self._in_a_row = torch.tensor(state.skipped_in_a_row, device=device)
        self._most_in_a_row = self._in_a_row.clone()

    def norm(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """The gradient's norm, without the loss's scale; then it is scaled to `limit` (0: not)."""
        if self._scaled:
            for p in parameters:
                assert p.grad is not None
                p.grad.div_(self.scale)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, optimizers: list[Optimizer], norm: Tensor) -> Tensor:
        """Step, unless `norm`, the gradient's, is NaN or infinite: then every weight stays.

        Returns:
            1.0 if the step was skipped, else 0.0.
        """
        bad = (~torch.isfinite(norm)).float()
        for optimizer in optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            # torch's AdamW for MPS does not look at it, so there the CPU waits
            if norm.device.type != "mps" or not bad:
                optimizer.step()
            optimizer.zero_grad()
        self._skipped += bad.long()
        # while the scale can still come down, the training has not diverged
        at_bottom = (self.scale <= 1).long()
        self._in_a_row = (self._in_a_row + at_bottom) * bad.long()
        self._most_in_a_row = torch.maximum(self._most_in_a_row, self._in_a_row)
        if self._scaled:
            self._age = (self._age + 1) * (1 - bad.long())
            grown = torch.where(self._age == GROWTH_INTERVAL, self.scale * 2, self.scale)
            self.scale = torch.where(bad > 0, (self.scale / 2).clamp(min=1), grown)
            self._age %= GROWTH_INTERVAL
        return bad

    def state(self) -> GuardState:
        """What a resume needs; waits for the device."""
        return GuardState(
            loss_scale=self.scale.item() if self._scaled else 0.0,
            scale_age=int(self._age),
            skipped=int(self._skipped),
            skipped_in_a_row=int(self._in_a_row),
        )

    def check(self, step: int) -> int:
        """Steps skipped so far; waits for the device.

        Raises:
            UserError: too many in a row.
        """
        if (most := int(self._most_in_a_row)) >= self._max_skips:
            raise diverged(
                f"the gradient was NaN or infinite in {most} steps in a row, up to step {step};"
                " they were skipped"
            )
        return int(self._skipped)


def diverged(what: str) -> UserError:
    """The error of a training that cannot go on."""
    return UserError(
        f"{what}: the training diverged. Try a lower train.learning_rate, more"
        " train.warmup_steps or a smaller train.grad_clip; that is another training, and this"
        " one's last save, of good weights, stays in its state folder"
    )
