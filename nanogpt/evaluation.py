"""Loss over a whole split, every token scored exactly once."""

import math
from collections.abc import Callable

import numpy as np
import torch

from nanogpt.batches import gather
from nanogpt.machine.devices import windows_at_once
from nanogpt.machine.distributed import World
from nanogpt.model import GPT

TOKENS_AT_ONCE = 8192  # in one forward pass, at most


@torch.no_grad()  # not inference_mode: fsdp keeps the buffers that it gathers weights into
def total_loss(
    model: GPT,
    tokens: np.ndarray,
    context: int,
    world: World,
    advance: Callable[[int], object] = lambda windows: None,
    hear: Callable[[np.ndarray, np.ndarray], object] = lambda places, nats: None,
) -> tuple[float, int]:
    """Sum of the losses of all tokens that have one before them, in nats, and their number.

    The split is cut into windows of `context` tokens that do not overlap; the last may be shorter.
    The processes share the windows. `advance` hears of each pass how many windows it scored; all
    processes make the same number of passes, so that they may agree on something there.
    `hear` is given the losses that this process computed: the places of tokens in the split, and
    their nats, each (B, T).
    """
    was_training = model.training
    model.eval()
    count = len(tokens) - 1
    tail = count % context
    starts = np.arange(0, count - tail, context)
    size = windows_at_once(TOKENS_AT_ONCE, context, model.config.vocab_size, world.device)
    # (windows, their length): each process makes the same number of passes, some with no window
    passes = [(starts[i : i + size], context) for i in range(0, len(starts), size)]
    if tail:
        passes.append((np.array([count - tail]), tail))
    passes += [(starts[:0], context)] * (-len(passes) % world.size)
    nats = torch.zeros((), dtype=torch.float64)
    for part, length in passes[world.rank :: world.size]:
        # a process without windows takes part too: with fsdp all processes meet in each pass
        windows = part if len(part) else np.zeros(1, dtype=int)
        ids, targets = (t.to(world.device) for t in gather(tokens, windows, min(length, count)))
        losses = model(ids, targets)[1].cpu().double()
        nats += losses.sum() if len(part) else 0.0
        if len(part):
            hear(part[:, None] + np.arange(1, losses.shape[1] + 1), losses.numpy())
        advance(len(part))
    model.train(was_training)
    return world.sum(nats.to(world.device) if world.size > 1 else nats).item(), count


def window_total(tokens: np.ndarray, context: int) -> int:
    """Number of windows that `total_loss` scores, over all processes."""
    return math.ceil((len(tokens) - 1) / context)


def measures(nats: float, count: int, tokens: int, text_bytes: int) -> dict[str, float | int]:
    """The figures of an evaluation.

    Args:
        nats: summed loss. count: tokens scored. tokens: tokens of the split.
        text_bytes: UTF-8 bytes of the split's text.

    Returns:
        loss (nats a token), perplexity (e^loss), bits_per_byte (loss · tokens / (bytes · ln 2),
        which models with different tokenizers can be compared by), tokens (scored).
    """
    loss = nats / count
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": bits_per_byte(loss, tokens, text_bytes),
        "tokens": count,
    }


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """A loss in nats a token, of a text of so many tokens and UTF-8 bytes, in bits per byte."""
    return loss * tokens / text_bytes / math.log(2)
