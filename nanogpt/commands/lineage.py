"""Where a model comes from, and what was made from something.

nanogpt lineage models:/nanogpt-shakespeare@champion
nanogpt lineage models:/nanogpt-shakespeare/3 --json --out lineage-of-3
nanogpt lineage --of shakespeare                # or a file, a folder, a digest, a base model
"""

import json
import re
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from nanogpt.commands.tree import Ancestry, short
from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_folder
from nanogpt.common.recipe import did_you_mean
from nanogpt.tracking.client import asking, usable
from nanogpt.tracking.versions import ancestors, descendants
from nanogpt.tracking.versions.ancestors import Found, NoRecord
from nanogpt.tracking.versions.record import RECORD

SHOWN = 5  # names in a message
CARD = re.compile(r"^\| ([^|]+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)  # its table


def show(model: str, out: Path | None, as_json: bool) -> None:
    """Print where a model comes from; with `out` write its record and all that belongs to it.

    Raises:
        UserError: there is no such model, or no record of it; `out` is something else's.
        NotNow: MLflow does not answer.
    """
    if out:
        _check_free(out)
    if not out and not as_json:
        draw(model)
        return
    with ancestors.of(model) as found:
        if out:
            with whole_folder(out.absolute()) as new:
                shutil.copytree(found.folder, new, dirs_exist_ok=True)
        print(json.dumps(as_values(found), indent=1, ensure_ascii=False) if as_json else out)


def draw(model: str) -> None:
    """Print where a model comes from as a tree, as far as it is known."""
    # a line is wrapped on a terminal, and not where a program reads it
    width = None if sys.stdout.isatty() else 500
    console = Console(emoji=False, highlight=False, markup=False, width=width)
    client = usable()
    try:
        with asking():
            known = ancestors.find(client, model)
    except NoRecord as error:
        if not (rows := card(Path(model))):
            raise
        tree = Tree(f"{model}, as its card says: {error}")
        for name, digest in rows:
            tree.add(f"{name}{short(digest)}")
        console.print(tree)
        return
    with asking(), tempfile.TemporaryDirectory() as place:
        console.print(Ancestry(client, Path(place)).tree(known))


def card(folder: Path) -> list[tuple[str, str]]:
    """What the card of a model directory says that it was made from: names and SHA-256."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return CARD.findall(text)


def as_values(found: Found) -> dict[str, object]:
    """The record, and with it under `of` which version and run it is of."""
    where = {"name": found.name, "version": found.version, "run_id": found.run_id}
    return found.record.model_dump(mode="json") | {"of": where}


def show_made_of(text: str, as_json: bool) -> None:
    """Print all versions that were made from a file, a folder, a digest, a base or a corpus.

    Raises:
        UserError: nothing is known by that name.
        NotNow: MLflow does not answer.
    """
    asked = descendants.ask(text)
    client = usable()
    with asking():
        answer = descendants.search(client, asked)
    s = "" if answer.searched == 1 else "s"
    if left := answer.unsearched:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        print(
            f"lineage: {len(left)} of {answer.searched} version{s} could not be searched, as they"
            f" have no record of what they were made from: {', '.join(left[:SHOWN])}{more}",
            file=sys.stderr,
        )
    if not answer.found and not (asked.files or asked.digest or asked.registered):
        meant = did_you_mean(text, answer.names)
        names = f"; known: {', '.join(sorted(answer.names))}" if answer.names else ""
        raise UserError(
            f"--of {text}: no file here, no digest (8 digits or more), and no corpus or base of"
            f" the {answer.searched} version{s} that MLflow has{meant}{names}"
        )
    if as_json:
        values = [{"model": made.model, **vars(made)} for made in answer.found]
        print(json.dumps(values, indent=1))
        return
    width = None if sys.stdout.isatty() else 120
    console = Console(emoji=False, highlight=False, markup=False, width=width)
    if not answer.found:
        console.print(f"of {answer.searched} versions none was made from {text}", soft_wrap=True)
        return
    table = Table(title=f"made from {text}", title_justify="left", box=box.SIMPLE)
    for column in ("version", "registered (UTC)"):
        table.add_column(column, no_wrap=True)
    table.add_column("by")
    for made in answer.found:
        when = datetime.fromtimestamp(made.created / 1000, UTC)
        table.add_row(made.model, f"{when:%Y-%m-%d %H:%M}", Text(made.why))
    console.print(table)


def _check_free(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier record."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / RECORD).exists()):
        raise UserError(f"--out {out} is not empty, and holds no {RECORD}; name another folder")
