"""What a person types → what a recipe says, by the paths of its keys; and the recipe's name."""

import glob
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from pipelines.graph import RecipeError, did_you_mean, dvc_environment, root

OWN = {"root", "params", "data"}  # keys that follow from where a recipe lies
CHECK = ("-m", "nanogpt.commands", "check")  # reads all settings, and runs nothing
STAGE = ("-m", "nanogpt.stages.check")  # does so too, and what it writes it writes at each run


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


def get(values: Any, key: str, recipe: Path) -> Any:
    """The value of a key in the settings of `recipe`, by its path, such as `download.corpus`.

    Raises:
        RecipeError: there is no such key; names the one that may be meant.
    """
    section, last = _section(values, key, recipe)
    return section[last]


def put(values: Any, key: str, value: Any, recipe: Path) -> None:
    """Change a key in the settings of `recipe`.

    Raises:
        RecipeError: as `get`.
    """
    section, last = _section(values, key, recipe)
    # between single quotes U+0085 and U+2028, which end a line, would become a space
    odd = isinstance(value, str) and not value.isprintable()
    section[last] = DoubleQuotedScalarString(value) if odd else value


def _section(values: Any, key: str, recipe: Path) -> tuple[Any, str]:
    """The section that holds a key, and the last part of the key's path."""
    *above, last = key.split(".")
    section = values
    for part in above:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        near = did_you_mean(key, _keys(values))
        raise RecipeError(f"{recipe / 'params.yaml'} has no key {key}{near}")
    return section, last


def _keys(values: Any, above: str = "") -> list[str]:
    """The paths of all keys."""
    if not isinstance(values, dict):
        return []
    return [
        path
        for key, value in values.items()
        for path in (above + key, *_keys(value, f"{above}{key}."))
    ]


def refused(recipe: Path, top: Path, downloaded: bool = False) -> str:
    """Why the first stage of a recipe at the root `top` could not even begin; nothing if it could.

    Args:
        recipe: its folder, seen from `top`.
        downloaded: texts that are not there may stand in what was downloaded of them before.
    """
    words = (*STAGE, f"{recipe}/params.yaml") if downloaded else (*CHECK, f"--recipe={recipe}")
    done = subprocess.run(
        [sys.executable, *words],
        cwd=top,
        env=dvc_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what it tells of the corpus, `download` tells again
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    return done.stderr.strip().removeprefix("check: ") if done.returncode else ""
