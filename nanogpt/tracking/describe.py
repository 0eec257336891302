"""What a person reads on MLflow's pages: descriptions in Markdown."""

import re
from datetime import UTC, datetime
from pathlib import Path

from nanogpt.common.secrets import public

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as the description
LENGTH = 5000  # some databases take no more in a description
MOVES = 20  # of the champion, that are kept
# what pages do not show: it says what is ours
CHAMPION, END = "<!-- champions -->", "<!-- end of champions -->"
DECIDED = "\n\n---\n<!-- decision -->"
TABLE = "| when (UTC) | version | before | why |\n|---|---|---|---|\n"


def card(model: Path) -> str:
    """The card of a model directory as a description: without its head, its title and its code.

    Its settings are left out too: the same page has them as parameters.
    """
    path = model / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```python\n.*?^```\n+", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\A\s*# .*\n", "", text).partition("\nThese settings:")[0]
    return public(text.strip())[: LENGTH - 500]


def experiment(recipe: str) -> str:
    """Of a recipe's experiment."""
    return (
        f"Trainings of the recipe `{recipe}`: one run each. `eval_bits_per_byte`, on text that no"
        " training sees, compares models of whatever vocabulary; lower is better. A name such as"
        " `n_layer=6` says what differs from the committed settings."
    )


def registered(recipe: str) -> str:
    """Of a registered model, before it has a champion."""
    return (
        f"Language models that the recipe `{recipe}` has trained. `candidate` is the newest,"
        " `champion` the one that needs the fewest bits per byte on held-out text."
    )


def decided(description: str | None, reason: str) -> str:
    """The description of a version, with what became of it at its first line."""
    ours, old = f"{reason}{DECIDED}", re.compile(f"^.*{re.escape(DECIDED)}", re.MULTILINE)
    text, found = old.subn(lambda _: ours, description or "", count=1)
    text = text if found else f"{ours}\n\n{text}".strip()
    return text if len(text) <= LENGTH else description or ""


def moved(description: str | None, version: str, replaced: str, reason: str) -> str:
    """The description of a registered model, with one more move in the table of its champions.

    Our section lies between marks; what a person wrote around it stays.
    """
    before, found, rest = (description or "").partition(CHAMPION)
    ours, _, after = rest.partition(END)
    old = re.findall(r"^\| \d{4}-.*", ours, re.MULTILINE)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    cells = [cell.replace("|", "/") for cell in (when, version, replaced or "none", reason)]
    rows = [f"| {' | '.join(cells)} |", *old][:MOVES]
    head = f"## Champion: version {version}\n\n{TABLE}"
    before = before if found else f"{before.rstrip()}\n\n".lstrip()
    while rows:
        text = "\n".join([f"{before}{CHAMPION}\n{head}{rows[0]}", *rows[1:], f"{END}{after}"])
        if len(text) <= LENGTH:
            return text
        rows.pop()
    return description or ""  # a person's own words fill it
