"""Figures → docs/benchmarks.md: one table, whose rows are replaced section by section."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

LESS_IS_BETTER = {"steps/s": False, "tokens/s": False, "s": True, "ms": True, "MiB": True}

HEAD = """# Benchmarks

Written by `make bench`, section by section; below the table stands which command measured what,
when and where. *Theirs* is nanoGPT's own `train.py`, started in a copy of its folder. The two sides
take turns. Figures are medians over the turns, ratios medians of the ratios within a turn: above 1
ours is better. "over": in some turn the training ended before it got there, and all of its time is
counted. A loss is that of the whole validation split of tiny Shakespeare, its last tenth, in nats a
character: every window of the context's length once, for both sides by the same function.

- steps: nanoGPT's CPU quick start and `pipelines/tiny_shakespeare_nanogpt`, without start-up: 4
  layers, 4 heads, 128 wide, AdamW, 12 windows of 64 tokens a step. Ours takes the type of matrix
  products that `machine.dtype: auto` does. "1 core": a command and all its threads have one.
  Where a step is near to the best that torch's products come to on the processor, no code with the
  same mathematics in the same type is much faster.
- loss: on one core, from the start of the command; theirs is the quick start. Ours:
  `benchmarks/to_1.88.yaml` to that loss, with as many parameters and the same context;
  `benchmarks/in_120s.yaml` to the lowest, with a context of 256, in which it is scored.
- start: the quick start on all cores. Before its first step theirs scores 20 batches of each split.
- saving: the loop of the stage `train` on the quick start, bare and as it is, with journal, saves,
  MLflow and progress bar. A save is what a training with many of them takes longer, divided by
  their number; the logging that goes with it is in there, and that the run is opened in MLflow, but
  not MLflow's import, which is done in a training before.
- generation: texts of nanoGPT's small model, 6 layers, 6 heads, 384 wide, a context of 256, on one
  core in float32; drawing and decoding are in there. "bfloat16" is of the matrix products, those of
  transformers too; nanoGPT's sample.py has none on a CPU. Within the context a text grows from 1
  token to 256. Past it, from 256 on, ours drops the older half and reads the rest anew once;
  nanoGPT reads all of it for each token. Theirs is nanoGPT's `generate`; or transformers' own on
  the folder of our model, or llama.cpp on its GGUF in F32, where the measure says so.
- server: `nanogpt serve` on all cores, the same model as qwen3, 64 new tokens after 64; each client
  sends one request after the other. Theirs, of the first token, is our engine without a server.
- gpu: both models of nanoGPT's README on one GPU; the loss is nanoGPT's best of the small one.

| section | measure | unit | ours | theirs | ratio |
| --- | --- | --- | --- | --- | --- |
"""


def render(results: Mapping[str, Any], names: Iterable[str], older: str) -> str:
    """The page: sections without results keep what stands of them in an older page."""
    rows: list[str] = []
    notes: list[str] = []
    for name in names:
        if name in results:
            rows += _rows(name, results[name]["turns"])
            notes.append(f"- {name}, by {'; '.join(results[name]['about'].values())}.")
        else:
            rows += [line for line in older.splitlines() if line.startswith(f"| {name} |")]
            notes += [line for line in older.splitlines() if line.startswith(f"- {name}, by ")]
    return "\n".join((HEAD + "\n".join(rows), "", *notes, ""))


def _rows(section: str, turns: list[list[dict[str, Any]]]) -> list[str]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figure in (figure for turn in turns for figure in turn):
        found.setdefault((figure["measure"], figure["unit"]), []).append(figure)
    return [
        f"| {' | '.join((section, *key, *_cells(key[1], figures)))} |"
        for key, figures in found.items()
    ]


def _cells(unit: str, figures: list[dict[str, Any]]) -> list[str]:
    """Ours, theirs, ratio."""
    over = {side: any(side in f["bounds"] for f in figures) for side in ("ours", "theirs")}
    sides = {side: [f[side] for f in figures if f[side] is not None] for side in over}
    cells = [_show(values, over[side], unit) for side, values in sides.items()]
    if unit not in LESS_IS_BETTER or over["ours"] or not sides["theirs"]:
        return [*cells, ""]
    ratios = [f["theirs"] / f["ours"] for f in figures if f["theirs"] is not None]
    if not LESS_IS_BETTER[unit]:
        ratios = [1 / ratio for ratio in ratios]
    return [*cells, ("over " if over["theirs"] else "") + f"{statistics.median(ratios):.3g}"]


def _show(values: list[float], over: bool, unit: str) -> str:
    if not values:
        return ""
    value = statistics.median(values)
    form = ".4f" if unit == "nats" else ",.0f" if value >= 1000 else ".3g"
    return ("over " if over else "") + format(value, form)
