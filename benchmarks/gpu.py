"""What is measured on one NVIDIA GPU: tokens a second, and the time to nanoGPT's best loss."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measures import Bench, Figure, ending, reaching, short
from benchmarks.processes import CORES, ROOT, run
from benchmarks.sides import Training

# asked of another process: with torch in it, this one would not be small
ASK = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
# nanoGPT's command takes one GPU, however many there are
ON_GPU = {"device": "cuda", "processes": 1}
BEST = 1.4697  # nanoGPT's on tiny Shakespeare, by its README
SMALL = ROOT / "pipelines/shakespeare_gpu/params.yaml"
LARGE = ROOT / "pipelines/gpt2_openwebtext/params.yaml"
ITS_SMALL = ["config/train_shakespeare_char.py"]
ITS_LARGE = ["config/train_gpt2.py", "--wandb_log=False", "--eval_iters=1"]


def device() -> str:
    """Name of the GPU; empty if there is none."""
    return run("-c", ASK, cwd=ROOT).lines[-1][1].strip()


def gpu(bench: Bench) -> Iterator[list[Figure]]:
    """The time of the small recipe to nanoGPT's best, then the speed of both, one at a time."""
    yield best(bench)
    noise = make_noise(bench)
    for _ in range(bench.turns):
        for params, flags, tokens, count in (
            (SMALL, ITS_SMALL, bench.ours.tokens, bench.sizes.gpu[0]),
            (LARGE, ITS_LARGE, noise, bench.sizes.gpu[1]),
        ):
            settings = yaml.safe_load(params.read_text(encoding="utf-8"))
            size = settings["train"]["batch_size"] * settings["model"]["context"]
            train = speed(count)
            ours = bench.ours.train(params, tokens=tokens, train=train, machine=ON_GPU)
            theirs = bench.peer(*flags, "--eval_interval=1000", f"--max_iters={count}")
            its = _tokens_a_step(theirs) / theirs.step_seconds if theirs else None
            yield [Figure(f"`{params.parent.name}`", "tokens/s", size / ours.step_seconds, its)]


def best(bench: Bench) -> list[Figure]:
    """A whole training of the small recipe: when it reached nanoGPT's best, and how it ended."""
    train = speed(bench.sizes.loss) if bench.sizes.loss else {}
    ours = bench.ours.train(SMALL, train=train, machine=ON_GPU)
    flags = [*ITS_SMALL, "--always_save_checkpoint=True"]
    if bench.sizes.loss:
        flags += [f"--max_iters={bench.sizes.loss}", f"--eval_interval={bench.sizes.loss}"]
    theirs = bench.peer(*flags)
    bench.score(
        ours, theirs, yaml.safe_load(SMALL.read_text(encoding="utf-8"))["model"]["context"], CORES
    )
    return [*reaching(BEST, ours, theirs), *ending("", ours, theirs)]


def speed(steps: int) -> dict[str, Any]:
    """Settings of a training whose loss is not looked at; all schedules but this end by steps."""
    return short(steps) | {"schedule": "constant", "eval_interval": 1000}


def _tokens_a_step(theirs: Training) -> int:
    found = re.search(r"tokens per iteration will be: ([\d,]+)", theirs.command.text)
    if not found:
        raise ChildProcessError(f"nanoGPT prints no tokens per iteration:\n{theirs.command.text}")
    return int(found[1].replace(",", ""))


def make_noise(bench: Bench) -> Path:
    """Random tokens of GPT-2's vocabulary, padded as nanoGPT pads it: speed does not read them."""
    folder = bench.ours.folder / "noise"
    shutil.copytree(bench.ours.tokens, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"vocab_size": 50304, "dtype": "uint16"}
    random = np.random.default_rng(0)
    for name, count in (("train", 10_000_000), ("val", 10_000)):
        random.integers(50257, size=count, dtype=np.uint16).tofile(folder / f"{name}.bin")
        manifest["splits"][name]["tokens"] = count
        if bench.theirs:
            its = bench.theirs.folder / "data/openwebtext"
            its.mkdir(exist_ok=True)
            shutil.copy(folder / f"{name}.bin", its)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
