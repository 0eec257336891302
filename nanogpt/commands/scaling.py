"""A ladder of small trainings, the law that they follow, and what it promises.

nanogpt scaling                                    # of the default recipe
nanogpt scaling shakespeare_gpu --depths 2,3,4 --largest 1e15
nanogpt scaling --hours 8 --check 30               # and a training 30 times larger than the largest

What is done is kept below the recipe's data, in `scaling/`; the same command goes on from there.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from nanogpt.commands.size import duration
from nanogpt.common.errors import UserError
from nanogpt.common.files import write_text
from nanogpt.common.told import stops
from nanogpt.machine.distributed import World, join
from nanogpt.scaling.chart import draw
from nanogpt.scaling.ladder import FEWEST, Result, Rung, climb, known, made_by, rung_of, rungs
from nanogpt.scaling.law import CONFIDENCE, Law, Point, bootstrap, check_enough, fit
from nanogpt.scaling.promise import Promise, Rates, best, in_time, sizes_of
from nanogpt.scaling.since import since
from nanogpt.settings import FromScratch, Settings, load
from nanogpt.sizing import memory, passes
from nanogpt.sizing.count import config_of, count
from nanogpt.sizing.dial import EPOCHS, by_heart, once, tokens_of
from nanogpt.sizing.made import how_made, own_tokens
from nanogpt.text.tokens import Tokens

SMALLER = 4.0  # times: the largest training of a ladder than the recipe itself
NEAR = 0.02  # of the loss: within which a checked promise was kept
SHOWN = 3  # names in a warning
DEPTHS = 0.5, 0.75, 1.0, 1.25  # of the recipe's own: narrower ones follow another law (docs)


@dataclass(frozen=True)
class Checked:
    """A larger training, beside what the law had said of it."""

    result: Result
    said: Promise

    @property
    def error(self) -> float:
        """Share of the loss by which the law was wrong: above 0, it said too much."""
        return self.said.loss / self.result.bits_per_byte - 1


def scale(
    recipe: Path,
    depths: Sequence[int],
    largest: float | None,
    budgets: int,
    seeds: int,
    hours: float,
    check: float | None,
    as_json: bool,
) -> None:
    """Train what is missing of the ladder, fit, promise, and check if asked; print and draw it.

    Raises:
        UserError: no tokens yet, a base, or a ladder that is too small.
        Stopped: Ctrl-C; what was under way is saved.
    """
    settings = load(recipe / "params.yaml")
    if not isinstance(settings, FromScratch):
        raise UserError(
            f"{settings.recipe} starts from download.base; a ladder is for a recipe that starts"
            " from nothing, whose size is free"
        )
    tokens, why = own_tokens(settings, recipe)
    if tokens is None:
        makes = how_made(settings, recipe, "tokenize")
        raise UserError(f"the recipe {settings.recipe} {why}: {makes}")
    old = _old(settings, recipe, tokens)
    folder = recipe / settings.root / settings.path("scaling")
    depths = depths or sorted({max(1, round(settings.model.n_layer * part)) for part in DEPTHS})
    world = join(settings.machine, trains=True)
    size = tokens.manifest.vocab_size
    own = count(config_of(settings, size), settings.model.context).flops_per_token
    largest = largest or own * tokens_of(settings) / SMALLER
    ladder = rungs(settings, tokens, depths, largest, budgets, seeds)
    # before the hours that it may take
    check_enough([(rung.matrices, rung.tokens) for rung in ladder])
    sizes = sizes_of(settings, size)
    now, there = made_by(world), [known(rung, tokens, folder) for rung in ladder]
    for warning in filter(None, (old, _others([done for done in there if done], now, folder))):
        print(f"scaling: {warning}", file=sys.stderr, flush=True)  # before hours go into the rest
    # the last of a depth has its largest batch
    for rung in {r.depth: r for r, done in zip(ladder, there, strict=True) if not done}.values():
        config = config_of(rung.settings, size)
        memory.check(config, passes.fit(config, rung.settings, world), world)
    folder.mkdir(parents=True, exist_ok=True)
    results = [_climb(rung, tokens, world, folder) for rung in ladder]
    points = [Point(r.matrices, r.tokens, r.bits_per_byte) for r in results]
    law = fit(points)
    laws = bootstrap(points, settings.seed)
    text = once(tokens.manifest, settings.train.weights)
    most = EPOCHS * text
    top = max(results, key=lambda result: result.flops)
    checked = None
    if check:
        said = best(law, laws, sizes, lambda depth: check * top.flops, most)
        rung = rung_of(settings, tokens, said.depth, said.flops)
        checked = Checked(_climb(rung, tokens, world, folder), said)
    rates = Rates(settings, size, sizes, world, top.flops / top.seconds)
    if checked is None:
        found = in_time(law, laws, sizes, most, rates, 3600 * hours)
    else:  # one more training that is known, and how far such a law was off
        one = checked.result
        points.append(Point(one.matrices, one.tokens, one.bits_per_byte))
        later = fit(points)
        others = bootstrap(points, settings.seed)
        found = in_time(later, others, sizes, most, rates, 3600 * hours).off_by(checked.error)
    picture = folder / "law.png"
    draw(
        results,
        checked.result if checked else None,
        law,
        laws,
        f"recipe {settings.recipe}",
        picture,
    )
    values = _values(results, law, laws, found, hours, checked)
    mixed = _others([*results, *([checked.result] if checked else [])], now, folder)
    values["warning"] = "\n".join(filter(None, (old, mixed))) or None
    again = by_heart(sizes[found.depth].matrices, found.tokens, text)
    values["by_heart"] = bool(again)
    values["left_out"] = len(set(depths)) * budgets * seeds - len(ladder)
    write_text(folder / "law.json", json.dumps(values, indent=1) + "\n")
    if as_json:
        print(json.dumps(values, indent=1))
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
        end = [_promised(found, hours, top, checked is not None) + again, f"drawn in {picture}"]
        end[1:1] = [_of_check(checked, top)] if checked else []
        for line in (*_page(settings, law, results, values), *end):
            console.print(line, soft_wrap=not isinstance(line, Table))
    if checked and abs(checked.error) > NEAR:
        raise UserError(
            f"the check was missed: the law said {checked.said.loss:.4f} bits per byte, and"
            f" {checked.result.bits_per_byte:.4f} came of it; take a larger --largest, or more"
            " budgets"
        )


@contextmanager
def _listening() -> Iterator[Callable[[], int]]:
    """A function that returns the number of the signal that came to end this, or 0."""
    came: list[int] = []

    def hear(number: int, _: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, *stops())}
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _climb(rung: Rung, tokens: Tokens, world: World, folder: Path) -> Result:
    if done := known(rung, tokens, folder):
        return done
    print(
        f"scaling: depth {rung.depth}, {rung.tokens:,} tokens in {rung.settings.train.steps:,}"
        " steps",
        file=sys.stderr,
        flush=True,
    )
    with _listening() as told:
        return climb(rung, tokens, world, folder, told)


def _old(settings: Settings, recipe: Path, tokens: Tokens) -> str:
    """What to tell of tokens that the next `make run` would make anew; "": they are as asked."""
    with chdir(recipe / settings.root):
        changed = since(settings, tokens)
    more = f" and {len(changed) - SHOWN:,} more" * (len(changed) > SHOWN)
    said = (
        f"warning: changed since the tokens were made: {', '.join(changed[:SHOWN])}{more}; the"
        f" ladder is of those. Tokens of today: {how_made(settings, recipe, 'tokenize')}"
    )
    return said if changed else ""


def _others(results: Sequence[Result], now: str, folder: Path) -> str:
    """What to tell of trainings that would not come to the same today; "": there are none."""
    if not (others := sum(result.made_by != now for result in results)):
        return ""
    return (
        f"warning: {others} of {len(results)} trainings were made by other code than today's, or in"
        f" another machine.dtype: their losses may not go together; remove {folder} to train anew"
    )


def _values(
    results: Sequence[Result],
    law: Law,
    laws: Sequence[tuple[Law, float]],
    found: Promise,
    hours: float,
    checked: Checked | None,
) -> dict[str, Any]:
    """All that is shown, for programs. Seconds, tokens, bits per byte."""
    numbers = {name: _spread(law, laws, name) for name in ("E", "A", "alpha", "B", "beta")}
    return {
        "rungs": [asdict(result) for result in results],
        "law": numbers | {"n": law.n, "d": law.d},
        "confidence": CONFIDENCE,
        "limited": law.limited,
        "hours": hours,
        "promise": asdict(found),
        "check": checked
        and {
            "result": asdict(checked.result),
            "said": asdict(checked.said),
            "error": checked.error,
        },
    }


def _spread(law: Law, laws: Sequence[tuple[Law, float]], name: str) -> dict[str, float]:
    """A number of the law, and between what it is."""
    others = [getattr(other, name) for other, _ in laws if other.form == law.form]
    low, high = np.quantile(others, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"is": getattr(law, name), "low": float(low), "high": float(high)}


def _page(
    settings: Settings, law: Law, results: Sequence[Result], values: dict[str, Any]
) -> Iterator[Table | str]:
    """What a person reads."""
    yield f"recipe {settings.recipe}: {len(results)} trainings, bits per byte of the val split"
    if values["left_out"]:
        yield (
            f"left out: {values['left_out']}, of fewer than {FEWEST} steps or of more than {EPOCHS}"
            " readings of the text"
        )
    table = Table(box=box.SIMPLE)
    for column in ("depth", "N", "tokens", "operations", "bits per byte", "law", "off"):
        table.add_column(column, justify="right")
    for r in results:
        said = law.loss(r.matrices, r.tokens)
        off = f"{said / r.bits_per_byte - 1:+.1%}"
        row = f"{r.depth}", f"{r.matrices:,}", f"{r.tokens:,}", f"{r.flops:.3g}"
        table.add_row(*row, f"{r.bits_per_byte:.4f}", f"{said:.4f}", off)
    yield table
    numbers = (
        f"{name} {x['is']:.3g} ({x['low']:.3g} to {x['high']:.3g})"
        for name, x in values["law"].items()
        if isinstance(x, dict)
    )
    yield f"L(N, D) = E + A / (N / {law.n:.3g})^alpha + B / (D / {law.d:.3g})^beta"
    yield f"  {', '.join(numbers)}"
    yield (
        f"  N to grow as operations^{law.beta / (law.alpha + law.beta):.2f}, tokens as"
        f" operations^{law.alpha / (law.alpha + law.beta):.2f}"
    )
    if law.limited:
        names = " and ".join(law.limited)
        yield f"  warning: nothing here decides {names}; more depths and budgets would"
    if values["warning"]:
        yield values["warning"]


def _promised(found: Promise, hours: float, top: Result, checked: bool) -> str:
    """The promise, in a sentence."""
    times = found.flops / top.flops
    ends = "; deeper ones are not looked at" if found.deepest else ""
    if found.ends and found.seconds is not None and found.seconds < 0.9 * 3600 * hours:
        ends += (
            f"; it takes {duration(found.seconds)} of them: the text is read {EPOCHS} times then,"
            " and what more would do is not in the law"
        )
    far = f" ({times:.3g} times the operations of the largest of the ladder)"
    if checked:
        far += (
            ", by the law with the check in it, the interval as wide as the check was off or more"
        )
    return (
        f"in {hours:g} h on this machine: depth {found.depth}, {found.loss:.3f} ({found.low:.3f} to"
        f" {found.high:.3f}) bits per byte, by {found.tokens:,} tokens{far}{ends}"
    )


def _of_check(checked: Checked, top: Result) -> str:
    result, said = checked.result, checked.said
    verdict = "kept" if abs(checked.error) <= NEAR else "missed"
    return (
        f"checked {result.flops / top.flops:.3g} times larger: depth {result.depth},"
        f" {result.tokens:,} tokens: the law said {said.loss:.4f} ({said.low:.4f} to"
        f" {said.high:.4f}), it came to {result.bits_per_byte:.4f}: {checked.error:+.1%}, {verdict}"
    )
