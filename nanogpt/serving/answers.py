"""What OpenAI's clients expect as an answer, whole or piece by piece.

Source: OpenAI's API reference, Completions and Chat, and their streaming.
"""

import codecs
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from nanogpt.generation.text import Drawn
from nanogpt.serving.worker import Answer, Piece

IMPOSSIBLE = -9999.0  # the logarithm of 0, which JSON cannot say
DONE = b"data: [DONE]\n\n"


def event(values: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(values, separators=(",", ":")).encode() + b"\n\n"


def usage(answers: Sequence[Answer], n: int) -> dict[str, Any]:
    """Tokens of all: a prompt that has several answers counts once."""
    prompt = sum(answer.prompt_tokens for answer in answers[::n])
    completion = sum(answer.drawn for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class Form:
    """What the answers to one request have in common."""

    prefix: str
    kinds: tuple[str, str]  # of the whole, and of a piece

    def __init__(self, model: str, fingerprint: str, counts: bool) -> None:
        """
        Args:
            counts: whether a last piece says how many tokens there were.
        """
        self.counts = counts
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def first(self, index: int, answer: Answer) -> dict[str, Any] | None:
        """A choice before there is anything of it; None: there is nothing to say."""
        raise NotImplementedError

    def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
        """What is new of a choice."""
        raise NotImplementedError

    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        raise NotImplementedError

    def whole(self, answers: Sequence[Answer], n: int) -> bytes:
        """The answer in one."""
        choices = [self.whole_choice(index, answer) for index, answer in enumerate(answers)]
        values = {**self.head, "object": self.kinds[0], "choices": choices}
        return json.dumps(values | {"usage": usage(answers, n)}).encode()

    def piece(self, *choices: dict[str, Any], usage: dict[str, Any] | None = None) -> bytes:
        values = {**self.head, "object": self.kinds[1], "choices": choices}
        return event(values | {"usage": usage} if self.counts else values)


class TextForm(Form):
    """/v1/completions"""

    prefix, kinds = "cmpl", ("text_completion", "text_completion")

    def __init__(self, *common: Any, echo: bool, logprobs: int | None) -> None:
        super().__init__(*common)
        self.echo, self.logprobs = echo, logprobs
        self.places: dict[int, Places] = {}

    def first(self, index: int, answer: Answer) -> dict[str, Any] | None:
        return None

    def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
        tokens, text = piece.tokens, piece.text
        if index not in self.places:
            # what begins a text for its model is no part of it, and stands before it
            before = b"".join(drawn.bytes for drawn in answer.prompt).decode(errors="replace")
            self.places[index] = Places(len(answer.start.text) - len(before))
            if self.echo:
                text, tokens = answer.start.text + text, [*answer.prompt, *tokens]
        logprobs = None
        if self.logprobs is not None:
            logprobs = old_logprobs(tokens, self.places[index])
        about = {"index": index, "logprobs": logprobs, "finish_reason": piece.reason}
        return {"text": text, **about}

    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        return self.choice(index, answer, Piece(answer.text, answer.tokens, answer.reason))


class ChatForm(Form):
    """/v1/chat/completions"""

    prefix, kinds = "chatcmpl", ("chat.completion", "chat.completion.chunk")

    def __init__(self, *common: Any, logprobs: bool) -> None:
        super().__init__(*common)
        self.logprobs = logprobs

    def first(self, index: int, answer: Answer) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
        about = {"index": index, "logprobs": self._logprobs(piece.tokens)}
        delta = {"content": piece.text} if piece.text or piece.tokens else {}
        return {"delta": delta, **about, "finish_reason": piece.reason}

    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        about = {"index": index, "logprobs": self._logprobs(answer.tokens)}
        return {"message": message, **about, "finish_reason": answer.reason}

    def _logprobs(self, tokens: Sequence[Drawn]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            _chat_token(drawn.bytes, drawn.logprob)
            | {"top_logprobs": [_chat_token(stands, share) for _, stands, share in drawn.top]}
            for drawn in tokens
        ]
        return {"content": content, "refusal": None}


def _chat_token(stands: bytes, logprob: float | None) -> dict[str, Any]:
    token = stands.decode(errors="replace")
    return {"token": token, "logprob": _finite(logprob), "bytes": [*stands]}


class Places:
    """At which character of a text each of its tokens begins."""

    def __init__(self, start: int) -> None:
        self.next = start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def of(self, stands: bytes) -> int:
        """The place of the next token, whose bytes these are."""
        place = max(0, self.next)
        self.next += len(self._decoder.decode(stands))
        return place


def old_logprobs(tokens: Sequence[Drawn], places: Places) -> dict[str, Any]:
    """The form of /v1/completions, and beside it the bytes of each token.

    The likeliest tokens are with the one that was drawn, likely or not.
    """
    top = []
    for drawn in tokens:
        likely = {_named(stands): _finite(share) for _, stands, share in drawn.top}
        likely.setdefault(_named(drawn.bytes), _finite(drawn.logprob))
        top.append(None if drawn.logprob is None else likely)
    return {
        "tokens": [_named(drawn.bytes) for drawn in tokens],
        "token_logprobs": [_finite(drawn.logprob) for drawn in tokens],
        "top_logprobs": top,
        "text_offset": [places.of(drawn.bytes) for drawn in tokens],
        "bytes": [[*drawn.bytes] for drawn in tokens],
    }


def _named(stands: bytes) -> str:
    """A token's text; that of a part of a character as OpenAI spells it."""
    try:
        return stands.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in stands)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, IMPOSSIBLE)
