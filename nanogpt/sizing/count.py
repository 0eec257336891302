"""What a shape comes to: its parameters by part, and its operations a token.

    found = count(config_of(settings, vocab_size), context=64)      # lora=settings.train.lora
    found.parameters, found.flops_per_token

The model is built without data (torch's `meta` device), so what is counted is what is trained.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from nanogpt.architecture import GPTConfig
from nanogpt.model import GPT, Linear
from nanogpt.settings import FromScratch, Lora
from nanogpt.training import lora as adapters


@dataclass(frozen=True)
class Count:
    """Of one shape.

    Attributes:
        parts: name → parameters, of all layers together; a tied head has none of its own.
        matrices: weights that each token is multiplied with, a tied head's included: the N of
            scaling laws here, as in nanochat. What is only looked up costs nothing.
        trained: parameters that change: all of them, or the adapters alone.
        flops_per_token: of a training step (Chowdhery et al. 2022, appendix B).
    """

    parts: dict[str, int]
    layers: int
    matrices: int
    trained: int
    flops_per_token: float

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())


def config_of(settings: FromScratch, vocab_size: int) -> GPTConfig:
    """The shape that a recipe asks for, once its vocabulary is known."""
    shape = settings.model
    return GPTConfig(
        vocab_size=vocab_size, head_dim=shape.n_embd // shape.n_head, **shape.model_dump()
    )


def count(config: GPTConfig, context: int, lora: Lora | None = None) -> Count:
    """Count a shape, for windows of `context` tokens.

    Raises:
        UserError: `lora` names a matrix that the shape does not have.
    """
    with torch.device("meta"):
        model = GPT(config)
        if lora:
            adapters.add(model, lora)
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():  # each once: a tied head is the embedding
        parts[_part(name)] += parameter.numel()
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, Linear))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    flops = model.flops_per_token(context)
    return Count(dict(parts), config.n_layer, matrices, trained, flops)


def _part(name: str) -> str:
    """Where a parameter of the model belongs, in words."""
    if ".adapters." in name:
        return "adapters"
    top, _, rest = name.partition(".")
    if top != "blocks":
        return {"embedding": "token embedding", "norm": "last norm"}.get(top, top)
    inside = rest.split(".")[1]
    return {"attention": "attention", "mlp": "MLP"}.get(inside, "norms of blocks")
