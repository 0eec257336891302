"""DVC's index → the stages of one recipe, in the order in which they run.

    for stage in stages("pipelines/gpt2_openwebtext"):
        print(stage.address)        # pipelines/gpt2_openwebtext/dvc.yaml:download

Nothing is declared a second time: names, order and options all come from dvc.yaml.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, get_subgraph
from dvc.stage import PipelineStage


class RecipeError(Exception):
    """What is wrong with a recipe's folder, settings or graph, and what to do, in one message."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, as dvc.yaml declares it."""

    name: str
    address: str  # what `dvc repro` takes at the repository's root: "<folder>/dvc.yaml:<name>"
    meta: Mapping[str, Any]  # dvc.yaml's `meta:`, free for tools such as this one


def root() -> Path:
    """The repository that holds the current folder.

    Raises:
        RecipeError: there is none.
    """
    try:
        return Path(Repo.find_root())
    except DvcException as error:
        raise RecipeError(str(error)) from None


def find_recipe(given: str | Path) -> Path:
    """The folder of a recipe, which may be given as that or, wherever one is, by its name.

    `nanogpt.common.recipe` has the same for what is typed after `nanogpt`.

    Raises:
        RecipeError: there is no such recipe; names those that there are.
    """
    folder = Path(given)
    if (folder / "params.yaml").is_file():
        return folder
    known = _recipes()
    if named := known.get(folder.as_posix().removeprefix("pipelines/")):
        return Path(os.path.relpath(named))
    raise RecipeError(
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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message on a word that is not one of those known; perhaps nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7) or [
        other for other in known if other.startswith(word) and len(word) > 2
    ]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def dvc_environment() -> dict[str, str]:
    """Environment in which the `python` of dvc.yaml is the one that runs this."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    return os.environ | {"PATH": path}


def stages(recipe: str | Path = ".") -> list[Stage]:
    """Stages of a recipe, by its folder or name, with whatever they need from other recipes.

    Each comes after all that it needs; those that need not wait for each other keep the order of
    dvc.yaml.

    Raises:
        RecipeError: there is no such recipe, or DVC cannot read or resolve the graph.
    """
    file = find_recipe(recipe).resolve() / "dvc.yaml"
    with Repo(str(root())) as repo:
        try:
            known = repo.index.stages  # in the order of the files, which the graph forgets
            graph = get_active_graph(repo.index.graph)
        except (DvcException, ValueError) as error:  # ValueError: such as a date of a 13th month
            raise RecipeError(f"{error}; `dvc status` says where") from error
        wanted = [stage for stage in known if Path(stage.path) == file]
        if not wanted:
            raise RecipeError(f"{file} is missing, or has no stages; copy the root's there")
        plan = get_subgraph(graph, wanted)
        needs = {
            stage: sorted(plan.successors(stage), key=known.index)
            for stage in known
            if stage in plan
        }
        return [
            Stage(
                name=stage.name,
                # DVC's own `addressing` depends on the current folder
                address=f"{Path(stage.path_in_repo).as_posix()}:{stage.name}",
                meta=stage.meta or {},
            )
            for stage in TopologicalSorter(needs).static_order()
            # a .dvc file is a node of the graph too, but data: nothing to run
            if isinstance(stage, PipelineStage)
        ]
