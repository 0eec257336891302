"""Figures → docs/benchmarks.md."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

Figures = dict[str, Any]
Row = list[str]

HEAD = """# Benchmarks

Written by `make bench`; each section has the figures of the last time that it was run, as the line
under it says. *Theirs* is nanoGPT's own `train.py`, started in a copy of its folder. Runs of the
two sides take turns; figures are medians, ratios medians of the ratios within a turn. "One core"
means that a command and all its threads have one. Losses are nats a character over the whole
validation split of tiny Shakespeare, its last tenth: every window of the context's length once,
for both sides by the same function.
"""


def render(results: dict[str, Figures]) -> str:
    """The page with those sections that have results."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        if name in results:
            about = results[name]["about"]
            parts += [section(results[name]["figures"]), *_about(about)]
    return "\n".join(parts)


def _about(about: dict[str, str]) -> Row:
    command = about["command"]
    facts = "; ".join(value for key, value in about.items() if key != "command")
    return [f"*`{command}`; {facts}.*", ""]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines += [list(row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _median(rows: list[Figures], *keys: str) -> float | None:
    """Median over the rows that have it of a value some keys deep."""
    found = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if value else None
        if value is not None:
            found.append(value)
    return statistics.median(found) if found else None


def _ratio(rows: list[Figures], over: str, under: str, *keys: str) -> float | None:
    """Median of the ratios within each row."""
    found = [(_median([row], over, *keys), _median([row], under, *keys)) for row in rows]
    ratios = [a / b for a, b in found if a and b]
    return statistics.median(ratios) if ratios else None


def _show(value: float | None, form: str = "{:,.1f}") -> str:
    return "" if value is None else form.format(value)


def _steps(figures: Figures) -> str:
    rows = []
    for cores in dict.fromkeys(row["cores"] for row in figures["rounds"]):
        here = [row for row in figures["rounds"] if row["cores"] == cores]
        for key, name in (("ours", "ours"), ("float32", "ours in float32"), ("theirs", "theirs")):
            seconds = _median(here, key)
            if seconds:
                ratio = _ratio(here, "theirs", key)
                speeds = (1 / seconds, "{:.1f}"), (figures["tokens"] / seconds, "{:,.0f}")
                shown = [_show(*speed) for speed in speeds]
                rows.append([str(cores), name, *shown, _show(ratio, "{:.2f} x")])
    return (
        "## Steps a second, same mathematics\n\n"
        "nanoGPT's CPU quick start and `pipelines/tiny_shakespeare_nanogpt`: 4 layers, 4 heads, 128"
        " wide, context 64, batch 12, AdamW. *Ours* takes the type of matrix products that"
        " `machine.dtype: auto` does.\n\n"
        + _table(("cores", "", "steps/s", "tokens/s", "against theirs"), rows)
    )


LOSS = """## Time to a loss, and loss at equal time, on one core

With the quick start's number of parameters and context. *To 1.88* is `benchmarks/to_1.88.yaml`, *in
120 s* `benchmarks/in_120s.yaml`. "Command" counts from the start of the command to the validation
that found {target} or less, "steps" the optimizer's steps up to there alone. The loss is that of
the weights that a training ends with (ours: publishes), the last column the whole command's time.
"""


def _loss(figures: Figures) -> str:
    target, rows = figures["target"], []
    for row in figures["rounds"]:
        for key, name in (("to_1.88", "ours, to 1.88"), ("in_120s", "ours, in 120 s")):
            rows.append([str(row["seed"]), name, *_outcome(row[key], target)])
        if "theirs" in row:
            rows.append([str(row["seed"]), "theirs", *_outcome(row["theirs"], target)])
    head = ("seed", "", f"command to {target}", "steps to it", "loss", "whole command")
    text = LOSS.format(target=target) + "\n" + _table(head, rows)
    pairs = [
        {"ours": _until(row["to_1.88"]), "theirs": _until(row["theirs"])}
        for row in figures["rounds"]
        if "theirs" in row and row["to_1.88"]["reached"]
    ]
    if pairs:
        never = not all(row["theirs"]["reached"] for row in figures["rounds"])
        bound = "at least " if never else ""
        why = ": where theirs never gets there, its whole time is counted" if never else ""
        command, steps = (_ratio(pairs, "theirs", "ours", key) for key in ("command", "steps"))
        text += (
            f"\nTo {target}, ours is **{bound}{_show(command)} times** as fast by the command and"
            f" **{bound}{_show(steps)} times** by the steps{why}.\n"
        )
    ends = []
    for key, name in (("in_120s", "Ours"), ("theirs", "theirs")):
        if loss := _median(figures["rounds"], key, "loss"):
            seconds = _median(figures["rounds"], key, "seconds")
            ends.append(f"{name} ends at **{loss:.4f}** after {_show(seconds, '{:.0f}')} s")
    return f"{text}\n{', '.join(ends)}.\n"


def _until(outcome: Figures) -> Figures:
    """Seconds to the target, or all there were, by both clocks."""
    reached = outcome["reached"] or {"seconds": outcome["seconds"], "step": outcome["steps"]}
    return {
        "command": reached["seconds"],
        "steps": reached["step"] * outcome["step_seconds"],
    }


def _outcome(outcome: Figures, target: float) -> Row:
    until = {key: _show(value) + " s" for key, value in _until(outcome).items()}
    if outcome["reached"] is None:
        until = {key: f"never in {value}" for key, value in until.items()}
    loss, seconds = _show(outcome["loss"], "{:.4f}"), _show(outcome["seconds"]) + " s"
    return [until["command"], until["steps"], loss, seconds]


def _start(figures: Figures) -> str:
    rounds, rows = figures["rounds"], []
    for key, name, form in (
        ("first_step", "command to the end of the first step", "{:.1f} s"),
        ("peak_mib", "peak memory of 40 steps", "{:,.0f} MiB"),
        ("validation", "a pass over the validation split, float32", "{:.2f} s"),
    ):
        sides = [_show(_median(rounds, side, key), form) for side in ("ours", "theirs")]
        rows.append([name, *sides, _show(_ratio(rounds, "theirs", "ours", key), "{:.2f} x")])
    text = (
        "## Start-up, memory, validation\n\n"
        "The quick start's settings on all cores. Before its first step ours scores the whole"
        " validation split, theirs 20 batches of each split.\n\n"
        + _table(("", "ours", "theirs", "theirs / ours"), rows)
    )
    for row in rounds[:1]:
        if "theirs" in row:
            difference = abs(row["theirs"]["same"] - row["theirs"]["loss"])
            text += (
                f"\nOne set of nanoGPT's weights has a loss of {row['theirs']['loss']:.6f} in its"
                f" model and the same within {difference:.0e} in our `gpt2`.\n"
            )
    return text


def _saving(figures: Figures) -> str:
    interval, step = figures["interval"], figures["step_seconds"]
    share = figures["save_seconds"] / (interval * step + figures["save_seconds"])
    rows = [
        ["loop as it is, against the bare loop", f"{figures['ratio']:.3f} x its steps/s"],
        ["a save", f"{1000 * figures['save_seconds']:.1f} ms"],
        ["a step", f"{1000 * step:.1f} ms"],
        [f"share of saves, one every {interval} steps", f"{share:.2%}"],
    ]
    return (
        "## What the loop carries\n\n"
        "The stage `train` on the quick start's settings on all cores, in one process by turns: as"
        " it is, with journal, saves, MLflow and progress bar, and the bare loop without them. The"
        f" cost of a save is what {figures['steps']} steps take longer with everything on and a"
        f" save every {figures['often']}; that of logging is in it too.\n\n"
        + _table(("", ""), rows)
    )


def _gpu(figures: Figures) -> str:
    rows = []
    for recipe in dict.fromkeys(row["recipe"] for row in figures["speeds"]):
        here = [row for row in figures["speeds"] if row["recipe"] == recipe]
        for side in ("ours", "theirs"):
            speed = _median(here, side, "tokens_per_second")
            if speed:
                used = speed * here[0][side]["operations"]
                share = used / figures["peak"] if figures["peak"] else None
                ratio = _ratio(here, side, "theirs", "tokens_per_second")
                shown = (speed, "{:,.0f}"), (share, "{:.1%}"), (ratio, "{:.2f} x")
                rows.append([recipe, side, *(_show(*pair) for pair in shown)])
    head = ("recipe", "", "tokens/s", "of the device's peak", "against theirs")
    text = f"## {figures['device']}\n\n" + _table(head, rows)
    columns = ("", f"command to {figures['target']}", "steps to it", "loss", "whole command")
    outcomes = figures["to_best"].items()
    rows = [[side, *_outcome(outcome, figures["target"])] for side, outcome in outcomes]
    return text + "\n" + _table(columns, rows)


SECTIONS: dict[str, Callable[[Figures], str]] = {
    "steps": _steps,
    "loss": _loss,
    "start": _start,
    "saving": _saving,
    "gpu": _gpu,
}
