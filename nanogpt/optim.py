"""Muon and AdamW groups, and the learning-rate schedules."""

import math

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from nanogpt.config import Train


def build(model: nn.Module, train: Train) -> list[Optimizer]:
    """The optimizers of a model.

    `adamw` alone, or `muon` (Jordan et al. 2024) for the hidden matrices with AdamW for embeddings,
    head, norms and biases. Only matrices decay. Each group keeps its peak rate as `peak`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    hidden = [
        p
        for name, p in model.named_parameters()
        if train.optimizer == "muon" and "blocks." in name and p.ndim == 2
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for p in parameters if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        AdamW(
            [group for group in groups if group["params"]],
            lr=train.learning_rate,
            betas=(train.beta1, train.beta2),
            fused=parameters[0].device.type in ("cpu", "cuda"),
        )
    ]
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                lr=train.muon_learning_rate,
                momentum=train.muon_momentum,
                weight_decay=train.weight_decay,
                adjust_lr_fn="original",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate(step: int, train: Train) -> float:
    """Share of the peak learning rate that `step` (from 0) takes: warm-up, then the schedule.

    wsd: full until the last `decay_steps`, then linear to `min_lr_ratio` (Hu et al. 2024).
    cosine: nanoGPT's, from the end of warm-up to `decay_steps`, then `min_lr_ratio`.
    """
    if step < train.warmup_steps:
        return (step + 1) / (train.warmup_steps + 1)
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "wsd":
        left = (train.steps - step) / max(1, train.decay_steps)
        share = min(1.0, left)
    else:
        done = (step - train.warmup_steps) / (train.decay_steps - train.warmup_steps)
        share = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return train.min_lr_ratio + (1.0 - train.min_lr_ratio) * share


def set_rate(optimizers: list[Optimizer], share: float) -> None:
    """Set every group's learning rate to `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def state_tensors(optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    """The optimizers' moments and counters under flat names, for a checkpoint."""
    return {
        f"optimizer.{place}.{index}.{name}": value
        for place, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_state_tensors(optimizers: list[Optimizer], tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `state_tensors` gave."""
    for place, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            kind, where, *rest = key.split(".")
            if kind == "optimizer" and where == str(place):
                state.setdefault(int(rest[0]), {})[rest[1]] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
