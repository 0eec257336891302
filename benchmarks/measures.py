"""What is measured on a CPU: each function runs both sides in turn and returns plain figures.

`theirs` is None without a checkout of nanoGPT; then only our side is measured.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.processes import CORES, run
from benchmarks.sides import QUICK_START, Ours, Theirs, Training

HERE = Path(__file__).parent
TARGET = 1.88
CONTEXT = 64
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

Figures = dict[str, Any]


def warm_up(ours: Ours, theirs: Theirs | None) -> None:
    """Bring files into the system's cache, and make MLflow's tables."""
    ours.train(QUICK_START, CORES, train={"steps": 30, "warmup_steps": 0})
    if theirs:
        theirs.train([*ITS_QUICK_START, "--max_iters=30"], CORES)


def steps(ours: Ours, theirs: Theirs | None, seeds: int) -> Figures:
    """Seconds a step of the quick start, on one core and on all, without start-up."""
    count, rounds = 300, []
    for cores in dict.fromkeys((1, CORES)):
        for _ in range(seeds):
            short: Figures = {"train": {"steps": count}}
            row: Figures = {"cores": cores}
            row["ours"] = ours.train(QUICK_START, cores, **short)[0].step_seconds
            if theirs:
                flags = [*ITS_QUICK_START, f"--max_iters={count}"]
                row["theirs"] = theirs.train(flags, cores).step_seconds
            exact = short | {"machine": {"dtype": "float32"}}
            row["float32"] = ours.train(QUICK_START, cores, **exact)[0].step_seconds
            rounds.append(row)
    return {"rounds": rounds, "tokens": 12 * CONTEXT}


def loss(ours: Ours, theirs: Theirs | None, seeds: int) -> Figures:
    """Time to the target, and the loss after two minutes, on one core."""
    rounds = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        row: Figures = {"seed": seed}
        for name in ("to_1.88", "in_120s"):
            training, model = ours.train(HERE / f"{name}.yaml", 1, seed=seed)
            row[name] = outcome(training, ours.score(model, CONTEXT, 1), TARGET)
        if theirs:
            training = theirs.train([*ITS_QUICK_START, "--max_iters=2000"], 1, seed)
            score = theirs.score(training, CONTEXT, 1)
            row["theirs"] = outcome(training, score, TARGET)
        rounds.append(row)
    return {"rounds": rounds, "target": TARGET}


def outcome(training: Training, score: dict[str, float], target: float) -> Figures:
    """When a training reached the target, and where it ended; `steps` times the steps alone."""
    last = training.losses[-1]["step"]
    reached = next((point for point in training.losses if point["loss"] <= target), None)
    return {
        "loss": score["loss"],
        "seconds": training.command.seconds,
        "step_seconds": training.step_seconds,
        "steps": last,
        "reached": reached,
        "losses": training.losses,
    }


def start(ours: Ours, theirs: Theirs | None, seeds: int) -> Figures:
    """From the command to the first step, peak memory, and a pass over the validation split."""
    rounds = []
    for _ in range(seeds):
        short = {"steps": 40, "warmup_steps": 0, "log_interval": 1}
        training, model = ours.train(QUICK_START, CORES, train=short)
        row = {"ours": _start(training, ours.score(model, CONTEXT, CORES))}
        if theirs:
            flags = [*ITS_QUICK_START, "--max_iters=40", "--eval_interval=40"]
            training = theirs.train(flags, CORES)
            score = theirs.score(training, CONTEXT, CORES)
            row["theirs"] = _start(training, score) | {"loss": score["loss"], "same": score["same"]}
        rounds.append(row)
    return {"rounds": rounds}


def _start(training: Training, score: dict[str, float]) -> Figures:
    return {
        "first_step": training.first_step,
        "peak_mib": training.command.peak_mib,
        "validation": score["seconds"],
    }


def saving(ours: Ours, theirs: Theirs | None, seeds: int) -> Figures:
    """The loop as it is against the bare loop, with saves as often as the recipe says and often."""
    count, usual, often, rounds = 250, 250, 10, seeds + 2
    tokens = ours.tokenize(str(ours.text), val=0.002)  # validation takes no time
    names, jobs = [], []
    for turn in range(rounds + 1):  # the first warms up: it imports mlflow, for example
        for interval in (usual, often):
            # which comes first changes from round to round
            for kind in ("bare", "whole")[:: 1 if turn % 2 else -1]:
                train = {"steps": count, "eval_interval": interval}
                machine = {"device": "cpu"}
                recipe = ours.recipe(QUICK_START, tokens, train=train, machine=machine)
                names.append(f"{kind}_{interval}")
                jobs.append(f"{kind}:{recipe}")
    printed = run(
        "-m", "benchmarks.loop", *jobs, cwd=ours.folder, MLFLOW_TRACKING_URI=ours.database
    )
    seconds: dict[str, list[float]] = {}
    for name, (_, taken) in zip(names, json.loads(printed.lines[-1][1]), strict=True):
        seconds.setdefault(name, []).append(taken)
    seconds = {name: taken[1:] for name, taken in seconds.items()}

    def difference(interval: int) -> list[float]:
        pairs = zip(seconds[f"whole_{interval}"], seconds[f"bare_{interval}"], strict=True)
        return [whole - bare for whole, bare in pairs]

    return {
        "steps": count,
        "interval": usual,
        "often": often,
        "seconds": seconds,
        "ratio": 1 / (1 + statistics.median(difference(usual)) / _middle(seconds, usual)),
        "save_seconds": statistics.median(difference(often)) / (count // often + 1),
        "step_seconds": _middle(seconds, usual) / count,
    }


def _middle(seconds: dict[str, list[float]], interval: int) -> float:
    return statistics.median(seconds[f"bare_{interval}"])
