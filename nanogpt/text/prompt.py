"""What a sample goes on from."""

from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.settings import Sample


def read_prompt(sample: Sample) -> str:
    """The prompt, or what its file holds.

    Raises:
        UserError: the file is not there, or not UTF-8.
    """
    if sample.prompt_file is None:
        return sample.prompt
    try:
        return Path(sample.prompt_file).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"sample.prompt_file: {sample.prompt_file!r} does not exist, seen from {Path.cwd()}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"sample.prompt_file: {sample.prompt_file!r} is not UTF-8 at byte {error.start}"
        ) from None
