"""What a person types of a text or a base → what a recipe says of it, and the recipe's name."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pipelines.graph import RecipeError, root


def seen_from_root(given: str) -> str:
    """A path or glob of files that are here, as it is seen from the root; all else as it is.

    Raises:
        RecipeError: it is of that form, and there is no such file.
    """
    prefix = "file:" if given.startswith("file:") else ""
    path = given.removeprefix(prefix)
    if os.path.isabs(os.path.expanduser(path)):
        return given
    if os.path.exists(path) or glob.glob(path, recursive=True):
        seen = os.path.relpath(path, root())
        # with a slash typed it is no name of a corpus or a base
        return prefix + (f"./{seen}" if "/" in path and os.sep not in seen and not prefix else seen)
    if ":" in path:
        return given
    if prefix or glob.has_magic(path) or "/" in path or re.search(r"\.[A-Za-z]+$", path):
        raise RecipeError(
            f"no file matches {path!r}, seen from {Path.cwd()}; what is on the Hugging Face hub is"
            " hf:<id>@<revision>"
        )
    return given


def name_for(like: Path, given: Iterable[str]) -> str:
    """A name from the first word of the recipe that it is like, and what it is given."""
    words = [like.name.partition("_")[0]]
    for value in given:
        value = re.sub("://[^/]*@", "://", value)  # a password is no name
        parts = [part for part in re.split("[/:]", value.partition("@")[0]) if part]
        names = [Path(part).stem for part in parts if not glob.has_magic(part)]
        words += [re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_") for name in names[-1:]]
    return re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(filter(None, words)))[:100]
