"""Loss over a whole text, every token scored exactly once."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional as F

from nanogpt.batches import Batch, Text, gather
from nanogpt.machine.devices import windows_at_once
from nanogpt.machine.distributed import World
from nanogpt.model import GPT
from nanogpt.packing import Packing, Places

TOKENS_AT_ONCE = 8192  # in one forward pass, at most


@torch.no_grad()  # not inference_mode: fsdp keeps the buffers that it gathers weights into
def total_loss(
    model: GPT,
    text: Text,
    context: int,
    world: World,
    advance: Callable[[int], object] = lambda windows: None,
    hear: Callable[[np.ndarray, np.ndarray], object] = lambda places, nats: None,
) -> tuple[float, int]:
    """Losses of all tokens that count and have one before them: their sum in nats, their number.

    The text is cut into windows of `context` tokens that do not overlap; the last may be shorter.
    Where documents may not see each other, windows are packed of them, as in training.
    The processes share the windows. `advance` hears of each pass how many windows it scored; all
    processes make the same number of passes, so that they may agree on something there.
    `hear` is given the losses that this process computed: the places of tokens in the text, and
    their nats, both (tokens,).
    """
    was_training = model.training
    model.eval()
    size = windows_at_once(TOKENS_AT_ONCE, context, model.config.vocab_size, world.device)
    windows = _Cut(text, context)
    # (windows, their length): each process makes the same number of passes, some with no window
    passes = list(windows.passes(size))
    passes += [(windows.whole[:0], context)] * (-len(passes) % world.size)
    totals = torch.zeros(2, dtype=torch.float64)  # nats, tokens
    for numbers, length in passes[world.rank :: world.size]:
        # a process without windows takes part too: with fsdp all processes meet in each pass
        places = windows.places(numbers if len(numbers) else np.zeros(1, int), length)
        batch = gather(text, places)
        if world.compile:
            batch = padded(batch, len(passes[0][0]), context)
        batch = batch.to(world.device)
        losses = model(batch.ids, batch.targets, positions=batch.positions).cpu().double()
        losses = losses[: len(places.ids), : places.ids.shape[1]]
        at, counted = places.ids + 1, places.counted(text.counted)
        if counted is not None:
            at, losses = at[counted], losses[torch.from_numpy(counted)]
        if len(numbers):
            totals += torch.stack((losses.sum(), torch.tensor(losses.numel())))
            hear(at, losses.numpy())
        advance(len(numbers))
    model.train(was_training)
    nats, count = world.sum(totals.to(world.device) if world.size > 1 else totals).tolist()
    return nats, int(count)


def padded(batch: Batch, rows: int, context: int) -> Batch:
    """A batch of windows, with more of them and longer ones: what comes after changes no loss.

    Compiled, a model is compiled for each shape: of the last windows of a text it need not be.
    """
    B, T = batch.ids.shape
    widths = (0, context - T, 0, max(0, rows - B))
    return Batch(*(None if t is None else F.pad(t, widths) for t in batch))  # type: ignore[arg-type]


class ByPart:
    """Losses of a text by its parts, of what `total_loss` tells `hear`."""

    def __init__(self, text: Text) -> None:
        self.names = [name for name, _ in text.parts]
        self.stops = np.cumsum([tokens for _, tokens in text.parts])
        self.sums = np.zeros((2, len(self.names)))  # nats, tokens

    def hear(self, places: np.ndarray, nats: np.ndarray) -> None:
        part = np.searchsorted(self.stops, places.ravel(), side="right")
        self.sums[0] += np.bincount(part, nats.ravel(), len(self.names))
        self.sums[1] += np.bincount(part, minlength=len(self.names))

    def losses(self, world: World) -> dict[str, float]:
        """Nats a token of each part that has a token with a loss, over all processes."""
        sums = torch.from_numpy(self.sums)
        sums = world.sum(sums.to(world.device) if world.size > 1 else sums)
        found = zip(self.names, *sums.tolist(), strict=True)
        return {name: nats / count for name, nats, count in found if count}


def window_total(text: Text, context: int) -> int:
    """Number of windows that `total_loss` scores, over all processes."""
    return sum(len(numbers) for numbers, _ in _Cut(text, context).passes(1 << 20))


class _Cut:
    """The windows of a text, each token once."""

    def __init__(self, text: Text, context: int) -> None:
        self.context = context
        self.packing = None if text.documents is None else Packing([text.documents], context)
        self.count = len(text.ids) - 1  # targets of a text without borders
        if self.packing:
            self.whole = np.arange(self.packing.ends[-1])
        else:
            self.whole = np.arange(0, self.count - self.count % context, context)

    def passes(self, size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Windows, up to `size` of them, and their length in tokens."""
        for i in range(0, len(self.whole), size):
            yield self.whole[i : i + size], self.context
        if not self.packing and (tail := self.count % self.context):
            yield np.array([self.count - tail]), tail

    def places(self, numbers: np.ndarray, length: int) -> Places:
        if self.packing:
            return self.packing.places(numbers)
        return Places(numbers[:, None] + np.arange(min(length, self.count)))


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
