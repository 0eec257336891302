"""What came out of a recipe's last run: a table, one sample, and what to try next.

nanogpt report --recipe pipelines/finetune_shakespeare
"""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import how_to_run
from nanogpt.settings import Sample, load
from nanogpt.text.samples import from_markdown
from nanogpt.tracking import location, outbox, pages
from nanogpt.tracking.versions import registry
from nanogpt.tracking.versions.identity import identify

LONGEST = 40  # characters of a prompt that is proposed


def show(recipe: Path) -> None:
    """Print the report of the recipe in this folder.

    What a stage has not made yet, or made of an earlier model, is left out, and named.

    Raises:
        UserError: it has trained no model, or its dvc.lock is damaged.
    """
    settings = load(recipe / "params.yaml")
    place = recipe / settings.root
    data, again = place / settings.data, how_to_run(recipe, place)
    for needed in (data / "train.json", data / "model"):  # git may bring the one without the other
        if not needed.exists():
            raise UserError(
                f"the recipe {settings.recipe} has no {needed.name} yet: `{again}` makes it"
            )
    training = _read(data / "train.json")
    if "val_bits_per_byte" not in training:  # git brings figures of older code as well
        raise UserError(f"{data / 'train.json'} is of older code: `{again}` makes it anew")
    old = outdated(recipe / "dvc.lock")
    scores = {} if "eval" in old else _read(data / "eval.json")
    samples = {} if "sample" in old else _samples(data / "samples.md")
    seconds = _read(data / "seconds.json")
    identity = identify(settings, place)
    known = registry.summary(identity)
    if known:  # DVC wrote the last stage down when that had told MLflow all it knew
        outbox.locked(identity, data / "model", recipe / "dvc.lock")

    table = Table(title=f"recipe {settings.recipe}", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("validation", f"{training['val_bits_per_byte']:.4f} bits per byte")
    if "base_val_bits_per_byte" in training:
        table.add_row("of its base", f"{training['base_val_bits_per_byte']:.4f} bits per byte")
    if scores.get("split") == "test":
        table.add_row("test", f"{scores['bits_per_byte']:.4f} bits per byte")
        if "base" in scores:
            table.add_row("of its base", f"{scores['base']['bits_per_byte']:.4f} bits per byte")
    if "tokens_per_second" in known:
        table.add_row("training speed", f"{known['tokens_per_second']:,.0f} tokens/s")
    table.add_section()
    for stage, taken in seconds.items():
        if stage == "check" and taken < 1:
            continue  # it had nothing to do
        table.add_row(f"time of {stage}", f"{taken:.1f} s")
    if "version" in known:
        table.add_section()
        aliases = ", ".join(known["aliases"]) or "no alias"
        table.add_row(f"{known['name']}", f"version {known['version']} ({aliases})")

    console = Console(emoji=False, highlight=False)
    console.print(table)
    for what, made in (("scores", scores), ("samples", samples)):
        if not made:
            console.print(f"there are no {what} of this model yet: `{again}` makes them")
    # the first; of a fine-tuned model what its base made of the prompt as well
    for title, start in (("a sample", "Sample 1"), ("before, by its base", "Before: ")):
        for text in [text for name, text in samples.items() if name.startswith(start)][:1]:
            console.print(f"\n[bold]{title}[/bold]\n")
            console.print(text, markup=False)
    console.print("\n[bold]try next[/bold]\n")
    name = again.removeprefix("make run")
    here = Path(os.path.relpath(recipe.resolve(), place.resolve())).as_posix()
    folder = "" if here == "." else f"cd {here} && "
    train = settings.train
    change = f"learning_rate={2 * train.learning_rate:g}" if train.steps else "steps=24"
    link = pages.runs(known["experiment_id"]) if "experiment_id" in known else pages.home()
    for command in (
        f"make sample{name}{_prompt(settings.sample)}",
        f"source .venv/bin/activate && {folder}dvc exp run -S train.{change}",
        "make ui",
    ):
        console.print(f"  {command}", soft_wrap=True, markup=False)
    up = "" if link.startswith(location.address()) else ", while `make ui` is up"
    console.print(f"\nits runs in MLflow{up}:")
    console.print(link, soft_wrap=True, markup=False)


def as_known(recipe: Path) -> dict[str, Any]:
    """What MLflow knows of the recipe's model, with the addresses of its `pages`, for programs."""
    settings = load(recipe / "params.yaml")
    known = registry.summary(identify(settings, recipe / settings.root))
    found = {}
    if known:
        found[f"run {known['run']}"] = pages.run(known["experiment_id"], known["run_id"])
    if "version" in known:
        name, version = known["name"], known["version"]
        found[f"version {version} of {name}"] = pages.version(name, version)
    return known | {"pages": found}


def outdated(lock: Path) -> set[str]:
    """Stages that DVC last ran on another model than the one that is there now.

    Raises:
        UserError: the lock cannot be read.
    """
    if not lock.exists():
        return set()  # the stages were run by hand
    try:
        stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))["stages"]
    except (YAMLError, ValueError, KeyError, TypeError):
        raise UserError(f"{lock} is damaged, as by a merge; take a whole one from git") from None
    made = {out["path"]: out for out in stages.get("train", {}).get("outs", [])}
    return {
        name
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep["path"] in made and made[dep["path"]].get("md5") != dep.get("md5")
    }


def _read(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing if it is not there."""
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def _samples(path: Path) -> dict[str, str]:
    return from_markdown(path.read_bytes().decode("utf-8")) if path.exists() else {}


def _prompt(sample: Sample) -> str:
    """The first words of a recipe's own prompt, which its model can read, to be changed."""
    line = "" if sample.prompt_file else sample.prompt.strip().partition("\n")[0]
    words = line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0]
    return f" PROMPT={shlex.quote(words)}" if words else ""
