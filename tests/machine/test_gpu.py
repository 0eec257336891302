"""What holds on a GPU alone; where there is one, `pytest tests/machine/test_gpu.py` runs it."""

import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from nanogpt.formats.weights import weights_sha256
from tests.kit.recipes import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
ON_GPU = {
    "download__corpus": "text/*.txt",
    "machine__device": "cuda",
    "machine__dtype": "bfloat16",
    "model__n_embd": 128,
    "model__context": 128,
    "train__batch_size": 64,
    "train__steps": 60,
    "train__eval_interval": 20,
}


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_a_training_gives_the_same_bytes_again_and_also_after_a_stop(
    tokenized: Path, tmp_path: Path, architecture: str
) -> None:
    """CUDA sums the gradients of attention and embeddings in any order, unless it is told."""
    made = []
    for name in ("first", "second", "stopped"):
        shutil.copytree(tokenized, tmp_path / name, symlinks=True)
        recipe = Recipe(tmp_path / name, **ON_GPU, model__architecture=architecture)
        if name == "stopped":
            process = recipe.start(recipe.command("train"))
            while process.poll() is None and not list(recipe.data.glob("state/*/save-00000020")):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 143, said
        recipe.run("train")
        made.append(weights_sha256(recipe.data / "model"))
    assert made[0] == made[1] == made[2]
