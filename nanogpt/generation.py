"""Sampling with a key-value cache."""

import torch
from torch import Tensor

from nanogpt.common.errors import UserError
from nanogpt.model import GPT, Cache
from nanogpt.text.tokenizer import Tokenizer


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    samples: int,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
) -> list[str]:
    """Continue `prompt` `samples` times by up to `tokens` tokens; each text starts with the prompt.

    A sample ends at the tokenizer's end of document. An empty prompt starts a document.

    Raises:
        UserError: the prompt has a character outside the vocabulary, or is empty where the
            vocabulary has no token that separates documents.
    """
    ids = tokenizer.encode(prompt)
    if not ids and tokenizer.eot is not None:
        ids = [tokenizer.eot]
    if not ids:
        raise UserError("the prompt is empty, and this vocabulary has no token to start from")
    device = next(model.parameters()).device
    text = torch.tensor([ids] * samples, device=device)  # (B, T)
    text = continue_ids(
        model, text, tokens, temperature, top_k, top_p, seed=seed, eot=tokenizer.eot
    )
    texts = []
    for row in text.tolist():
        new = row[len(ids) :]
        end = new.index(tokenizer.eot) if tokenizer.eot in new else None
        texts.append(prompt + tokenizer.decode(new[:end]))
    return texts


@torch.inference_mode()
def continue_ids(
    model: GPT,
    ids: Tensor,
    tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    seed: int,
    eot: int | None = None,
) -> Tensor:
    """Append up to `tokens` ids to each row of `ids` (B, T); stops when every row has met `eot`.

    Within the context each token costs one step of the cache. Past it, the model reads the last
    `context` tokens anew for each, as nanoGPT does: learned positions cannot slide, and a cache
    of keys that once saw older tokens would be another model.
    """
    context = model.config.context
    generator = torch.Generator(device=ids.device).manual_seed(seed)
    cache = Cache(model.config, len(ids), min(context, ids.shape[1] + tokens), ids.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    unread = ids[:, -context:]
    for _ in range(tokens):
        if cache.length + unread.shape[1] > context:
            cache.length = 0
            unread = ids[:, -context:]
        logits = model(unread, cache=cache)[0][:, -1]  # (B, V)
        unread = choose(logits, temperature, top_k, top_p, generator)  # (B, 1)
        ids = torch.cat((ids, unread), dim=1)
        if eot is not None:
            ended |= unread[:, 0] == eot
            if ended.all():
                break
    return ids


def choose(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Tensor:
    """Draw one id a row from logits (B, V): (B, 1). Temperature first, then top-k, then top-p.

    top-p keeps the fewest likeliest tokens whose probabilities reach it (Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)
