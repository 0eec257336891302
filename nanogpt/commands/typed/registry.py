"""What is asked of the registry: where a model is from, and which is the champion."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nanogpt.commands.typed.options import Model, Recipe
from nanogpt.common.errors import UserError

app = typer.Typer()
Registered = Annotated[
    str | None, typer.Option(help="models:/<name>, else the recipe's.", metavar="MODEL")
]
Reason = Annotated[str, typer.Option(help="Why, in a sentence; the history keeps it.")]


@app.command()
def lineage(
    model: Annotated[
        str | None, typer.Argument(help="models:/<name>@<alias>, a model directory or a run's id.")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(help="What was made from it: a file, folder, digest, corpus or base."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the record, settings, lock and diff.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show where a model comes from, or all that was made from something."""
    from nanogpt.commands.lineage import show, show_made_of

    if (model is None) == (of is None) or (of is not None and out is not None):
        raise UserError("say a model, to see where it comes from, or --of what was made from it")
    if of is not None:
        show_made_of(of, as_json)
    elif model is not None:
        show(model, out, as_json)


@app.command()
def history(
    recipe: Recipe = Path(),
    model: Registered = None,
    as_json: Annotated[bool, typer.Option("--json", help="With the evidence of each.")] = False,
) -> None:
    """Show every move of a model's aliases: when, from, to, why, by whom."""
    from nanogpt.commands.history import show

    show(recipe, model, as_json)


@app.command()
def promote(
    model: Annotated[
        str, typer.Argument(help="models:/<name>/<version> or models:/<name>@<alias>")
    ],
    reason: Reason,
) -> None:
    """Make a version champion, whatever it scores."""
    from nanogpt.commands.history import promote

    promote(model, reason)


@app.command()
def rollback(reason: Reason, recipe: Recipe = Path(), model: Registered = None) -> None:
    """Make the champion before the present one champion again; twice, the one before that."""
    from nanogpt.commands.history import rollback

    rollback(recipe, model, reason)


@app.command()
def reproduced(
    model: Model,
    verdict: Annotated[str | None, typer.Option(help="One more, to be kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what `make reproduce` found of a version; the newest first."""
    from nanogpt.tracking.versions.reproduced import about, keep

    if verdict:
        keep(model, verdict)
        return
    known = about(model)
    if as_json:
        print(json.dumps(asdict(known), indent=1))
    else:
        print("\n".join(known.verdicts) or f"{known.model} was not built again yet")
