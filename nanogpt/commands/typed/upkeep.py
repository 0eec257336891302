"""What is done for a checkout and its machine."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nanogpt.common.errors import UserError

app = typer.Typer()


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Of the pages, on this machine alone.")] = 5000,
    links: Annotated[bool, typer.Option("--links", help="Say where they are, and end.")] = False,
) -> None:
    """Show the runs and the registry: MLflow's own pages, until Ctrl-C."""
    from nanogpt.commands.ui import addresses, serve

    if not links:
        serve(port)
        return
    for what, address in addresses(port).items():
        print(f"{what}\t{address}")


@app.command()
def sync() -> None:
    """Send MLflow what waits because its server did not answer."""
    from nanogpt.tracking.outbox import send_all

    sys.exit(send_all())


@app.command("upgrade-mlflow")
def upgrade_mlflow() -> None:
    """Upgrade the local database of an older MLflow, and keep a copy of it as it was."""
    from nanogpt.tracking.upgrade import upgrade

    print(upgrade())


@app.command()
def clean(
    names: Annotated[list[Path] | None, typer.Argument(help="Some of them; else all.")] = None,
    states: Annotated[bool, typer.Option("--states", help="What trainings resume from.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove, and not only list.")] = False,
) -> None:
    """List what trainings that were stopped have left, or remove it."""
    from nanogpt.commands.clean import clean

    if not states:
        raise UserError("say what: --states lists what trainings resume from, --remove removes it")
    clean(names or [], remove)


@app.command()
def machine() -> None:
    """Print what decides the bytes of a training on this machine, as JSON."""
    from nanogpt.commands.machine import about

    print(json.dumps(about(), indent=1))
