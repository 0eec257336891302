"""What a sample goes on from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.settings import Sample
from nanogpt.text.talks.chat import Message
from nanogpt.text.talks.template import Template
from nanogpt.text.words.tokenizer import Tokenizer


@dataclass(frozen=True)
class Start:
    """What a sample goes on from, as a model reads it."""

    ids: list[int]
    text: str  # that the sample begins with
    end: int | None = None  # what ends the sample, beside what ends a text


def go_on(tokenizer: Tokenizer, prompt: str) -> Start:
    """A text goes on.

    Raises:
        UserError: as `prompt_ids`.
    """
    return Start(prompt_ids(tokenizer, prompt), prompt)


def answer(template: Template, messages: Sequence[Message]) -> Start:
    """The assistant answers: the sample is its answer alone.

    Raises:
        UserError: the template refuses these messages; or the vocabulary lacks some of them.
    """
    return Start(template.prompt(messages), "", template.end)


def read_prompt(sample: Sample) -> str:
    """The prompt, or what its file holds.

    Raises:
        UserError: the file is not there, or not UTF-8.
    """
    if sample.prompt_file is None:
        return sample.prompt
    try:
        # as it is: no line end translated; but a byte order mark is no text
        return Path(sample.prompt_file).read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"sample.prompt_file: {sample.prompt_file!r} does not exist, seen from {Path.cwd()}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"sample.prompt_file: {sample.prompt_file!r} is not UTF-8 at byte {error.start}"
        ) from None


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a text goes on from: the prompt; if that is empty, a new document or, of a vocabulary
    that knows no documents, a new line.

    Raises:
        UserError: the prompt has a character outside the vocabulary, or is empty where there is
            nothing to start from.
    """
    if ids := [*tokenizer.begin, *tokenizer.encode(prompt)]:
        return ids
    if tokenizer.eot is not None:
        return [tokenizer.eot]
    try:
        return tokenizer.encode("\n")
    except UserError:
        raise UserError(
            "the prompt is empty, and this vocabulary has no token to start from; begin with some"
            " of the corpus's own characters"
        ) from None
