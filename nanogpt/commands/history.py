"""The moves of a model's aliases, and a person's own: promote, roll back.

nanogpt history --recipe finetune_shakespeare
nanogpt promote models:/nanogpt-shakespeare/3 --reason "sounds better"
nanogpt rollback --reason "forgets its lines"
"""

import json
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanogpt.common.errors import UserError
from nanogpt.settings import load
from nanogpt.tracking.client import asking, usable
from nanogpt.tracking.versions import champion, history
from nanogpt.tracking.versions.champion import Change
from nanogpt.tracking.versions.history import CHAMPION, Move
from nanogpt.tracking.versions.names import PREFIX, name_of, registered_model, there


def show(recipe: Path, model: str | None, as_json: bool) -> None:
    """Print all moves, the oldest first.

    Raises:
        UserError: there is no such recipe or model, or MLflow is of no use.
        NotNow: it does not answer.
    """
    name = _name(recipe, model)
    client = usable()
    with asking():
        history.notice(client, name)
        moves = history.moves(client, name)
        registered = there(client.get_registered_model, name) or (
            None if moves else registered_model(client, name)  # which says what there is
        )
    if as_json:
        print(json.dumps([asdict(move) for move in moves], indent=1))
        return
    console = Console(highlight=False, markup=False)
    if moves:
        table = Table(title=f"aliases of {name}", title_justify="left", box=box.SIMPLE)
        for column in ("when (UTC)", "alias", "from", "to"):
            table.add_column(column, no_wrap=True)
        table.add_column("why")
        for move in moves:
            when = move.when[:16].replace("T", " ")
            told = Text(_why(move))
            table.add_row(when, move.alias, move.before or "-", move.after or "-", told)
        console.print(table)
    if registered is None:
        console.print(f"{name} was deleted")
        return
    held = (f"{alias} is version {v}" for alias, v in sorted(registered.aliases.items()))
    console.print(f"now: {', '.join(held) or 'no alias'}", soft_wrap=True)


def promote(model: str, reason: str) -> None:
    """Make a version champion, and say how to take that back.

    Raises:
        UserError: there is no such version, or it cannot be champion.
        NotNow: MLflow does not answer.
    """
    client = usable()
    with asking():
        _tell(champion.promote(client, model, reason))


def rollback(recipe: Path, model: str | None, reason: str) -> None:
    """Make the champion before the present one champion again, and say how to take that back.

    Raises:
        UserError: there was none, or `model` is a version.
        NotNow: MLflow does not answer.
    """
    name = _name(recipe, model)
    if model and model.removeprefix("models:").strip("/") not in (name, f"{name}@{CHAMPION}"):
        raise UserError(
            f"{model} names more than a model, and a rollback goes to the champion before: say"
            f" models:/{name}; or have a version of your choice, `make promote"
            f" MODEL=models:/{name}/<version> REASON=...`"
        )
    client = usable()
    with asking():
        _tell(champion.rollback(client, name, reason))


def _name(recipe: Path, model: str | None) -> str:
    """The registered model that was meant."""
    return name_of(model) if model else f"{PREFIX}{load(recipe / 'params.yaml').recipe}"


def _tell(change: Change) -> None:
    move = change.move
    for passed in change.skipped:
        print(f"passed over {passed}")
    if not change.moved:
        print(f"version {move.after} of {move.name} is champion already; nothing was changed")
        return
    was = f", in the place of version {move.before}" if move.before else ""
    print(f"version {move.after} of {move.name} is champion now{was}")
    if move.before:
        print(f"back: make promote MODEL=models:/{move.name}/{move.before} REASON=...")


def _why(move: Move) -> str:
    """Why, by whom, and whether it took place."""
    by = ", ".join(filter(None, (move.by.replace("hand", ""), move.who)))
    off = "" if move.done else "; cut off before it took place"
    return f"{move.why}{off}" + (f"\n{by}" if by else "")
