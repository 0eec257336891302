"""nanoGPT's train.py as it is, but with a seed of choice and checkpoints in safetensors.

    python -m benchmarks.peer_train SEED FOLDER [its own arguments]     # in a copy of nanoGPT

Its seed is a constant and its checkpoints are pickles, so two functions of torch are replaced in
this process before it starts: one shifts the seed, the other writes
FOLDER/<iteration>.safetensors with the model's shape and the time.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

ITS_SEED = 1337
COMPILED = "_orig_mod."  # before every name of a compiled model

seed, folder = int(sys.argv[1]), Path(sys.argv[2])
sys.argv[:3] = ["train.py"]
torch_manual_seed = torch.manual_seed


def manual_seed(value: int) -> torch.Generator:
    return torch_manual_seed(value - ITS_SEED + seed)


def save(checkpoint: dict[str, Any], path: str) -> None:
    about = {"time": time.time(), "shape": checkpoint["model_args"]}
    # clones: the head shares its matrix with the embedding, and safetensors refuses that
    tensors = {n.removeprefix(COMPILED): t.clone() for n, t in checkpoint["model"].items()}
    file = folder / f"{checkpoint['iter_num']:08d}.safetensors"
    save_file(tensors, file, {"about": json.dumps(about)})


with patch("torch.manual_seed", manual_seed), patch("torch.save", save):
    runpy.run_path("train.py", run_name="__main__")
