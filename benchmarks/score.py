"""Loss over a whole split, by one function for every model; prints JSON.

    python -m benchmarks.score VAL.bin CONTEXT MODEL-FOLDER              # ours
    python -m benchmarks.score VAL.bin CONTEXT CHECKPOINT.safetensors…   # in a copy of nanoGPT

On the CPU in float32. nanoGPT's weights are scored through its own model.py, and the last of them
through our gpt2 as well: `same` is that loss, and equal mathematics make equal losses.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.processes import ROOT
from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text
from nanogpt.evaluation import total_loss
from nanogpt.formats.weights import GPT2_NAMES, load_model
from nanogpt.machine.distributed import World, join
from nanogpt.model import GPT
from nanogpt.settings import load


class Peer(nn.Module):
    """nanoGPT's model, which gives the mean loss of a batch, in the shape of ours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, ids: Tensor, targets: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids (B, T), targets (B, T) → losses (B, T) in nats, all the mean."""
        assert positions is None, "nanoGPT knows no borders of documents within a window"
        mean: Tensor = self.model(ids, targets.contiguous())[1]
        return mean.expand_as(targets)


def peer(tensors: dict[str, Tensor], shape: dict[str, Any]) -> Peer:
    sys.path.insert(0, os.getcwd())
    import model  # type: ignore[import-not-found]  # nanoGPT's

    its = model.GPT(model.GPTConfig(**shape))
    its.load_state_dict(tensors)
    return Peer(its)


def same(tensors: dict[str, Tensor], shape: dict[str, Any]) -> GPT:
    """Our gpt2 with nanoGPT's weights: both sides keep Hugging Face's names and nn.Linear."""
    ours = GPT(
        GPTConfig(
            architecture="gpt2",
            vocab_size=shape["vocab_size"],
            context=shape["block_size"],
            n_layer=shape["n_layer"],
            n_head=shape["n_head"],
            n_kv_head=shape["n_head"],
            n_embd=shape["n_embd"],
            n_inner=4 * shape["n_embd"],
            head_dim=shape["n_embd"] // shape["n_head"],
            tied=True,
            bias=shape["bias"],
        )
    )
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            layer = name.split(".")[1] if name.startswith("blocks.") else ""
            place = name.replace(f"blocks.{layer}.", "blocks.{}.")
            stem, _, kind = place.rpartition(".")
            theirs = GPT2_NAMES.get(place) or f"{GPT2_NAMES[stem]}.{kind}"
            parameter.copy_(tensors[theirs.format(layer)])
    return ours


def score(model: Any, tokens: np.ndarray, context: int, world: World) -> dict[str, float]:
    total_loss(model, Text(tokens[: 64 * context + 1]), context, world)  # the first pass warms up
    started = time.perf_counter()
    nats, count = total_loss(model, Text(tokens), context, world)
    return {"loss": nats / count, "seconds": time.perf_counter() - started}


def main() -> None:
    file, context, *paths = sys.argv[1:]
    tokens = np.memmap(file, np.dtype("<u2"), mode="r")
    machine = load(ROOT / "params.yaml").machine
    threads = int(os.environ["OMP_NUM_THREADS"])
    here = {"device": "cpu", "dtype": "float32", "compile": False, "threads": threads}
    world = join(machine.model_copy(update=here))
    scores = []
    for path in map(Path, paths):
        if path.is_dir():
            scores.append(score(load_model(path), tokens, int(context), world))
            continue
        with safe_open(path, framework="pt") as checkpoint:
            about = json.loads(checkpoint.metadata()["about"])
            tensors = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}  # noqa: SIM118
        found = score(peer(tensors, about["shape"]), tokens, int(context), world)
        scores.append({"step": int(path.stem), "time": about["time"]} | found)
    if "step" in scores[-1]:
        ours = same(tensors, about["shape"])
        scores[-1]["same"] = score(ours, tokens, int(context), world)["loss"]
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
