"""What is measured on one NVIDIA GPU: tokens a second, utilisation, and time to nanoGPT's best."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import yaml

from benchmarks.measures import Figures, outcome
from benchmarks.processes import CORES, ROOT, run
from benchmarks.sides import Ours, Theirs

# asked of another process: with torch in it, this one would not be small
ASK = """
import json, torch
from nanogpt.devices import peak_flops
there = torch.cuda.is_available()
name = torch.cuda.get_device_name() if there else None
print(json.dumps([name, peak_flops(torch.device("cuda")) or 0 if there else 0]))
"""
BEST = 1.4697  # nanoGPT's on tiny Shakespeare, by its README
SHAKESPEARE = "config/train_shakespeare_char.py"
GPT2 = "config/train_gpt2.py --wandb_log=False --eval_iters=1"
RECIPES = {  # ours, nanoGPT's, steps that are timed
    "shakespeare_gpu": (f"{SHAKESPEARE} --eval_interval=1000", 400),
    "gpt2_openwebtext": (f"{GPT2} --eval_interval=1000", 40),
}


def device() -> tuple[str, float] | None:
    """Name and peak operations a second (0: not known) of the GPU, if there is one."""
    name, peak = json.loads(run("-c", ASK, cwd=ROOT).lines[-1][1])
    return (name, peak) if name else None


def gpu(ours: Ours, theirs: Theirs | None, seeds: int) -> Figures:
    """Speed of both recipes, then the time of `shakespeare_gpu` to nanoGPT's best."""
    found = device()
    if found is None:
        raise SystemExit("bench: gpu: torch finds none here")
    name, peak = found
    noise = _noise(ours, theirs)
    speeds = []
    for recipe, (flags, count) in RECIPES.items():
        tokens = ours.tokens if recipe == "shakespeare_gpu" else noise
        for _ in range(seeds):
            row: Figures = {"recipe": recipe, "ours": _ours(ours, recipe, tokens, count)}
            if theirs:
                row["theirs"] = _theirs(theirs, flags, count, row["ours"])
            speeds.append(row)
    training, model = ours.train(_params("shakespeare_gpu"), machine={"device": "cuda"})
    context = speeds[0]["ours"]["context"]
    to_best = {"ours": outcome(training, ours.score(model, context, CORES), BEST)}
    if theirs:
        flags = f"{SHAKESPEARE} --always_save_checkpoint=True"
        training = theirs.train(flags.split())
        to_best["theirs"] = outcome(training, theirs.score(training, context, CORES), BEST)
    return {"device": name, "peak": peak, "speeds": speeds, "target": BEST, "to_best": to_best}


def _params(recipe: str) -> Path:
    return ROOT / "pipelines" / recipe / "params.yaml"


def _ours(ours: Ours, recipe: str, tokens: Path, count: int) -> Figures:
    """Tokens a second and operations a token of our side."""
    train = {"steps": count, "schedule": "constant", "warmup_steps": 0, "eval_interval": 1000}
    machine = {"device": "cuda"}
    training, model = ours.train(_params(recipe), tokens=tokens, train=train, machine=machine)
    settings = yaml.safe_load(_params(recipe).read_text())
    shape, batch = settings["model"], settings["train"]["batch_size"]
    weights = model / "model.safetensors"
    with weights.open("rb") as file:  # eight bytes of length, then JSON
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tables = ["wpe"] + ["embed_tokens"] * ("lm_head.weight" in header)  # looked up, not multiplied
    parameters = sum(
        math.prod(tensor["shape"])
        for key, tensor in header.items()
        if key != "__metadata__" and not any(table in key for table in tables)
    )
    attention = 12 * shape["n_layer"] * shape["n_embd"] * shape["context"]
    return {
        "tokens_per_second": batch * shape["context"] / training.step_seconds,
        "attention": attention,
        "context": shape["context"],
        "operations": 6 * parameters
        + attention,  # a token, forward and backward (PaLM, appendix B)
    }


def _theirs(theirs: Theirs, flags: str, count: int, ours: Figures) -> Figures:
    training = theirs.train([*flags.split(), f"--max_iters={count}"])
    batch, millions = (
        float(re.search(pattern, training.command.text)[1].replace(",", ""))  # type: ignore[index]
        for pattern in (r"tokens per iteration will be: ([\d,]+)", r"parameters: ([\d.]+)M")
    )
    return {
        "tokens_per_second": batch / training.step_seconds,
        "operations": 6e6 * millions + ours["attention"],
    }


def _noise(ours: Ours, theirs: Theirs | None) -> Path:
    """Random tokens of GPT-2's vocabulary, padded as nanoGPT pads it: speed does not read them."""
    folder = ours.folder / "noise"
    shutil.copytree(ours.tokens, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"vocab_size": 50304, "dtype": "uint16"}
    random = np.random.default_rng(0)
    for name, count in (("train", 10_000_000), ("val", 10_000)):
        random.integers(50257, size=count, dtype=np.uint16).tofile(folder / f"{name}.bin")
        manifest["splits"][name]["tokens"] = count
        if theirs:
            shutil.copy(folder / f"{name}.bin", theirs.folder / "data/openwebtext")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
