"""AdamW and Muon, and the learning-rate schedules."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import AdamW, Optimizer

from nanogpt.model import GPT
from nanogpt.settings import Train


def build(model: GPT, train: Train) -> list[Optimizer]:
    """The optimizers of a model.

    `adamw` alone, or `muon` (Jordan et al. 2024) for the hidden matrices with AdamW for embeddings,
    head, norms and biases, where an embedding that is not the head as well has a rate of its own: a
    row of it learns only when its token comes up. Only matrices decay. Each group keeps its peak
    rate as `peak`.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    muon = train.optimizer == "muon"
    hidden = [p for name, p in named.items() if muon and "blocks." in name and p.ndim == 2]
    chosen = {id(p) for p in hidden}
    alone = [p for name, p in named.items() if name == "embedding.weight"]
    alone = [p for p in alone if muon and p is not model.head.weight]
    chosen |= {id(p) for p in alone}
    rest = [p for p in named.values() if id(p) not in chosen]
    decay = train.weight_decay
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": alone, "weight_decay": decay, "lr": train.embedding_learning_rate},
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
        self._compute = compute
        self._stacks = [[*_stacks(group["params"], parts)] for group in self.param_groups]
        for stack in chain(*self._stacks):
            for index, p in enumerate(stack.parameters):
                if stack.momentum is None:
                    self.state[p]["momentum"] = torch.zeros_like(p, requires_grad=False)
                else:
                    self.state[p]["momentum"] = stack.momentum[index]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        keep = 1.0 if self.found_inf is None else 1 - self.found_inf
        for group, stacks in zip(self.param_groups, self._stacks, strict=True):
            for stack in stacks:
                one = stack.parameters[0]
                done = _own(
                    self._orthogonal(_whole(self._update(stack, group, keep), one), stack), one
                )
                weights = [_local(p) for p in stack.parameters]
                # of lists, a GPU is told once
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * keep)
                torch._foreach_sub_(weights, (done * (group["lr"] * keep)).unbind())

    def _update(self, stack: "Stack", group: dict[str, float], keep: float | Tensor) -> Tensor:
        """Nesterov's momentum of this process's part of matrices: (N, out, in)."""
        found = [p.grad for p in stack.parameters if p.grad is not None]
        grads = torch.stack([*map(_local, found)]).nan_to_num_(0.0, 0.0, 0.0)
        share = torch.as_tensor((1 - group["momentum"]) * keep, device=grads.device)
        if stack.momentum is not None:
            stack.momentum.lerp_(grads, share)
            return grads.lerp_(stack.momentum, group["momentum"])
        kept = [_local(self.state[p]["momentum"]) for p in stack.parameters]
        momentum = torch.stack(kept).lerp_(grads, share)
        torch._foreach_copy_(kept, momentum.unbind())
        return grads.lerp_(momentum, group["momentum"])

    def _orthogonal(self, matrices: Tensor, stack: "Stack") -> Tensor:
        """`orthogonal`, by parts, of tall ones too, times sqrt(max(1, out/in)): (N, out, in)."""
        rows, count = stack.rows, len(matrices)
        if len(rows) == 1 or rows.count(rows[0]) < len(rows):
            done = [self._scaled(part) for part in torch.split(matrices, rows, dim=1)]
            return torch.cat(done, dim=1) if len(done) > 1 else done[0]
        # (N, parts * out, in) -> (N * parts, out, in), and back
        return self._scaled(matrices.view(count * len(rows), rows[0], -1)).view_as(matrices)

    def _scaled(self, matrices: Tensor) -> Tensor:
        tall = matrices.shape[1] > matrices.shape[2]
        x = orthogonal(matrices.mT if tall else matrices, self._compute)
        return x.mT * (matrices.shape[1] / matrices.shape[2]) ** 0.5 if tall else x


class Stack(NamedTuple):
    """Matrices of one shape and the same parts, which are updated together."""

    parameters: list[Tensor]  # N of (out, in)
    rows: list[int]  # of the parts
    # (N, out, in); None where they are in shards: each has its own, since torch copies no shard
    # that is a part of another tensor, and so could not save it
    momentum: Tensor | None


def _stacks(parameters: Iterable[Tensor], parts: Mapping[Tensor, list[int]]) -> Iterator[Stack]:
    """All of the parameters, as many at a time as may be whole in memory at once."""
    alike: dict[tuple[torch.Size, tuple[int, ...]], list[Tensor]] = {}
    for p in parameters:
        rows = tuple(parts.get(p, [p.shape[0]]))
        alike.setdefault((p.shape, rows), []).append(p)
    for (shape, rows), same in alike.items():
        size = max(1, WHOLE // shape.numel())
        for first in range(0, len(same), size):
            some = same[first : first + size]
            one = some[0].detach()
            spread = isinstance(one, DTensor)
            yield Stack(some, list(rows), None if spread else one.new_zeros(len(some), *shape))


def _local(tensor: Tensor) -> Tensor:
    """This process's shard, sharing memory; of an ordinary tensor, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _spread(one: DTensor) -> list[Shard]:
    """How a stack of matrices is spread, of which one is spread by rows."""
    (placement,) = one.placements
    assert isinstance(placement, Shard)
    return [Shard(placement.dim + 1)]


def _whole(stack: Tensor, one: Tensor) -> Tensor:
    """All of a stack, (N, out, in), of which this process has what it has of each like `one`."""
    if not isinstance(one, DTensor):
        return stack
    shape = torch.Size((len(stack), *one.shape))
    stride = (one.numel(), *one.stride())
    return DTensor.from_local(
        stack, one.device_mesh, _spread(one), run_check=False, shape=shape, stride=stride
    ).full_tensor()


def _own(whole: Tensor, one: Tensor) -> Tensor:
    """What this process keeps of a stack; every process has all of it."""
    if not isinstance(one, DTensor):
        return whole
    everywhere = DTensor.from_local(whole, one.device_mesh, [Replicate()], run_check=False)
    return _local(everywhere.redistribute(placements=_spread(one)))


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
