"""The fields of a document, for a reader who named one that it does not have."""

from collections.abc import Mapping
from typing import Any

from nanogpt.common.recipe import did_you_mean

MOST, LONGEST = 20, 40  # fields; characters of an example


def fields_of(document: Mapping[str, Any], wanted: str) -> str:
    """Its fields, each with what it holds here, and which of them is to be named where."""
    shown = [f"{name} ({_short(value)})" for name, value in document.items()]
    more = f" and {len(shown) - MOST} more" if len(shown) > MOST else ""
    texts = [name for name, value in document.items() if isinstance(value, str)]
    return (
        f"{', '.join(shown[:MOST]) or 'none'}{more}; name the right one in download.text_field"
        + did_you_mean(wanted, texts)
    )


def _short(value: Any) -> str:
    text = repr(value[:LONGEST] if isinstance(value, str) else value)
    return f"{text[:LONGEST]}…" if len(text) > LONGEST else text
