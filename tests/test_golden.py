"""Three tiny trainings give the same losses and the same weights as ever, byte for byte.

    python -m pytest tests/test_golden.py

`golden.json` has what they gave when it was written: a change of structure must not change it. The
instruction sets of the libraries are held down to AVX2 and every sum has one order, but makers'
libms still differ: on another kind of processor losses are compared to five digits, not bytes.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.architecture import GPTConfig
from nanogpt.formats.weights import save_model, weights_sha256
from nanogpt.model import GPT
from nanogpt.text.words import tokenizer, vocabulary
from tests.kit.recipes import Recipe

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())
ONE_ORDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
}
COMMON = {
    "download__corpus": "text.txt",
    "train__steps": 30,
    "train__decay_steps": 10,
    "train__eval_interval": 10,
    "sample__prompt": "to be",
    "model__context": 32,
    "train__muon_learning_rate": 0.02,
    "train__embedding_learning_rate": 0.01,
}
OF_BASE = {
    "download__base": "base",
    "tokenize__tokenizer": "base",
    "model": {"context": 32, "dropout": 0.0},
    "train__optimizer": "adamw",
    "train__learning_rate": 0.03,
    "train__lora": {"rank": 4, "alpha": 8.0, "targets": "all-linear"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "gpt2 by adamw": {
        "model__architecture": "gpt2",
        "model__bias": True,
        "model__tied": True,
        "model__dropout": 0.1,
        "train__optimizer": "adamw",
        "train__weight_decay": 0.1,
        "train__schedule": "cosine",
        "train__warmup_steps": 3,
        "train__decay_steps": 30,
    },
    "qwen3 by muon": {"model__n_kv_head": 2},
    "adapters": OF_BASE,
}


def words(count: int) -> str:
    """A text of so many words, the same for ever: PCG64 is defined by its numbers."""
    random = np.random.Generator(np.random.PCG64(7))
    known = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler"]
    return " ".join(known[i] for i in random.integers(len(known), size=count)) + "\n"


def make_base(folder: Path) -> None:
    """A llama whose weights are numbers of numpy's, with the characters of the text."""
    folder.mkdir()
    vocabulary.write(folder, vocabulary.char_json(set(words(1000)), eot=True))
    size = tokenizer.load(folder).vocab_size
    config = GPTConfig("llama", size, 64, 2, 4, 2, 32, 64, 8, tied=True, eos=size - 1)
    model = GPT(config)
    random = np.random.Generator(np.random.PCG64(11))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                drawn = random.random(tuple(parameter.shape), dtype=np.float32) - np.float32(0.5)
                parameter.copy_(torch.from_numpy(drawn))
    save_model(folder, config, dict(model.named_parameters()))


def processor() -> str:
    """What tells kinds of processors apart, on Linux; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    keys = ("model name", "cpu family", "model", "stepping")
    return ", ".join(f"{key} {facts[key].strip()}" for key in keys if key in facts)


def trained(folder: Path, name: str) -> dict[str, Any]:
    """The losses of each step and of each validation, and the digest of the weights."""
    folder.mkdir()
    (folder / "text.txt").write_text(words(6000))
    make_base(folder / "base")
    recipe = Recipe(folder, **(COMMON | RECIPES[name]))
    for stage in ("download", "tokenize", "train"):
        recipe.run(stage)
    curves = {}
    for curve in ("train", "val"):
        with (recipe.data / "curves" / f"{curve}.csv").open() as file:
            curves[curve] = [row[f"{curve}_loss"] for row in csv.DictReader(file)]
    return {**curves, "weights_sha256": weights_sha256(recipe.data / "model")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_training_is_what_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in ONE_ORDER.items():
        monkeypatch.setenv(key, value)
    expected, found = GOLDEN["trainings"][name], trained(tmp_path / "recipe", name)
    if processor() == GOLDEN["processor"]:
        assert found == expected
    for curve in ("train", "val"):
        values = [float(value) for value in expected[curve]]
        assert [float(value) for value in found[curve]] == pytest.approx(values, rel=1e-5)
    assert len(found["train"]) == 30
    assert values[-1] < 0.8 * values[0], "it learned something"


if __name__ == "__main__":
    # python -m tests.test_golden: write golden.json anew, where training is meant to be another
    import os
    import tempfile

    os.environ |= ONE_ORDER
    with tempfile.TemporaryDirectory() as temporary:
        made = {name: trained(Path(temporary, name), name) for name in RECIPES}
    text = json.dumps({"processor": processor(), "trainings": made}, indent=1)
    Path(__file__).with_name("golden.json").write_text(text + "\n")
