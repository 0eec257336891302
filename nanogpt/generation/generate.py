"""Several texts to their ends."""

import logging
from collections.abc import Callable, Sequence

from nanogpt.generation.engine import Engine
from nanogpt.generation.options import Options
from nanogpt.model import GPT
from nanogpt.text.prompt import Start
from nanogpt.text.words.tokenizer import Tokenizer

log = logging.getLogger(__name__)

AT_ONCE = 16  # texts: each needs room for its context


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    starts: Sequence[Start],
    options: Sequence[Options],
    *,
    slots: int,
    hear: Callable[[int], object] = lambda count: None,
    show: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """A text for each start, by its options; it begins with the start's text.

    Args:
        slots: texts that grow at once.
        hear: is given how many tokens a step drew.
        show: is given the first text as it grows.

    Raises:
        UserError: as `Engine` and its `check`; or what a text ended with.
    """
    engine = Engine(model, tokenizer, min(slots, len(starts)))
    for name in tokenizer.special:
        if any(name in start.text for start in starts):
            log.warning("the prompt has %r written in it: read as letters, not as that token", name)
    context = model.config.context
    prompts = {id(start): len(start.ids) for start in starts}.values()  # one may have several texts
    if unread := [length - context for length in prompts if length > context]:
        log.warning(
            "%d of %d prompts are longer than the context of %d tokens: up to %d tokens at their"
            " beginning are not read",
            *(len(unread), len(prompts), context, max(unread)),
        )
    texts = [engine.add(*each) for each in zip(starts, options, strict=True)]
    while engine.busy:
        changed = engine.step()
        if failed := next((text.error for text in changed if text.error), None):
            raise failed
        hear(len(changed))
        if texts[0] in changed:
            show(starts[0].text + texts[0].text)
    return [start.text + text.text for start, text in zip(starts, texts, strict=True)]
