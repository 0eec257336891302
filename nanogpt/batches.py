"""(seed, step) → the global batch → this rank's share. No state: a restart needs only the step.

Each epoch cuts the tokens into windows anew, from a phase of its own, and visits every window once
in an order of its own. The global batch depends neither on the number of processes nor on the
size of a micro-batch.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nanogpt.common.errors import UserError


def window_count(length: int, context: int) -> int:
    """Windows in an epoch of `length` tokens: each needs `context` tokens and the one after.

    Raises:
        UserError: there is not one whole window.
    """
    # the phase moves windows by up to `context - 1` tokens, so that many must be to spare
    count = max((length - context) // context, min(1, (length - 1) // context))
    if count == 0:
        raise UserError(
            f"the training split has {length:,} tokens, too few for one window of model.context"
            f" {context} and the token after it: bring more text or lower model.context"
        )
    return count


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, length: int, context: int) -> np.ndarray:
    """Start of each window of an epoch, in the order of training: (windows,) int64."""
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    count = window_count(length, context)
    phase = random.integers(length - count * context)
    return random.permutation(count) * context + phase


def window_starts(seed: int, step: int, batch_size: int, length: int, context: int) -> np.ndarray:
    """Where the windows of the global batch of `step` start in the tokens: (batch_size,) int64."""
    count = window_count(length, context)
    visits = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(visits, count)
    starts = np.empty_like(visits)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        starts[here] = _epoch(seed, int(epoch), length, context)[places[here]]
    return starts


def gather(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, one token apart, of the windows at `starts`: two (B, T) int64."""
    windows = tokens[starts[:, None] + np.arange(context + 1)]  # (B, T + 1)
    ids = torch.from_numpy(windows.astype(np.int64))
    return ids[:, :-1], ids[:, 1:]
