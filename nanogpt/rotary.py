"""Rotary positions: pairs of a head's channels turn by an angle that grows with the position.

table = rotary_table(config)  # (2, T, D)
qk = rotate(qk, table)  # (B, H, T, D)
"""

import math

import torch
from torch import Tensor

from nanogpt.architecture import GPTConfig


def rotary_table(config: GPTConfig) -> Tensor:
    """Cosines and signed sines of every position, (2, T, D), after Su et al. 2021.

    With `rope_scaling` as in Llama 3.1 (Grattafiori et al. 2024; its reference `apply_scaling`): a
    pair that turns fewer than `low_freq_factor` times within the original context turns `factor`
    times slower, one that turns more than `high_freq_factor` times stays, between them both mix.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**half  # radians a token
    if scaling := config.rope_scaling:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        turns = scaling.original_max_position_embeddings / (2 * math.pi / frequencies)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = (1 - keep) * frequencies / scaling.factor + keep * frequencies
    positions = torch.arange(config.context, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn pairs (x[i], x[i + D/2]) by their angles: x (B, H, T, D), table (2, T, D)."""
    cos, sin = table  # the sines of the first half are negative
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
