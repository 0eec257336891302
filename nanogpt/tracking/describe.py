"""What a person reads on MLflow's pages: descriptions in Markdown."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanogpt.common.secrets import public

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as the description
LENGTH = 5000  # some databases take no more in a description
MOVES = 10  # of the champion, on its page; `history` has all
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


def code(tags: Mapping[str, str]) -> str:
    """What follows a version's card: the code that made it, by the tags of its record."""
    if not (commit := tags.get("git_commit")):
        return ""
    changed = ", changed as the artifact `lineage/` of its run says" * (tags["git_dirty"] == "true")
    return f"\n\ncode: commit `{commit[:12]}`{changed}; `nanogpt lineage` shows the rest"


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
    if (over := len(text) - LENGTH) <= 0:
        return text
    short = reason[: max(0, len(reason) - over - 1)]  # else the decision before would stand there
    return decided(description, f"{short}…") if short else description or ""


def champions(description: str | None, moves: Sequence[tuple[str, str, str, str]]) -> str:
    """The description of a registered model, with the last moves of its champion in a table.

    Our section lies between marks; what a person wrote around it stays. `nanogpt history` has all.

    Args:
        moves: the newest first: when, version, the version before, why; "" is none.
    """
    before, found, rest = (description or "").partition(CHAMPION)
    _, _, after = rest.partition(END)
    rows = [f"| {' | '.join(c.replace('|', '/') or 'none' for c in move)} |" for move in moves]
    del rows[MOVES:]
    newest = moves[0][1]
    head = f"## Champion: {f'version {newest}' if newest else 'none'}\n\n{TABLE}"
    before = before if found else f"{before.rstrip()}\n\n".lstrip()
    while rows:
        text = "\n".join([f"{before}{CHAMPION}\n{head}{rows[0]}", *rows[1:], f"{END}{after}"])
        if len(text) <= LENGTH:
            return text
        rows.pop()
    return description or ""  # a person's own words fill it


def rows(description: str | None) -> list[str]:
    """The rows of the table that `champions` made, as they stand there."""
    ours = (description or "").partition(CHAMPION)[2].partition(END)[0]
    return re.findall(r"^\| \d{4}-.*", ours, re.MULTILINE)
