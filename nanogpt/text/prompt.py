"""What a sample goes on from."""

from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.settings import Sample
from nanogpt.text.tokenizer import Tokenizer


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
