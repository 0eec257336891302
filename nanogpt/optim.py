"""Muon and AdamW groups, and the learning-rate schedules."""

import math

import torch
from torch.optim import AdamW, Optimizer

from nanogpt.config import Train
from nanogpt.model import GPT
from nanogpt.muon import Muon


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


def state_tensors(model: GPT, optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    """The optimizers' moments and counters, `<parameter>.<name>`, to be saved or filled in place.

    An optimizer that has not stepped yet gets the state that it would start with.
    """
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
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
