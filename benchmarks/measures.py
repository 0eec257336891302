"""What is measured on a CPU: each section runs both sides in turn, and yields figures by the turn.

Without a checkout of nanoGPT our side is measured alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import CORES, ROOT, run
from benchmarks.sides import QUICK_START, Ours, Theirs, Training

HERE = Path(__file__).parent
TARGET = 1.88
CONTEXT = 64
LONGER = 256  # of in_120s.yaml
FIRST_SEED = 1337
ITS_QUICK_START = [  # nanoGPT's README, but that each validation keeps its checkpoint
    "config/train_shakespeare_char.py",
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
    "--always_save_checkpoint=True",
]


@dataclass(frozen=True)
class Sizes:
    """Steps of the trainings of each section."""

    warm_up: int = 30
    steps: int = 300
    loss: int | None = None  # as many as the recipes say
    start: int = 40
    saving: int = 250
    often: int = 10  # steps between two saves, where saves are measured
    gpu: tuple[int, int] = (400, 40)  # the small model, the large one
    # tokens of a text: within the context; past it, where each of nanoGPT's costs the same, its
    texts: tuple[int, int, int] = (255, 256, 16)
    serving: float = 20  # seconds of one client, and of many


# for the tests: what comes out says nothing but that it runs; nanoGPT prints every tenth step alone
QUICK = Sizes(warm_up=2, steps=6, loss=6, start=3, saving=4, often=2, gpu=(24, 24), texts=(3, 2, 2))


@dataclass(frozen=True)
class Figure:
    """What one turn measured; `bounds` names the sides whose true figure is larger than this."""

    measure: str
    unit: str
    ours: float
    theirs: float | None = None
    bounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    ours: Ours
    theirs: Theirs | None
    sizes: Sizes
    turns: int

    def peer(self, *flags: str, cores: int = CORES, seed: int = FIRST_SEED) -> Training | None:
        """Train nanoGPT, if it is there."""
        return self.theirs.train(list(flags), cores, seed) if self.theirs else None

    def score(self, ours: Training, theirs: Training | None, context: int, cores: int) -> None:
        """Score the weights of both."""
        self.ours.score(ours, context, cores)
        if self.theirs and theirs:
            self.theirs.score(theirs, context, cores)


def warm_up(bench: Bench) -> None:
    """Bring files into the system's cache, and make MLflow's tables."""
    bench.ours.train(QUICK_START, train=short(bench.sizes.warm_up))
    bench.peer(*ITS_QUICK_START, f"--max_iters={bench.sizes.warm_up}")


def short(steps: int) -> dict[str, Any]:
    """Settings of a training that is timed, and whose loss is not looked at."""
    return {"steps": steps, "warmup_steps": 0}


def steps(bench: Bench) -> Iterator[list[Figure]]:
    """Steps a second of the quick start, on one core and on all, without start-up."""
    train = short(bench.sizes.steps)
    for _ in range(bench.turns):
        figures = []
        for cores in dict.fromkeys((1, CORES)):
            ours = bench.ours.train(QUICK_START, cores, train=train)
            flags = [*ITS_QUICK_START, f"--max_iters={bench.sizes.steps}"]
            theirs = bench.peer(*flags, cores=cores)
            machine = {"dtype": "float32"}
            exact = bench.ours.train(QUICK_START, cores, train=train, machine=machine)
            its = 1 / theirs.step_seconds if theirs else None
            where = f"{cores} core{'s'[: cores > 1]}"
            figures += [
                Figure(f"quick start, {where}", "steps/s", 1 / ours.step_seconds, its),
                Figure(f"the same in float32, {where}", "steps/s", 1 / exact.step_seconds, its),
                *limits(where, cores, 1 / ours.step_seconds, 1 / exact.step_seconds, its),
            ]
        yield figures


def limits(
    where: str, cores: int, ours: float, exact: float, theirs: float | None
) -> Iterator[Figure]:
    """What the processor can do, and how much of it the steps a second are."""
    printed = run("-m", "benchmarks.limit", str(QUICK_START), "65", cwd=ROOT, cores=cores)
    found = json.loads(printed.lines[-1][1])
    step = found.pop("step")
    for dtype, most in found.items():
        yield Figure(f"products of {dtype} at their best, {where}", "GFLOP/s", most / 1e9)
        own, its = (exact, theirs) if dtype == "float32" else (ours, None)
        share = None if its is None else 100 * its * step / most
        what = f"of that, by the quick start's steps in {dtype}, {where}"
        yield Figure(what, "%", 100 * own * step / most, share)


def loss(bench: Bench) -> Iterator[list[Figure]]:
    """Time to the target, and the loss after two minutes, on one core."""
    count = bench.sizes.loss
    train = {"steps": count, "decay_steps": count, "eval_interval": count} if count else {}
    its_count = [f"--max_iters={count or 2000}", f"--eval_interval={count or 250}"]
    for seed in range(FIRST_SEED, FIRST_SEED + bench.turns):
        fast, long = (
            bench.ours.train(HERE / f"{name}.yaml", 1, seed=seed, train=train)
            for name in ("to_1.88", "in_120s")
        )
        theirs = bench.peer(*ITS_QUICK_START, *its_count, cores=1, seed=seed)
        bench.ours.score(fast, CONTEXT, 1)
        bench.ours.score(long, LONGER, 1)
        if bench.theirs and theirs:
            bench.theirs.score(theirs, CONTEXT, 1)
        yield [
            *reaching(TARGET, fast, theirs),
            *ending(", `to_1.88.yaml`", fast, None),
            *ending(", `in_120s.yaml`", long, theirs),
        ]


def reaching(target: float, ours: Training, theirs: Training | None) -> Iterator[Figure]:
    """When trainings reached a loss, by two clocks."""
    own, its = ours.until(target), theirs.until(target) if theirs else None
    never = {"ours": not own[2], "theirs": its is not None and not its[2]}
    bounds = tuple(side for side in never if never[side])
    for clock, what in enumerate((f"command to a loss of {target}", "steps alone to it")):
        yield Figure(what, "s", own[clock], its[clock] if its else None, bounds)


def ending(what: str, ours: Training, theirs: Training | None) -> Iterator[Figure]:
    """Where trainings ended."""
    its = (theirs.score["loss"], theirs.command.seconds) if theirs else (None, None)
    yield Figure(f"loss at the end{what}", "nats", ours.score["loss"], its[0])
    yield Figure(f"whole command{what}", "s", ours.command.seconds, its[1])


def start(bench: Bench) -> Iterator[list[Figure]]:
    """From the command to the first step, peak memory, and a pass over the validation split."""
    count = bench.sizes.start
    for _ in range(bench.turns):
        ours = bench.ours.train(QUICK_START, train=short(count) | {"log_interval": 1})
        flags = [*ITS_QUICK_START, f"--max_iters={count}", f"--eval_interval={count}"]
        theirs = bench.peer(*flags)
        bench.score(ours, theirs, CONTEXT, CORES)
        own, its = (
            (t.first_step, t.command.peak_mib, t.score["seconds"]) if t else (None,) * 3
            for t in (ours, theirs)
        )
        measures = (
            ("command to the end of the first step", "s"),
            (f"peak memory of {count} steps", "MiB"),
            ("a pass over the validation split, float32", "s"),
        )
        figures = [
            Figure(*m, o, t) for m, o, t in zip(measures, own, its, strict=True) if o is not None
        ]
        if theirs:
            apart = abs(theirs.score["same"] - theirs.score["loss"])
            what = "loss of nanoGPT's weights in our `gpt2` and in its own model"
            figures.append(Figure(what, "nats apart", apart))
        yield figures


def saving(bench: Bench) -> Iterator[list[Figure]]:
    """The loop as it is against the bare loop, with saves as often as the recipe says and often."""
    count, often = bench.sizes.saving, bench.sizes.often
    tokens = bench.ours.tokenize(str(bench.ours.text), val=0.002)  # validation takes no time

    def job(kind: str, steps: int, interval: int) -> str:
        train = short(steps) | {"eval_interval": interval}
        recipe = bench.ours.recipe(QUICK_START, tokens, train=train, machine={"device": "cpu"})
        return f"{kind}:{recipe}.yaml"

    for turn in range(bench.turns):
        # the first two import what is needed; which kind comes first changes from turn to turn
        jobs = [job(kind, often, often) for kind in ("whole", "bare")]
        measured = [(k, i) for i in (count, often) for k in ("bare", "whole")[:: 1 - turn % 2 * 2]]
        jobs += [job(kind, count, interval) for kind, interval in measured]
        printed = bench.ours.python("-m", "benchmarks.loop", *jobs)
        seconds = dict(zip(measured, json.loads(printed.lines[-1][1])[2:], strict=True))
        bare, whole = seconds["bare", count], seconds["whole", count]
        save = (seconds["whole", often] - seconds["bare", often]) / (count // often + 1)
        yield [
            Figure("speed of the loop as it is, of the bare loop's", "%", 100 * bare / whole),
            Figure("a step of the bare loop", "ms", 1000 * bare / count),
            Figure("a save", "ms", 1000 * save),
            Figure(f"share of a save every {count} steps", "%", 100 * save / (bare + save)),
        ]
