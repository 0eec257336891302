"""What a person reads on MLflow's pages: descriptions in Markdown."""

import re
from datetime import UTC, datetime
from pathlib import Path

from nanogpt.common.secrets import public

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as the description
LENGTH = 5000  # some databases take no more in a description
MOVES = 20  # of the champion, that are kept
CHAMPION = "## Champion"
TABLE = "| when (UTC) | version | before | why |\n|---|---|---|---|\n"
RULE = "\n\n---\n\n"


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
    text = description or ""
    before, rule, rest = text.partition(RULE)
    ours = rule and "\n" not in before  # not what a person wrote
    return f"{reason}{RULE}{rest if ours else text}"


def moved(description: str, version: str, replaced: str, reason: str) -> str:
    """The description of a registered model, with one more move in the table of its champions.

    What is not in that section stays as it is.
    """
    before, _, section = description.partition(CHAMPION)
    lines = section.partition(TABLE)[2].splitlines()
    old = [line for line in lines if line.startswith("| ")]
    after = [line for line in lines if not line.startswith("| ")]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    row = f"| {when} | {version} | {replaced or 'none'} | {reason} |"
    rows = "\n".join([row, *old][:MOVES])
    head = f"{before.rstrip()}\n\n{CHAMPION}: version {version}\n\n{TABLE}"
    return "\n".join((head + rows, *after))
