"""What OpenAI's clients may ask for.

    asked = read(Chat, b'{"model": "plays", "messages": [{"role": "user", "content": "Who?"}]}')

What cannot be done here is refused by name, and so is a key that nobody knows; what changes no
answer (such as `user`) is passed over. Source: OpenAI's API reference, Completions and Chat.
"""

import json
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from nanogpt.common.recipe import did_you_mean
from nanogpt.common.section import Section
from nanogpt.serving.errors import Refused

PASSED_OVER = {
    *("user", "metadata", "store", "safety_identifier", "service_tier"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
}
# what is not done here, with the values that ask for nothing
OFF: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
DIGITS = 20  # of a whole number; more are no seed
# what may be of several kinds
SEVERAL = {
    "content": "a text, or a list of parts of type text",
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a text, or a list of at most 4, none of them empty",
}

A = TypeVar("A")
B = TypeVar("B", bound="Asked")
# one mistake is told: a million of them would take seconds, and a GB
Listed = Annotated[list[A], Field(fail_fast=True)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Id = Annotated[int, Field(ge=0, lt=2**32)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(Section):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None  # pieces are as long as they are


class Asked(Section):
    """What both kinds of requests have; None: the model's own default."""

    model: str
    n: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None  # 0: no limit
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    past_context: Literal["stop", "half"] = "stop"

    @model_validator(mode="before")
    @classmethod
    def only_what_is_done(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out what is null, what asks for nothing, and what changes no answer."""
        given = {key: value for key, value in values.items() if value is not None}
        for key, off in OFF.items():
            if key in given and given.pop(key) not in off:
                raise Refused(
                    400, f"{key} is not supported here", param=key, code="unsupported_parameter"
                )
        return {key: value for key, value in given.items() if key not in PASSED_OVER}

    @model_validator(mode="after")
    def check(self) -> "Asked":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options goes only with stream true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Completion(Asked):
    prompt: str | Listed[str] | Listed[Id] | Listed[Listed[Id]] = ""
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, as texts or as ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return prompt or [""]


class Part(Section):
    """A part of a content: text is the only kind that is read."""

    type: Literal["text"]
    text: str


class Said(Section):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Listed[Part]

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, values: Any) -> Any:
        """An answer's message may be sent back as it is, with `refusal` null."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Chat(Asked):
    messages: Annotated[Listed[Said], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def check_chat(self) -> "Chat":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes only with logprobs true")
        if None not in (both := {self.max_tokens, self.max_completion_tokens}) and len(both) > 1:
            raise ValueError("max_tokens is the older name of max_completion_tokens: say one")
        return self


def read(kind: type[B], body: bytes) -> B:
    """The request in a body.

    Raises:
        Refused: it is not JSON, or says something that cannot be.
    """
    try:
        text = body.decode("utf-8")
        values = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole
        )
        if "\\u" in text:  # JSON can spell half a character, which no UTF-8 has
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise Refused(400, "the body is nested too deep") from None
    except UnicodeEncodeError:
        raise Refused(400, "the body has half a character in it, a lone surrogate") from None
    except ValueError as error:
        raise Refused(400, f"the body cannot be read as JSON in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise Refused(400, "the body should be a JSON object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        param, said = _mistake(kind, error.errors()[0])
        raise Refused(400, said, param=param) from None


def _mistake(kind: type[Asked], detail: Any) -> tuple[str, str]:
    """Which part of a request is wrong, and what is, in a sentence."""
    path = ""
    for key in detail["loc"]:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
        if key in SEVERAL and detail["type"] != "extra_forbidden":
            return path, f"{path} should be {SEVERAL[key]}"
    match detail["type"]:
        case "value_error":
            path = str(detail["ctx"]["error"]).split(" ")[0]
            return path, str(detail["ctx"]["error"])
        case "extra_forbidden":
            return path, f"{path!r:.80} is no key that is known{did_you_mean(path, _keys(kind))}"
        case "missing":
            return path, f"{path} is missing"
    value = "" if isinstance(detail["input"], dict | list) else f", and not {detail['input']!r:.50}"
    return path, f"{path}: {detail['msg'].removeprefix('Input ')}{value}"


def _keys(kind: type[Asked]) -> list[str]:
    return [*kind.model_fields, *Said.model_fields, *StreamOptions.model_fields]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, other in pairwise(names) if name == other)
        raise ValueError(f"the key {twice!r:.50} is there twice")
    return values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)
