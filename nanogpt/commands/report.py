"""What came out of a recipe's last run: a table, one sample, and what to try next.

nanogpt report --recipe pipelines/finetune_shakespeare
"""

import json
import os
import re
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanogpt.common.errors import UserError
from nanogpt.formats.weights import weights_sha256
from nanogpt.settings import load
from nanogpt.tracking import registry


def show(recipe: Path) -> None:
    """Print the report of the recipe in this folder.

    Raises:
        UserError: it has not been run to its end.
    """
    settings = load(recipe / "params.yaml")
    place = recipe / settings.root
    data = place / settings.data
    try:
        scores = json.loads((data / "eval.json").read_text())
        training = json.loads((data / "train.json").read_text())
        seconds = json.loads((data / "seconds.json").read_text())
        samples = (data / "samples.md").read_text()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is not there yet; run `dvc repro` first") from None
    known = registry.summary(weights_sha256(data / "model"))

    table = Table(title=f"recipe {settings.recipe}", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("validation loss", f"{training['val_loss']:.4f} nats a token")
    if "base_val_loss" in training:
        table.add_row("of its base", f"{training['base_val_loss']:.4f} nats a token")
    split = scores["split"]
    if split == "test":
        table.add_row("test loss", f"{scores['loss']:.4f} nats a token")
        if "base" in scores:
            table.add_row("of its base", f"{scores['base']['loss']:.4f} nats a token")
    table.add_row(f"{split} perplexity", f"{scores['perplexity']:.3f}")
    table.add_row(f"{split} bits per byte", f"{scores['bits_per_byte']:.4f}")
    if "tokens_per_second" in known:
        table.add_row("training speed", f"{known['tokens_per_second']:,.0f} tokens/s")
    table.add_section()
    for stage, taken in seconds.items():
        table.add_row(f"time of {stage}", f"{taken:.1f} s")
    if "version" in known:
        table.add_section()
        aliases = ", ".join(known["aliases"]) or "no alias"
        table.add_row(f"{known['name']}", f"version {known['version']} ({aliases})")

    console = Console(highlight=False)
    console.print(table)
    # the first, and that of the base
    for title, number in (("a sample", "Sample 1"), ("before, by its base", "Before: .*?")):
        if found := re.search(rf"## {number}\n\n```text\n(.*?)\n```", samples, re.DOTALL):
            console.print(f"\n[bold]{title}[/bold]\n")
            console.print(found[1], markup=False)
    console.print("\n[bold]try next[/bold]  (after `source .venv/bin/activate`)\n")
    here = Path(os.path.relpath(recipe.resolve(), place.resolve())).as_posix()
    name, folder = ("", "") if here == "." else (f"RECIPE={here} ", f"cd {here} && ")
    words = "JULIET:" if "shakespeare" in settings.download.corpus else "Once upon a time"
    train = settings.train
    change = f"learning_rate={2 * train.learning_rate:g}" if train.steps else "steps=24"
    console.print(f'  make sample {name}PROMPT="{words}"', soft_wrap=True)
    console.print(f"  {folder}dvc exp run -S train.{change}", soft_wrap=True)
    console.print("  nanogpt ui")
