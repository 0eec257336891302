"""A request → the texts that it asks a model for."""

import secrets
from collections.abc import Sequence
from typing import Any

from nanogpt.common.errors import UserError
from nanogpt.generation.options import Options
from nanogpt.serving.answers import ChatForm, Form, TextForm
from nanogpt.serving.errors import Refused
from nanogpt.serving.formats import Asked, Chat, Completion
from nanogpt.serving.models import Limits, Model
from nanogpt.text.prompt import Start, answer, go_on
from nanogpt.text.talks.chat import Message

USUAL_TOKENS = 16  # OpenAI's, of /v1/completions; a conversation's answer ends by itself


def starts(asked: Asked, model: Model) -> list[Start]:
    """What the texts of a request go on from.

    Raises:
        Refused: the model cannot read it; says what, and where.
    """
    param = "messages" if isinstance(asked, Chat) else "prompt"
    try:
        if isinstance(asked, Completion):
            found = [_start(prompt, model) for prompt in asked.prompts]
        elif isinstance(asked, Chat) and model.template:
            roles = {"developer": "system"}  # OpenAI's newer name
            messages = [Message(roles.get(m.role, m.role), m.text) for m in asked.messages]
            # the library takes minutes to find thousands of them
            if (least := model.template.special_tokens(messages)) > model.context:
                raise _too_long(model, param, least)
            found = [answer(model.template, messages)]
        else:
            raise Refused(
                400,
                f"{model.id} has no chat template: it was not trained on conversations; ask"
                " /v1/completions to go on from a text",
                param="model",
            )
    except UserError as error:
        said = str(error)
        if model.template:  # which names the folder that it was read from, no matter of a client's
            said = said.replace(f"{model.template.folder}: its", f"{model.id}: its")
        raise Refused(400, said, param=param) from None
    longest = max(len(start.ids) for start in found)
    if longest > model.context:
        raise _too_long(model, param, longest)
    return found


def _too_long(model: Model, param: str, tokens: int) -> Refused:
    return Refused(
        400,
        f"this model's context is {model.context:,} tokens, and {param} has {tokens:,} at least",
        param=param,
        code="context_length_exceeded",
    )


def _start(prompt: str | list[int], model: Model) -> Start:
    if isinstance(prompt, str):
        return go_on(model.tokenizer, prompt)
    if strangers := [i for i in prompt if i not in model.tokenizer.ids]:
        raise UserError(f"the vocabulary has no token {strangers[0]}")
    if not prompt:
        return go_on(model.tokenizer, "")
    return Start(prompt, model.tokenizer.decode(prompt))


def options(asked: Asked, model: Model, limits: Limits) -> list[Options]:
    """How each of the `n` texts goes on.

    The first has the seed of the request, the others seeds that follow from it.

    Raises:
        Refused: more is asked for than this server does.
    """
    usual = model.defaults
    tokens, name = asked.max_tokens, "max_tokens"
    if isinstance(asked, Chat) and asked.max_completion_tokens is not None:
        tokens, name = asked.max_completion_tokens, "max_completion_tokens"
    if tokens is None:
        most = limits.tokens if isinstance(asked, Chat) else USUAL_TOKENS
        tokens = min(usual.max_new_tokens or most, limits.tokens)
    for param, value, most in ((name, tokens, limits.tokens), ("n", asked.n, limits.n)):
        if value > most:
            raise Refused(400, f"{param} {value:,}: at most {most:,} here", param=param)
    texts = asked.n * (len(asked.prompts) if isinstance(asked, Completion) else 1)
    if texts > (most := min(limits.n, limits.slots + limits.queue)):
        raise Refused(400, f"prompts times n are {texts:,} texts: at most {most:,} here")
    top_k = _given(asked.top_k, usual.top_k)
    logprobs, echo = None, False
    if isinstance(asked, Completion):
        logprobs, echo = asked.logprobs, asked.echo
    elif isinstance(asked, Chat) and asked.logprobs:
        logprobs = asked.top_logprobs or 0
    first = Options(
        tokens=tokens,
        temperature=_given(asked.temperature, usual.heat),
        seed=secrets.randbits(32) if asked.seed is None else asked.seed,
        top_k=top_k or None,
        top_p=_given(asked.top_p, usual.top_p),
        min_p=_given(asked.min_p, usual.min_p) or None,
        repetition_penalty=_given(asked.repetition_penalty, usual.repetition_penalty),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        stop=asked.stops,
        logprobs=logprobs,
        prompt_logprobs=echo and logprobs is not None,
        past=asked.past_context,
    )
    return [first.nth(index) for index in range(asked.n)]


def _given(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def check(model: Model, found: Sequence[Start], how: Sequence[Options]) -> None:
    """Refuse what the engine would.

    Raises:
        Refused: says why.
    """
    try:
        for start in found:
            model.engine.check(start, how[0])
    except UserError as error:
        raise Refused(400, str(error)) from None


def form(asked: Asked, model: Model) -> Form:
    """In which form the answer is."""
    counts = bool(asked.stream_options and asked.stream_options.include_usage)
    common = (model.id, model.fingerprint, counts)
    if isinstance(asked, Completion):
        return TextForm(*common, echo=asked.echo, logprobs=asked.logprobs)
    assert isinstance(asked, Chat)
    return ChatForm(*common, logprobs=asked.logprobs)
