"""Sampling with a key-value cache."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from nanogpt.common.errors import UserError
from nanogpt.model import GPT, Cache
from nanogpt.text.prompt import prompt_ids
from nanogpt.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


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
    hear: Callable[[Tensor], object] = lambda ids: None,
    show: Callable[[str], object] | None = None,
) -> list[str]:
    """Continue `prompt` `samples` times by up to `tokens` tokens; each text starts with the prompt.

    A sample ends at the tokenizer's end of document or at an end of the model's own. An empty
    prompt starts a document. Ids that the tokenizer does not have are never drawn: many models have
    more rows than it, for speed.

    Args:
        hear: is given each new id of all samples (B, 1) as it is drawn.
        show: is given the first text as it grows; while bytes of a character are still to come, it
            ends in U+FFFD.

    Raises:
        UserError: the prompt has a character outside the vocabulary, or is empty where the
            vocabulary has no token to start from; or the tokenizer is another model's.
    """
    config = model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, and the model only"
            f" {config.vocab_size:,} rows: they do not belong together"
        )
    for name in tokenizer.special:
        if name in prompt:
            log.warning("the prompt has %r written in it: read as letters, not as that token", name)
    words = tokenizer.encode(prompt)
    ids = prompt_ids(tokenizer, prompt)
    own = config.eos if isinstance(config.eos, tuple) else (config.eos,)
    ends = {*own, tokenizer.eot} - {None}
    device = next(model.parameters()).device

    def text_of(drawn: Iterable[int]) -> str:
        new = list(takewhile(lambda i: i not in ends, drawn))
        # together with what goes before: a decoder may take the first blank of a text away
        before, whole = tokenizer.decode(words), tokenizer.decode([*words, *new])
        new_text = whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(new)
        return prompt + new_text

    first: list[int] = []

    def hear_and_show(drawn: Tensor) -> None:
        hear(drawn)
        if show:
            first.append(int(drawn[0]))
            show(text_of(first))

    rows = continue_ids(
        model,
        torch.tensor([ids] * samples, device=device),  # (B, T)
        tokens,
        temperature,
        top_k,
        top_p,
        seed=seed,
        ends=ends,
        never=[i for i in range(config.vocab_size) if i not in tokenizer.ids],
        hear=hear_and_show,
    )
    return [text_of(row[len(ids) :]) for row in rows.tolist()]


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
    ends: Collection[int] = (),
    never: Sequence[int] = (),
    hear: Callable[[Tensor], object] = lambda ids: None,
) -> Tensor:
    """Append up to `tokens` ids to each row of `ids` (B, T), none of `never` among them.

    It stops when every row has met one of `ends`. `hear` is given the ids of each step (B, 1).

    Within the context each token costs one step of the cache. Past it, the model reads the last
    `context` tokens anew for each, as nanoGPT does: learned positions cannot slide, and a cache
    of keys that once saw older tokens would be another model.
    """
    context = model.config.context
    generator = torch.Generator(device=ids.device).manual_seed(seed)
    cache = Cache(model.config, len(ids), min(context, ids.shape[1] + tokens), ids.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    stop, left_out = (torch.tensor([*some], device=ids.device).long() for some in (ends, never))
    unread = ids[:, -context:]
    for _ in range(tokens):
        if cache.length + unread.shape[1] > context:
            cache.length = 0
            unread = ids[:, -context:]
        logits = model(unread, cache=cache)[0][:, -1]  # (B, V)
        logits = logits.index_fill(-1, left_out, -torch.inf)
        unread = choose(logits, temperature, top_k, top_p, generator)  # (B, 1)
        ids = torch.cat((ids, unread), dim=1)
        hear(unread)
        ended |= torch.isin(unread[:, 0], stop)
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
