"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from nanogpt.common.recipe import find_recipe

Model = Annotated[str, typer.Argument(help="A model directory, or models:/<name>@<alias>.")]
Recipe = Annotated[
    Path,
    typer.Option(help="A recipe, by its folder or its name.", parser=find_recipe, metavar="RECIPE"),
]
