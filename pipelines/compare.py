"""What DVC has kept of a recipe: its experiments, best first, and in which settings they differ.

    python -m pipelines.compare                  # that of the current folder; also `make compare`
    python -m pipelines.compare finetune_shakespeare

`dvc exp show` has a column for each setting, dependency and figure of all recipes. This has what a
choice is made by, in the width of a terminal.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.flatten import flatten
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.graph import RecipeError, find_recipe, name_of, one_line, root, stages

Values = dict[str, Any]  # by the path of a key, such as `train.steps`
UNKNOWN = float("inf")


@dataclass(frozen=True)
class Row:
    """A commit, an experiment, or the files as they are now."""

    name: str
    state: str  # of an experiment that has not ended well: queued, running, failed
    settings: Values
    figures: Values


def rows(recipe: str) -> Iterator[tuple[Row, list[Row]]]:
    """The workspace and the last commit, each with its experiments on this recipe.

    Raises:
        RecipeError: there is no such recipe, or DVC cannot read the repository.
    """
    folder = find_recipe(recipe).resolve().relative_to(root())
    settings = (folder / "params.yaml").as_posix()
    prefix = f"{(folder / 'dvc.yaml').as_posix()}:"  # not of others, whose results it needs
    plan = [stage for stage in stages(recipe) if stage.address.startswith(prefix)]
    files = [metric for stage in plan for metric in stage.metrics]
    try:
        with Repo(str(root())) as repo:
            shown = repo.experiments.show()
    except DvcException as error:
        raise RecipeError(str(error)) from error

    def row(found: Any, state: str = "") -> Row:
        data = found.data
        params = data.params.get(settings, {}) if data else {}
        metrics = [data.metrics.get(file, {}) for file in files] if data else []
        figures = {k: v for metric in metrics for k, v in flatten(metric.get("data", {})).items()}
        name = found.name or (found.rev if found.rev == "workspace" else found.rev[:7])
        return Row(name, state, flatten(params.get("data", {})), figures)

    for found in shown:
        own = row(found)
        tried = [
            row(kept.revs[0], kept.executor.state if kept.executor else "")
            for kept in found.experiments or ()
        ]
        changed = [
            each
            for each in tried
            if each.settings and (each.settings, each.figures) != (own.settings, own.figures)
        ]
        yield own, sorted(changed, key=lambda each: each.figures.get("bits_per_byte", UNKNOWN))


def table(recipe: str) -> Table:
    """All of it, as a table.

    Raises:
        RecipeError: as `rows`.
    """
    made = Table(title=f"recipe {escape(name_of(recipe))}, in bits per byte", title_justify="left")
    made.add_column("experiment", overflow="fold")
    for name in ("validation", "eval", "weights"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("differs in", overflow="fold", min_width=16)
    known = list(rows(recipe))
    commit = known[-1][0]
    base = commit.settings or known[0][0].settings  # a recipe that is in no commit yet
    for own, tried in known:
        made.add_row(*_cells(own, base), style="bold")
        for each in tried:
            made.add_row(*_cells(each, base, indent="  "))
    return made


def _cells(row: Row, base: Values, indent: str = "") -> Iterator[str]:
    ended = row.state in ("", "success")
    yield escape(f"{indent}{row.name}" if ended else f"{indent}{row.name} ({row.state})")
    for key in ("val_bits_per_byte", "bits_per_byte"):
        value = row.figures.get(key)
        yield f"{value:.4f}" if isinstance(value, float) else "-"
    yield str(row.figures.get("weights_sha256", "-"))[:7]
    changed = [
        f"{key}={_short(value)}"
        for key, value in row.settings.items()
        if key not in base or base[key] != value
    ]
    yield escape(" ".join(changed))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="?", default=".", help="its folder or name")
    args = parser.parse_args()
    with one_line("compare"):
        Console(emoji=False, highlight=False).print(table(args.recipe))


if __name__ == "__main__":
    main()
