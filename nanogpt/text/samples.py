"""Texts as Markdown, and back: `samples.md`; and questions of the held-out text."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from nanogpt.text.talks.chat import Conversation, Message
from nanogpt.text.tokens import HeldOut


class Question(NamedTuple):
    """What a model is asked."""

    messages: tuple[Message, ...]
    known: str = ""  # what the corpus answers

    def shown(self, answer: str) -> str:
        """The talk as a text to read, with an answer and the one that is known."""
        said = [(message.role, message.content) for message in self.messages]
        said += [("assistant", answer)] + [("in the corpus", self.known)] * bool(self.known)
        return "\n\n".join(f"[{who}]\n{what.strip()}" for who, what in said)


def questions(text: HeldOut, count: int) -> list[Question]:
    """The first conversations of a held-out text, each up to its last answer.

    Fewer where there are not so many; none of plain texts, nor of what the assistant says unasked.
    """
    return list(islice(_questions(text), count))


def _questions(text: HeldOut) -> Iterator[Question]:
    for index in text.talks():
        messages = Conversation.from_json(text.document(index).decode()).messages
        last = max(i for i, message in enumerate(messages) if message.role == "assistant")
        if last:
            yield Question(messages[:last], messages[last].content)


def to_markdown(heading: str, texts: dict[str, str]) -> str:
    """A page of texts by title, each in a fence that nothing in it can close."""
    blocks = []
    for title, text in texts.items():
        runs = re.findall("`+", text)
        fence = "`" * max(3, *(1 + len(run) for run in runs)) if runs else "```"
        blocks.append(f"## {title}\n\n{fence}text\n{text}\n{fence}\n")
    return f"# {heading}\n\n" + "\n".join(blocks)


def from_markdown(page: str) -> dict[str, str]:
    """The texts of such a page by title."""
    block = r"^## ([^\n]*)\n\n(`{3,})text\n(.*?)\n\2\n"
    return {found[1]: found[3] for found in re.finditer(block, page, re.DOTALL | re.MULTILINE)}
