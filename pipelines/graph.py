"""DVC's index → the stages of one recipe, in the order in which they run.

    for stage in stages("pipelines/gpt2_openwebtext"):
        print(stage.address)        # pipelines/gpt2_openwebtext/dvc.yaml:download

Nothing is declared a second time: names, order and options all come from dvc.yaml.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, get_subgraph
from dvc.stage import PipelineStage
from filelock import FileLock


class RecipeError(Exception):
    """What is wrong with a recipe's folder, settings or graph, and what to do, in one message."""

    code = 2  # somebody has to mend it first


class NotNow(RecipeError):
    """Nothing is wrong with what was asked, and another attempt may go better."""

    code = 75


@contextmanager
def one_line(command: str) -> Iterator[None]:
    """Leave a command with what a RecipeError says, and with its code."""
    try:
        yield
    except RecipeError as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(error.code)


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, as dvc.yaml declares it."""

    name: str
    address: str  # what `dvc repro` takes at the repository's root: "<folder>/dvc.yaml:<name>"
    meta: Mapping[str, Any]  # dvc.yaml's `meta:`, free for tools such as this one
    needs: tuple[str, ...] = ()  # addresses of the stages whose end it waits for
    metrics: tuple[str, ...] = ()  # its files of figures, seen from the root
    texts: tuple[str, ...] = ()  # its Markdown files, seen from the root
    plots: bool = False  # whether the plots of dvc.yaml draw a file of it


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
    known = recipes()
    if named := known.get(folder.as_posix().removeprefix("pipelines/")):
        return Path(os.path.relpath(named))
    raise RecipeError(
        f"{given} is not the folder of a recipe, which holds a params.yaml and a dvc.yaml, nor"
        f" the name of one{did_you_mean(str(given), known)}"
        f"\n  in {root()} there are: {', '.join(known) or 'none'}"
    )


def recipes() -> dict[str, Path]:
    """The folders of all recipes by their names: the default one's stands in its settings."""
    top = root()
    found = {file.parent.name: file.parent for file in top.glob("pipelines/*/params.yaml")}
    with suppress(OSError, UnicodeDecodeError):
        text = (top / "params.yaml").read_text(encoding="utf-8")
        if name := re.search(r"^data: *data/([\w-]+)", text, re.MULTILINE):
            found = {name[1]: top} | found
    return dict(sorted(found.items()))


def name_of(recipe: str | Path) -> str:
    """The name of a recipe that is given by its folder or name; of none, as it is given."""
    try:
        folder = find_recipe(recipe).resolve()
    except RecipeError:
        return str(recipe)
    named = (name for name, known in recipes().items() if known.resolve() == folder)
    return next(named, folder.name)


def deployment(recipe: str) -> str:
    """The name of a recipe's deployment."""
    return recipe.replace("_", "-")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message on a word that is not one of those known; perhaps nothing."""
    longer = sorted((other for other in known if other.startswith(word) and len(word) > 2), key=len)
    near = longer or difflib.get_close_matches(word, known, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def dvc_environment() -> dict[str, str]:
    """Environment in which the `python` of dvc.yaml is the one that runs this."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    return os.environ | {"PATH": path}


def adopt(recipe: str | Path, top: Path | None = None) -> None:
    """Have DVC know a recipe from now on, which `.dvcignore` may have hidden so far: it is run.

    `top` is as in `stages`.

    Raises:
        RecipeError: there is no such recipe.
    """
    folder, top = find_recipe(recipe).resolve(), top or root()
    folder_of_dvc, hidden = top / ".dvc" / "tmp", _line(folder, top)
    if hidden in _ignored(top):
        folder_of_dvc.mkdir(exist_ok=True)
        with FileLock(folder_of_dvc / "nanogpt-dvcignore.lock"):  # two recipes may start at once
            whole = folder_of_dvc / ".dvcignore"
            lines = [line for line in _ignored(top) if line != hidden]
            whole.write_text("\n".join([*lines, ""]), encoding="utf-8")
            whole.replace(top / ".dvcignore")


def _line(folder: Path, top: Path) -> str:
    return f"/{os.path.relpath(folder, top)}/dvc.yaml"


def _ignored(top: Path) -> list[str]:
    file = top / ".dvcignore"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def stages(recipe: str | Path = ".", top: Path | None = None) -> list[Stage]:
    """Stages of a recipe, by its folder or name, with whatever they need from other recipes.

    `top` is the root of the repository, if that is not the one that holds the current folder.

    Each comes after all that it needs; those that need not wait for each other keep the order of
    dvc.yaml.

    Raises:
        RecipeError: there is no such recipe, or DVC cannot read or resolve the graph, or does not
            know the recipe before its first run (`adopt`).
    """
    file = find_recipe(recipe).resolve() / "dvc.yaml"
    top = top or root()
    if _line(file.parent, top) in _ignored(top):
        name = name_of(recipe)
        raise RecipeError(f"{name} has not run here yet; `make run RECIPE={name}` does it")
    with _index(top) as index:
        known = index.stages  # in the order of the files, which the graph forgets
        wanted = [stage for stage in known if Path(stage.path) == file]
        if not wanted:
            raise RecipeError(f"{file} is missing, or has no stages; copy the root's there")
        plan = get_subgraph(get_active_graph(index.graph), wanted)
        needs = {
            stage: sorted(plan.successors(stage), key=known.index)
            for stage in known
            if stage in plan
        }
        drawn = _drawn(index)
        return [
            Stage(
                name=stage.name,
                address=_address(stage),
                meta=stage.meta or {},
                # a .dvc file is a node of the graph too, but data: nothing to run
                needs=tuple(_address(n) for n in needs[stage] if isinstance(n, PipelineStage)),
                metrics=tuple(_seen(out, top) for out in stage.outs if out.metric),
                texts=tuple(_seen(out, top) for out in stage.outs if out.fs_path.endswith(".md")),
                plots=any({*file.parents, file} & _files(stage) for file in drawn),
            )
            for stage in TopologicalSorter(needs).static_order()
            if isinstance(stage, PipelineStage)
        ]


@contextmanager
def _index(top: Path) -> Iterator[Any]:
    with Repo(str(top)) as repo:
        try:
            _ = repo.index.graph
        except (DvcException, ValueError) as error:  # ValueError: such as a date of a 13th month
            raise RecipeError(f"{error}; `dvc status` says where") from error
        yield repo.index


def _address(stage: Any) -> str:
    # DVC's own `addressing` depends on the current folder
    return f"{Path(stage.path_in_repo).as_posix()}:{stage.name}"


def _seen(out: Any, top: Path) -> str:
    return Path(out.fs_path).relative_to(top).as_posix()


def _files(stage: Any) -> set[Path]:
    return {Path(out.fs_path) for out in stage.outs}


def _drawn(index: Any) -> set[Path]:
    """The files that the plots of all dvc.yaml files draw."""
    return {
        Path(os.path.normpath(Path(file).parent / table))
        for file, declared in index._plots.items()  # where DVC has them resolved
        for plots in declared
        for plot in plots.values()
        if isinstance(plot, dict) and isinstance(plot.get("y"), dict)
        for table in plot["y"]
    }
