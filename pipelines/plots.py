"""The curves of a recipe as a picture, which needs no network as the page of `dvc plots show` does.

    python -m pipelines.plots                           # now, and as committed; also `make plots`
    python -m pipelines.plots --recipe=mine one two     # of experiments or commits

What is drawn comes from DVC: the `plots:` of dvc.yaml, of whatever it can resolve.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipelines.graph import (
    RecipeError,
    dvc_environment,
    find_recipe,
    name_of,
    one_line,
    root,
    stages,
)

FOLDER = "dvc_plots"  # where DVC puts its page
Lines = dict[str, list[tuple[float, float]]]


def read(recipe: str, revisions: Sequence[str]) -> dict[str, Any]:
    """The plots of a recipe by name, in the form of DVC, which is Vega-Lite's.

    Raises:
        RecipeError: there is no such recipe, revision or curve.
    """
    stages(recipe)  # what is wrong with the graph is said first
    file = (find_recipe(recipe).resolve() / "dvc.yaml").relative_to(root())
    words = [sys.executable, "-m", "dvc", "plots", "diff", "--json", *revisions]
    done = subprocess.run(
        words, cwd=root(), env=dvc_environment(), capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise RecipeError(done.stderr.strip().removeprefix("ERROR: "))
    plots = json.loads(done.stdout)["data"]
    # where the root's dvc.yaml is the only one, DVC leaves out its name
    found = {
        address.rpartition("::")[2]: content[0]["content"]
        for address, content in plots.items()
        if (address.rpartition("::")[0] or "dvc.yaml") == file.as_posix()
        and "/" not in address.rpartition("::")[2]  # a file, as an output, is drawn by DVC too
        and content
    }
    if not found:
        raise RecipeError(f"{recipe} has no curves yet; `make run RECIPE={recipe}` trains")
    return found


def lines(plot: dict[str, Any]) -> Lines:
    """The lines of a plot, by what tells them apart: the revision, and the column if several."""
    x = plot["encoding"]["x"]["field"]
    y = plot["layer"][0]["encoding"]["y"]["field"]
    found: Lines = defaultdict(list)
    for row in plot["data"]["values"]:
        column = row.get("filename::field", "").rpartition("::")[2]
        if row.get(y):  # a step may lack a column
            found[f"{row['rev']} {column}".strip()].append((float(row[x]), float(row[y])))
    return found


def draw(plots: dict[str, Any], title: str, path: Path) -> None:
    """Write the plots into one picture, one below the other."""
    figure = Figure(figsize=(9, 3.2 * len(plots)), layout="constrained")
    figure.suptitle(title)
    for axes, (name, plot) in zip(
        figure.subplots(len(plots), squeeze=False), plots.items(), strict=True
    ):
        for label, points in lines(plot).items():
            axes[0].plot(
                *zip(*points, strict=True), label=label, marker="." if len(points) < 20 else ""
            )
        scales = plot["encoding"] | plot["layer"][0]["encoding"]
        axes[0].set(title=name, xlabel=scales["x"]["title"], ylabel=scales["y"]["title"])
        axes[0].grid(alpha=0.3)
        axes[0].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default=".", help="its folder or name")
    parser.add_argument("revisions", nargs="*", default=["HEAD", "workspace"])
    args = parser.parse_args()
    with one_line("plots"):
        plots = read(args.recipe, args.revisions)
        path = root() / FOLDER / f"{name_of(args.recipe)}.png"
        draw(plots, f"recipe {name_of(args.recipe)}", path)
        print(path)


if __name__ == "__main__":
    main()
