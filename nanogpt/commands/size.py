"""What a recipe will take, and what another depth makes of it.

nanogpt size                                       # the default recipe as it is
nanogpt size shakespeare_gpu --depth 12            # turned to another depth
nanogpt size --depth 8 --name deeper               # and written as pipelines/deeper
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.common.place import CODE, root
from nanogpt.machine.distributed import World, join
from nanogpt.settings import FromScratch, Settings, load
from nanogpt.sizing import memory
from nanogpt.sizing.count import Count, config_of, count
from nanogpt.sizing.dial import EPOCHS, Turned, by_heart, once, tokens_of, turn
from nanogpt.sizing.made import config_of_base, how_made, own_tokens
from nanogpt.sizing.passes import fit
from nanogpt.sizing.speed import SHARE, Speed, elsewhere, measure

GPT2_ENTRIES = 50257  # of GPT-2's vocabulary


@dataclass(frozen=True)
class Sized:
    """What a recipe will take.

    Attributes:
        tokens: that its training reads; corpus: those by which it has read its text once, where
            that has been made.
        speed: on this machine, or why it was not measured.
    """

    settings: Settings
    config: GPTConfig
    counts: Count
    tokens: int
    corpus: int | None
    bytes_needed: int
    bytes_there: int
    device: str
    speed: Speed | str

    @property
    def flops(self) -> float:
        return self.counts.flops_per_token * self.tokens

    @property
    def seconds(self) -> float | None:
        """Of the training's steps on this machine, in one process."""
        speed = self.speed
        return self.tokens / speed.tokens_per_second if isinstance(speed, Speed) else None


def size(
    recipe: Path,
    depth: int | None,
    ratio: float | None,
    aspect: float | None,
    name: str | None,
    measured: bool,
    as_json: bool,
) -> None:
    """Print what a recipe will take, turned to a depth if there is one; write it if it has a name.

    Raises:
        UserError: its vocabulary or base is not known yet; what is asked for does not go together.
    """
    if depth is None and (given := [ratio, aspect, name]) != [None] * len(given):
        raise UserError("a name, tokens a parameter or a width a layer need a depth: say DEPTH=")
    if name == "":
        raise UserError("NAME: a recipe's name cannot be empty")
    settings = load(recipe / "params.yaml")
    if depth is not None and not isinstance(settings, FromScratch):
        raise UserError(
            f"the shape of {settings.recipe} comes with download.base; a depth is for a recipe"
            " that starts from nothing"
        )
    tokens, why = own_tokens(settings, recipe)
    corpus = once(tokens.manifest, settings.train.weights) if tokens else None
    turned = None
    if isinstance(settings, FromScratch):
        entries = tokens.manifest.vocab_size if tokens else _entries(settings, recipe, why)
        if depth is not None:
            turned = turn(settings, entries, depth, ratio, aspect, corpus)
            settings = turned.settings
        config = config_of(settings, entries)
    else:
        config = config_of_base(settings, recipe)
    if name is not None and turned is not None:
        _write(name, recipe, turned.changes)  # before the work: a name may be refused
    sized = _sized(settings, config, corpus, measured)
    if as_json:
        print(json.dumps(as_values(sized, turned), indent=1))
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
        before = load(recipe / "params.yaml").model_dump()
        for line in _page(sized, turned, before):
            console.print(line, soft_wrap=not isinstance(line, Table))


def _entries(settings: Settings, recipe: Path, why: str) -> int:
    """Entries of the vocabulary of a recipe whose tokens are not made yet."""
    if settings.tokenize.vocab_size is not None:
        return settings.tokenize.vocab_size
    if settings.tokenize.tokenizer == "gpt2":
        return GPT2_ENTRIES
    raise UserError(
        f"the recipe {settings.recipe} {why}, and how large its vocabulary is the text decides:"
        f" {how_made(settings, recipe, 'tokenize')}"
    )


def _sized(settings: Settings, config: GPTConfig, corpus: int | None, measured: bool) -> Sized:
    world = join(settings.machine, trains=measured)
    counts = count(config, settings.model.context, settings.train.lora)
    fitted = fit(config, settings, world)  # as a training would
    needed, there = memory.estimate(config, fitted, world), memory.available(world.device)
    return Sized(
        settings,
        config,
        counts,
        tokens_of(settings),
        corpus,
        needed,
        there,
        world.device.type,
        _speed(fitted, config, world, measured, needed <= there or not memory.refuses()),
    )


def _speed(
    settings: Settings, config: GPTConfig, world: World, measured: bool, fits: bool
) -> Speed | str:
    if not isinstance(settings, FromScratch):
        return "not measured: it starts from a base"
    if not measured:
        return "not measured, as asked"
    if not fits:
        return "not measured: it does not fit"
    return measure(config, settings, world)


def as_values(sized: Sized, turned: Turned | None) -> dict[str, Any]:
    """All that is shown, for programs. Seconds, bytes, tokens."""
    speed, counts = sized.speed, sized.counts
    return {
        "changes": turned.changes if turned else {},
        "rules": {key: turned.rule(key) for key in turned.changes} if turned else {},
        "parts": counts.parts,
        "parameters": counts.parameters,
        "trained": counts.trained,
        "matrices": counts.matrices,
        "flops_per_token": counts.flops_per_token,
        "tokens": sized.tokens,
        "epochs": sized.tokens / sized.corpus if sized.corpus else None,
        "flops": sized.flops,
        "memory": {"needed": sized.bytes_needed, "there": sized.bytes_there},
        "device": sized.device,
        "speed": asdict(speed) if isinstance(speed, Speed) else None,
        "seconds": sized.seconds,
        "elsewhere": elsewhere(sized.flops),
        "share": SHARE,
    }


def _page(sized: Sized, turned: Turned | None, before: dict[str, Any]) -> Iterator[Table | str]:
    """What a person reads."""
    settings, counts = sized.settings, sized.counts
    if turned:
        yield f"recipe {settings.recipe}, turned to a depth of {counts.layers}"
        yield _changes(turned, before)
    else:
        yield f"recipe {settings.recipe}, as it is"
    table = _table("parameters", "number", "share")
    for part, number in counts.parts.items():
        inside = part in ("attention", "MLP", "norms of blocks", "adapters")
        each = f" ({counts.layers} x {number // counts.layers:,})" if inside else ""
        table.add_row(part + each, f"{number:,}", f"{number / counts.parameters:.1%}")
    table.add_row("all", f"{counts.parameters:,}", "")
    if counts.trained < counts.parameters:
        share = counts.trained / counts.parameters
        table.add_row("of which are trained", f"{counts.trained:,}", f"{share:.1%}")
    yield table
    weights = "4 N + 6 of each adapter's" if settings.train.lora else "6 N"
    yield (
        f"operations: {counts.flops_per_token:.3g} a token ({weights} + 12 L H Q T: Chowdhery et"
        f" al. 2022), {sized.flops:.3g} in all"
    )
    ratio = sized.tokens / counts.matrices
    yield (
        f"tokens: {sized.tokens:,}, {ratio:.3g} for each of N = {counts.matrices:,} weights that"
        " multiply" + _epochs(sized)
    )
    fits = "" if sized.bytes_needed <= sized.bytes_there else ": it does not fit"
    yield (
        f"memory: {sized.bytes_needed / 2**30:.2f} GiB at the peak, beside Python and torch;"
        f" {sized.bytes_there / 2**30:.2f} GiB are free here ({sized.device}){fits}"
    )
    yield f"\n{_here(sized)}"
    yield (
        f"elsewhere at best, on one device at {SHARE:.0%} of its peak, which a model of less than"
        " some 100 million parameters does not reach:"
    )
    times = elsewhere(sized.flops).items()
    yield "  " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in times)


def _epochs(sized: Sized) -> str:
    if not sized.corpus:
        return "; how long the text is will be known when it is made into tokens"
    epochs = sized.tokens / sized.corpus
    more = f", and past {EPOCHS} times it teaches less" if epochs > 1.01 * EPOCHS else ""
    text = "the corpus that is read most" if sized.settings.train.weights else "the text"
    said = f"; {text} is read {epochs:.3g} times{more}"
    if not isinstance(sized.settings, FromScratch):
        return said
    return said + by_heart(sized.counts.matrices, sized.tokens, sized.corpus)


def _here(sized: Sized) -> str:
    speed = sized.speed
    if not isinstance(speed, Speed) or sized.seconds is None:
        return f"on this machine: {speed}"
    train = sized.settings.train
    whole, limit = train.batch_size, train.max_minutes
    early = ""
    if limit is not None and sized.seconds > 60 * limit:
        early = f"; train.max_minutes ends it after {duration(60 * limit)}, with fewer tokens"
    part = f" of {speed.windows} of the {whole} windows" if speed.windows < whole else ""
    return (
        f"on this machine: {duration(sized.seconds)} of steps in one process,"
        f" {speed.tokens_per_second:,.0f} tokens/s (median of {speed.steps} steps{part});"
        f" validations, saves and the other stages come on top{early}"
    )


def _changes(turned: Turned, before: dict[str, Any]) -> Table:
    table = _table("key", "was", "is", "rule")
    for key, value in turned.changes.items():
        section, name = key.split(".")
        table.add_row(key, _whole(before[section][name]), _whole(value), turned.rule(key))
    return table


def _whole(value: float) -> str:
    """A value as it is written: a number of steps with all its digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for i, column in enumerate(columns):
        right = i and column != "rule"
        table.add_column(column, justify="right" if right else "left")
    return table


def duration(seconds: float) -> str:
    """A time as a person says it."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"


def _write(name: str, like: Path, changes: dict[str, Any]) -> None:
    """Make `pipelines/<name>`, which pipelines/ sees to: recipes are its own."""
    words = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    paths = [os.fspath(CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pipelines.new", f"--like={like.resolve()}", f"--name={name}"]
    was_there = (root() / "pipelines" / name / "params.yaml").exists()
    done = subprocess.run(
        [*command, *words],
        cwd=root(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("new: "))
    made = done.stdout.strip()
    said = "is written"
    if was_there:
        said = "was there already, with these values; whatever else it says stays"
    print(f"{made} {said}; `make run RECIPE={made}` runs it", file=sys.stderr)
