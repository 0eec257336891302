"""DVC's index → the stages of one recipe, in the order in which they run.

    for stage in stages("pipelines/gpt2_openwebtext"):
        print(stage.address)        # pipelines/gpt2_openwebtext/dvc.yaml:download

Nothing is declared a second time: names, order and options all come from dvc.yaml.
"""

import os
import sys
from collections.abc import Mapping
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


def dvc_environment() -> dict[str, str]:
    """Environment in which the `python` of dvc.yaml is the one that runs this."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    return os.environ | {"PATH": path}


def stages(recipe: str | Path = ".") -> list[Stage]:
    """Stages of the recipe in folder `recipe`, with whatever they need from other recipes.

    Each comes after all that it needs; those that need not wait for each other keep the order of
    dvc.yaml.

    Raises:
        RecipeError: the folder is not a recipe's, or DVC cannot read or resolve the graph.
    """
    top = root()
    file = Path(recipe).resolve() / "dvc.yaml"
    with Repo(str(top)) as repo:
        try:
            known = repo.index.stages  # in the order of the files, which the graph forgets
            graph = get_active_graph(repo.index.graph)
        except (DvcException, ValueError) as error:  # ValueError: such as a date of a 13th month
            raise RecipeError(f"{error}; `dvc status` says where") from error
        wanted = [stage for stage in known if Path(stage.path) == file]
        if not wanted:
            folders = {Path(stage.path_in_repo).parent.as_posix() for stage in known}
            raise RecipeError(
                f"{recipe} is not the folder of a recipe, which holds a params.yaml and a dvc.yaml;"
                f" in {top} there are: {', '.join(sorted(folders))}"
            )
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
