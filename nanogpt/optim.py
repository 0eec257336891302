"""AdamW and Muon, and the learning-rate schedules."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import AdamW, Optimizer

from nanogpt.model import GPT
from nanogpt.settings import Train


def build(model: GPT, train: Train) -> list[Optimizer]:
    """The optimizers of a model.

    `adamw` alone, or `muon` (Jordan et al. 2024) for the hidden matrices with AdamW for embeddings,
    head, norms and biases. Only matrices decay. Each group keeps its peak rate as `peak`.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    muon = train.optimizer == "muon"
    hidden = [p for name, p in named.items() if muon and "blocks." in name and p.ndim == 2]
    chosen = {id(p) for p in hidden}
    rest = [p for p in named.values() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        AdamW(
            [group for group in groups if group["params"]],
            lr=train.learning_rate,
            betas=(train.beta1, train.beta2),
            fused=True,
        )
    ]
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                model.fused_rows(),
                lr=train.muon_learning_rate,
                momentum=train.muon_momentum,
                weight_decay=train.weight_decay,
                compute=model.head.compute,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate(step: int, position: float, train: Train) -> float:
    """Share of the peak learning rate that `step` (from 0) takes: warm-up, then the schedule.

    After the warm-up the schedule goes by `position`: `step`, or further where time runs out.

    wsd: full until the last `decay_steps`, then linear to `min_lr_ratio` (Hu et al. 2024).
    cosine: nanoGPT's, from the end of warm-up to `decay_steps`, then `min_lr_ratio`.
    """
    if step < train.warmup_steps:
        return (step + 1) / (train.warmup_steps + 1)
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "wsd":
        left = (train.steps - position) / max(1, train.decay_steps)
        share = min(1.0, left)
    else:
        done = (position - train.warmup_steps) / (train.decay_steps - train.warmup_steps)
        share = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return train.min_lr_ratio + (1.0 - train.min_lr_ratio) * share


def set_rate(optimizers: list[Optimizer], share: float) -> None:
    """Set every group's learning rate to `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def state_tensors(model: GPT, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """The optimizers' moments and counters, `<parameter>.<name>`, to be saved or filled in place.

    An optimizer that has not stepped yet gets the state that it would start with.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        if not optimizer.state:
            _allocate(optimizer)
    return {
        f"{names[p]}.{name}": value
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for name, value in state.items()
    }


def _allocate(optimizer: Optimizer) -> None:
    """Have an optimizer make its state, by a step of rate zero on gradients of zero."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


# Coefficients (a, b, c) of p(x) = a x + b x³ + c x⁵: the first three steps of Polar Express (Amsel
# et al. 2025). Singular values end up between about 0.2 and 1.9, not at 1: that costs 40 % less
# than the five steps of Jordan et al. and trains no worse (lab book).
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
WHOLE = 2**26  # weights that are gathered from fsdp's shards, or copied, at a time


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

    Unlike `torch.optim.Muon` it works on the matrices of one shape at once (a third faster on small
    models), in the type asked for, on FSDP's shards, on the parts of a fused matrix one by one, and
    can skip a step without asking the device.

    Args:
        parameters: matrices (out, in).
        parts: rows of each part of a matrix that fuses several, such as queries, keys and values.
        compute: type of the products inside the orthogonalisation.

    A step multiplies by sqrt(max(1, out/in)), so that a rate means the same for every shape. Set
    `found_inf`, a tensor, to 1 and a step changes nothing (the convention of torch's fused AdamW).
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[Tensor],
        parts: Mapping[Tensor, list[int]],
        lr: float,
        momentum: float,
        weight_decay: float,
        compute: torch.dtype,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self._parts = parts
        self._compute = compute
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum"] = torch.zeros_like(p, requires_grad=False)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        keep = 1.0 if self.found_inf is None else 1 - self.found_inf
        for group in self.param_groups:
            for batch, rows in self._batches(p for p in group["params"] if p.grad is not None):
                updates = torch.stack([self._update(p, group["momentum"], keep) for p in batch])
                parts = torch.split(updates, rows, dim=1)  # (N, out, in), in parts of out
                done = torch.cat([self._orthogonal(part) for part in parts], dim=1)
                for p, update in zip(batch, done, strict=True):
                    weights = _local(p)
                    if group["weight_decay"]:
                        weights.mul_(1 - group["lr"] * group["weight_decay"] * keep)
                    weights.sub_(_own(update, p) * (group["lr"] * keep))

    def _update(self, p: Tensor, momentum: float, keep: float | Tensor) -> Tensor:
        """Nesterov's momentum of a parameter, whole: (out, in)."""
        assert p.grad is not None
        grad = _local(p.grad).nan_to_num(0.0, 0.0, 0.0)
        memory = _local(self.state[p]["momentum"])
        memory.lerp_(grad, torch.as_tensor((1 - momentum) * keep, device=grad.device))
        update = grad.lerp(memory, momentum)
        if not isinstance(p, DTensor):
            return update
        shape, stride = p.shape, p.stride()
        return DTensor.from_local(
            update, p.device_mesh, p.placements, run_check=False, shape=shape, stride=stride
        ).full_tensor()

    def _batches(self, parameters: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], list[int]]]:
        """Matrices of one shape and the same parts, as many as may be whole in memory at once."""
        alike: dict[tuple[torch.Size, tuple[int, ...]], list[Tensor]] = {}
        for p in parameters:
            rows = tuple(self._parts.get(p, [p.shape[0]]))
            alike.setdefault((p.shape, rows), []).append(p)
        for (shape, rows), same in alike.items():
            size = max(1, WHOLE // shape.numel())
            for first in range(0, len(same), size):
                yield same[first : first + size], list(rows)

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        """`orthogonal`, of tall matrices too, times sqrt(max(1, out/in)): (N, out, in)."""
        tall = matrices.shape[1] > matrices.shape[2]
        x = orthogonal(matrices.mT if tall else matrices, self._compute)
        return x.mT * (matrices.shape[1] / matrices.shape[2]) ** 0.5 if tall else x


def _local(tensor: Tensor) -> Tensor:
    """This process's shard, sharing memory; of an ordinary tensor, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own(whole: Tensor, like: Tensor) -> Tensor:
    """The shard of `whole` that this process keeps of `like`; every process has the whole."""
    if not isinstance(like, DTensor):
        return whole
    replicas = [Replicate()] * like.device_mesh.ndim
    everywhere = DTensor.from_local(whole, like.device_mesh, replicas, run_check=False)
    return _local(everywhere.redistribute(placements=like.placements))


def orthogonal(matrices: Tensor, compute: torch.dtype) -> Tensor:
    """U S' Vᵀ of each U S Vᵀ, S' near 1: (N, out, in) with out ≤ in, in float32."""
    # the iteration wants singular values up to 1; the norm bounds them, rounding aside
    norm = matrices.norm(dim=(-2, -1), keepdim=True)
    x: Tensor = (matrices / (1.01 * norm).clamp(min=1e-20)).to(compute)
    for a, b, c in POLAR_EXPRESS:
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.float()
