"""What a line, an element or a row holds → its document, as `download.text_field` says.

document, lacks = document_of({"meta": {"text": "To be"}}, reading)
"""

import json
from collections.abc import Mapping
from typing import Any

from nanogpt.common.fields import fields_of
from nanogpt.text.kinds.found import MEND, Document, Unreadable, unix
from nanogpt.text.raw import Reading
from nanogpt.text.talks.chat import Conversation, Message, columns, parse

MISSING = object()
BETWEEN = "\n\n"  # several fields


def decode(line: str) -> Any:
    """The value that a text in JSON has.

    Raises:
        Unreadable: it is none.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable("broken JSON", f"cannot be read as JSON: {error}{MEND}") from None


def document_of(values: Any, reading: Reading) -> tuple[Document | None, str | None]:
    """The document in some values, and what of it lacks; no document: there is null.

    Args:
        values: by the names of their fields; or a text, which then is the document.

    Raises:
        Unreadable: it is not there, or no text and no conversation.
    """
    field = reading.text_field
    if isinstance(field, str) and isinstance(values, dict) and field != "messages":
        text = values.get(field)
        if isinstance(text, str):  # at once, as nearly all are
            return _checked(text, reading), None
    names, roles = reading.names, columns(field)
    if isinstance(values, str) and not roles:
        return _checked(values, reading), None
    if not isinstance(values, Mapping):
        what = " and ".join(repr(name) for name in names)
        said = f"is no JSON object that has a text in a field {what}{MEND}"
        raise Unreadable("not an object", said)
    parts = {name: look_up(values, name) for name in names}
    missing = [name for name, part in parts.items() if part is MISSING]
    if missing and (roles or len(missing) == len(names)):
        said = f"has no text in a field {missing[0]!r}; its fields: {fields_of(values, missing[0])}"
        raise Unreadable("no such field", said)
    if roles:
        return (None if None in parts.values() else _conversation(parts, reading)), None
    for name in names:
        if not isinstance(parts[name], str | None) and parts[name] is not MISSING:
            said = f"has no text in a field {name!r}; its fields: {fields_of(values, name)}"
            raise Unreadable("not a text", said)
    texts: list[str] = [part for part in parts.values() if isinstance(part, str)]
    if not texts:
        return None, None
    lacks = [repr(name) for name, part in parts.items() if not isinstance(part, str)]
    note = f"no {' and no '.join(lacks)}: made of the other fields" if lacks else None
    return _checked(BETWEEN.join(filter(None, texts)), reading), note


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """What stands under a name, or at a path such as `meta.text`; a field of that name comes first.

    MISSING: there is no such field. Of what is null, every field is.
    """
    if name in values:
        return values[name]
    for end in (i for i in reversed(range(len(name))) if name[i] == "."):
        if name[:end] in values:
            inner = values[name[:end]]
            if inner is None:
                return None
            return look_up(inner, name[end + 1 :]) if isinstance(inner, Mapping) else MISSING
    return MISSING


def _conversation(parts: Mapping[str, Any], reading: Reading) -> Conversation:
    try:
        found = parse(parts, reading.text_field)
    except ValueError as error:
        raise Unreadable("not a conversation", f"{error}{MEND}") from None
    if reading.newlines == "unix":
        messages = (Message(one.role, unix(one.content)) for one in found.messages)
        found = Conversation(tuple(messages))
    _checked("".join(one.content for one in found.messages), reading)
    return found


def _checked(text: str, reading: Reading) -> str:
    try:
        text.encode("utf-8")  # JSON can spell half a character, which UTF-8 cannot
    except ValueError as error:
        raise Unreadable("half a character", f"cannot be read: {error}{MEND}") from None
    return unix(text) if reading.newlines == "unix" else text
