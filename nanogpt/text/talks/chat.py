"""Conversations: what somebody said, and what the assistant answered.

    conversation = parse({"messages": [{"role": "user", "content": "2 + 2?"}, ...]}, "messages")
    Conversation.from_json(conversation.to_json()) == conversation

Taken are OpenAI's form (a list of messages with role and content), ShareGPT's (from and value), and
a prompt with its completion: each of them a text, or such a list.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from nanogpt.settings import Fields, TextField

ROLES = ("system", "user", "assistant")
OPENAI = {role: role for role in ROLES}
SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant"}
# keys of a message that change what it says, and that are not read
UNREAD = ("tool_calls", "function_call", "tool_call_id", "audio", "reasoning_content", "thinking")


@dataclass(frozen=True)
class Message:
    role: str  # one of ROLES
    content: str


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]

    def to_json(self) -> str:
        """A list of messages in OpenAI's form, in one line."""
        return json.dumps([asdict(message) for message in self.messages], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        return cls(tuple(Message(**values) for values in json.loads(text)))


def columns(text_field: TextField | tuple[str, ...]) -> tuple[str, ...]:
    """The fields of a document that make a conversation; none: its documents are texts."""
    match text_field:
        case Fields(messages=str(name)) | ("messages" as name):
            return (name,)
        case Fields(prompt=str(prompt), completion=str(completion)):
            return prompt, completion
        case ["prompt", "completion"]:
            return "prompt", "completion"
    return ()


def parse(values: Mapping[str, Any], text_field: TextField | tuple[str, ...]) -> Conversation:
    """The conversation in a document.

    Args:
        values: what the document holds in each of `columns(text_field)`, by its name.

    Raises:
        ValueError: it is none, or not one of texts alone; says which message and why.
    """
    match columns(text_field):
        case (name,):
            found = _messages(values[name], name)
        case prompt, completion:
            found = [
                *_messages(values[prompt], prompt, "user"),
                *_messages(values[completion], completion, "assistant"),
            ]
    if not any(message.role == "assistant" for message in found):
        raise ValueError("has no message of the assistant, from which alone there is to learn")
    return Conversation(tuple(found))


def _messages(value: Any, name: str, role: str | None = None) -> list[Message]:
    """The messages in a field.

    Args:
        role: who says it, where the field is no list but a text.
    """
    if isinstance(value, str) and role:
        return [Message(role, _text(value, f"its {name!r}"))]
    if isinstance(value, str):  # as a cell of a .csv has it
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple):
        wanted = "a text or a list of messages" if role else "a list of messages"
        raise ValueError(f"has no conversation in {name!r}, which should be {wanted}")
    if not value:
        raise ValueError(f"has no message in {name!r}")
    return [_message(one, f"message {i} in {name!r}") for i, one in enumerate(value, start=1)]


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: {value!r:.50} is no message with a role and a content")
    if "from" in value and "role" not in value:
        role, content, known = value["from"], value.get("value"), SHAREGPT
    else:
        role, content, known = value.get("role"), value.get("content"), OPENAI
    if role not in list(known):
        tools = "; calls of tools are not read" * (role in ("tool", "function", "function_call"))
        raise ValueError(f"{place} is of {role!r}, which should be {', '.join(known)}{tools}")
    for key in UNREAD:
        if value.get(key):
            raise ValueError(f"{place} has {key!r}, which is not read; leave the conversation out")
    if value.get("weight", 1) not in (1, None):
        raise ValueError(f"{place} has a weight that is not 1; each answer counts alike")
    role = known[role]
    if isinstance(content, list | tuple):
        content = "".join(_part(part, place) for part in content)
    if content is None:
        raise ValueError(f"{place} has no content")
    if not isinstance(content, str):
        raise ValueError(f"{place}: its content {content!r:.50} is no text")
    return Message(role, content if role == "system" and not content else _text(content, place))


def _part(part: Any, place: str) -> str:
    """A part of a content: of several kinds that there are, text alone is read."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": kind}:
            pass
        case kind:
            pass
    raise ValueError(f"{place} has a part of kind {kind!r:.50}; text alone is read")


def _text(content: str, place: str) -> str:
    if not content or content.isspace():
        raise ValueError(f"{place} says nothing")
    try:
        content.encode("utf-8")  # JSON can spell half a character, which UTF-8 cannot
    except ValueError as error:
        raise ValueError(f"{place} cannot be read: {error}") from None
    return content
