"""What is asked of a recipe: what it will take, and what came of it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from nanogpt.commands.typed.options import Recipe
from nanogpt.common.errors import UserError
from nanogpt.common.recipe import find_recipe

app = typer.Typer()
Named = Annotated[
    Path,
    typer.Argument(
        help="A recipe, by its folder or its name.", parser=find_recipe, metavar="RECIPE"
    ),
]


@app.command("check")
def check_recipe(recipe: Recipe = Path()) -> None:
    """Refuse what a recipe asks for and can never get, before anything is fetched."""
    from nanogpt.settings import load
    from nanogpt.sizing.ahead import before_download

    settings = load(recipe / "params.yaml")
    os.chdir(recipe / settings.root)  # from where a recipe names its files
    if note := before_download(settings):
        print(note)


@app.command()
def report(
    recipe: Recipe = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="What MLflow knows of the model, and its pages.")
    ] = False,
) -> None:
    """Show what came out of a recipe's last run."""
    from nanogpt.commands.report import as_known, show

    if as_json:
        print(json.dumps(as_known(recipe), indent=1))
    else:
        show(recipe)


@app.command()
def tokens(
    recipe: Named = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a vocabulary made of a recipe's text, and what the text is."""
    from nanogpt.commands.tokens import show

    show(recipe, as_json)


@app.command()
def size(
    recipe: Named = Path(),
    depth: Annotated[
        int | None,
        typer.Option(help="Layers, which set the rest; else it is sized as it is.", min=1),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Tokens a weight; 20, or what 4 epochs give, if left out.", min=1e-3, max=1e6
        ),
    ] = None,
    aspect: Annotated[
        float | None,
        typer.Option(help="Width a layer; the recipe's own if left out.", min=1, max=1e6),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Write it, as pipelines/<name>.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time ten real steps here.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a training will take: parameters, operations, memory, time; at another depth too."""
    from nanogpt.commands.size import size

    size(recipe, depth, ratio, aspect, name, measure, as_json)


@app.command()
def scaling(
    recipe: Named = Path(),
    depths: Annotated[
        str | None, typer.Option(help="Such as 2,3,4; from half the recipe's own if left out.")
    ] = None,
    largest: Annotated[
        float | None,
        typer.Option(
            help="Operations of the largest; 1/4 of the recipe's if left out.", min=1, max=1e30
        ),
    ] = None,
    budgets: Annotated[int, typer.Option(help="Each half of the next.", min=1, max=30)] = 5,
    seeds: Annotated[int, typer.Option(help="Trainings of each.", min=1, max=100)] = 2,
    hours: Annotated[float, typer.Option(help="To promise a loss for.", min=1e-3, max=1e6)] = 8.0,
    check: Annotated[
        float | None,
        typer.Option(
            help="Train so many times more than the largest, and compare.", min=1, max=1e6
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Train a ladder of small models, fit their scaling law, and promise what more time brings."""
    from nanogpt.commands.scaling import scale

    try:
        chosen = [int(depth) for depth in depths.split(",")] if depths else []
    except ValueError:
        chosen = [0]
    if any(depth < 1 for depth in chosen):
        raise UserError(f"--depths {depths}: should be numbers of layers, such as 2,3,4")
    scale(recipe, chosen, largest, budgets, seeds, hours, check, as_json)
