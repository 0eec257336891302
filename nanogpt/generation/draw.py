"""Drawing tokens: one for each row of logits, each row by options and a number of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.generation.options import Options

LARGE = 1e30  # that float32 has


def draw(logits: Tensor, options: Sequence[Options], numbers: Sequence[float]) -> Tensor:
    """Draw one id for each row of logits (B, V): (B,).

    Temperature first, then top-k, top-p and min-p. The id is where a row's number from [0, 1) lies
    in the cumulative distribution, so that a row's draw does not depend on other rows.
    """
    likeliest = logits.argmax(dim=-1)
    if not any(one.temperature for one in options):
        return likeliest

    def column(values: Sequence[float]) -> Tensor:  # (B, 1)
        return torch.tensor(values, device=logits.device)[:, None]

    # so that a small temperature makes no infinity: the largest becomes 0
    logits = logits - logits.gather(-1, likeliest[:, None])
    tiny = torch.finfo(logits.dtype).tiny
    logits = logits / column([min(max(one.temperature, tiny), LARGE) for one in options])
    V = logits.shape[-1]
    kept = [min(one.top_k or V, V) for one in options]
    if min(kept) < V:
        largest = logits.topk(max(k for k in kept if k < V)).values
        places = column([min(k, largest.shape[-1]) - 1 for k in kept])
        smallest = largest.gather(-1, places).masked_fill(column(kept) == V, -torch.inf)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if any(one.top_p is not None and one.top_p < 1 for one in options):
        # not 0, to which a float32 rounds the smallest: the likeliest is always kept
        shares = column([max(p, tiny) if (p := one.top_p or 2.0) < 1 else 2.0 for one in options])
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= shares, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    if any(one.min_p for one in options):
        least = column([one.min_p or 0.0 for one in options])
        least = least * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    numbers_ = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    # below the total, also where the product is rounded: else it would be past the last token
    aim = torch.minimum(numbers_ * total, total.nextafter(torch.zeros_like(total)))
    ids = torch.searchsorted(cumulative, aim, right=True)[:, 0]
    if all(one.temperature for one in options):
        return ids
    greedy = torch.tensor([one.temperature == 0 for one in options], device=logits.device)
    return torch.where(greedy, likeliest, ids)


class Penalties:
    """What a text's penalties take from its logits.

    Args:
        prompt: ids of the prompt.
        vocabulary: how many ids there are.
    """

    def __init__(
        self, options: Options, prompt: Sequence[int], vocabulary: int, device: torch.device
    ) -> None:
        self.options = options
        self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)  # in prompt or text
        self.seen[prompt] = True
        self.counts = torch.zeros(vocabulary, device=device)  # of the new text alone

    def add(self, i: int) -> None:
        """The text has one more token."""
        self.seen[i] = True
        self.counts[i] += 1

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (V,) without what is taken."""
        factor = self.options.repetition_penalty
        less = torch.where(logits > 0, logits / factor, logits * factor)
        logits = torch.where(self.seen, less, logits)
        logits = logits - self.options.presence_penalty * (self.counts > 0)
        logits = logits - self.options.frequency_penalty * self.counts
        # a factor that rounds to 0 makes infinities
        return logits.nan_to_num(nan=0.0, posinf=LARGE, neginf=-torch.inf)
