"""Where a recipe is, and what else a word may have been meant to be."""

import difflib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.place import root


def find_recipe(given: str | Path) -> Path:
    """The folder of a recipe, which may be given as that or, wherever one is, by its name.

    `pipelines.graph` has the same for what runs the stages.

    Raises:
        UserError: there is no such recipe; names those that there are.
    """
    folder = Path(given)
    if (folder / "params.yaml").is_file():
        return folder
    known = _recipes()
    if named := known.get(folder.as_posix().removeprefix("pipelines/")):
        return Path(os.path.relpath(named))
    raise UserError(
        f"{given} is not the folder of a recipe, which holds a params.yaml and a dvc.yaml, nor"
        f" the name of one{did_you_mean(str(given), known)}"
        f"\n  in {root()} there are: {', '.join(known) or 'none'}"
    )


def _recipes() -> dict[str, Path]:
    """The folders of all recipes by their names: the default one's stands in its settings."""
    top = root()
    found = {file.parent.name: file.parent for file in top.glob("pipelines/*/params.yaml")}
    with suppress(OSError, UnicodeDecodeError):
        text = (top / "params.yaml").read_text(encoding="utf-8")
        if name := re.search(r"^data: *data/([\w-]+)", text, re.MULTILINE):
            found = {name[1]: top} | found
    return dict(sorted(found.items()))


def how_to_run(recipe: Path, top: Path) -> str:
    """What to type to have the recipe in this folder made, below the root `top`."""
    here = Path(os.path.relpath(recipe.resolve(), top.resolve())).as_posix()
    return "make run" if here == "." else f"make run RECIPE={here.removeprefix('pipelines/')}"


def did_you_mean(
    word: str, known: Iterable[str], show: Callable[[str], str] = lambda found: found
) -> str:
    """What to add to a message on a word that is not one of those known; perhaps nothing."""
    longer = sorted((other for other in known if other.startswith(word) and len(word) > 2), key=len)
    near = longer or difflib.get_close_matches(word, known, cutoff=0.7)
    return f"; did you mean {show(near[0])}?" if near else ""
