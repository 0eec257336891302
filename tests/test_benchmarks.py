"""`make bench` in small: a folder that prints and saves as nanoGPT does, and the page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from benchmarks import page
from benchmarks.measures import outcome
from benchmarks.processes import run
from benchmarks.sides import Theirs, Training
from nanogpt.architecture import GPTConfig
from nanogpt.model import GPT
from nanogpt.params import load
from tests.recipes import ROOT

PREPARE = """
for name in ("train.bin", "val.bin"):
    open(name, "wb").write(open("input.txt", "rb").read())
"""
MODEL = """
import torch

class GPTConfig:
    def __init__(self, **shape): self.shape = shape

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward(self, ids, targets): return ids, self.level
"""
TRAIN = """
import sys, torch
print("flags", *sys.argv[1:])
torch.manual_seed(1337 + 0)
for step in range(41):
    if step % 20 == 0:
        print(f"step {step}: train loss 4.1, val loss 4.1")
    if step % 20 == 0 and step:
        state = {"_orig_mod.level": torch.tensor(0.0 + torch.initial_seed())}
        torch.save({"iter_num": step, "model": state, "model_args": {}}, "out/ckpt.pt")
    print(f"iter {step}: loss 4.1, time 1.0ms, mfu 0.1%")
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    peer = tmp_path / "nanoGPT"
    data = peer / "data/shakespeare_char"
    data.mkdir(parents=True)
    (data / "prepare.py").write_text(PREPARE)
    (peer / "model.py").write_text(MODEL)
    (peer / "train.py").write_text(TRAIN)
    ours: Any = SimpleNamespace(text=tmp_path / "input.txt", tokens=tmp_path)
    for name in ("input.txt", "train.bin", "val.bin"):
        (tmp_path / name).write_bytes(bytes(400))
    return Theirs(tmp_path / "copy", peer, ours)


def test_a_training_of_theirs_is_timed_and_keeps_no_pickle(theirs: Theirs) -> None:
    training = theirs.train(["--eval_interval=20"], cores=1, seed=2)
    assert "flags --eval_interval=20 --out_dir=out\n" in training.command.text
    assert 0 < training.step_seconds < training.first_step < training.command.seconds
    assert training.command.peak_mib > 50, "torch alone is more"
    names = sorted(path.name for path in (theirs.folder / "out").iterdir())
    assert names == ["00000020.safetensors", "00000040.safetensors"]
    saved = load_file(theirs.folder / "out" / names[0])
    assert saved["level"] == 2.0, "the name without the prefix, the seed as asked"


def test_two_sides_with_different_tokens_are_refused(theirs: Theirs, tmp_path: Path) -> None:
    (tmp_path / "val.bin").write_bytes(b"other")
    ours: Any = SimpleNamespace(text=tmp_path / "input.txt", tokens=tmp_path)
    with pytest.raises(SystemExit, match=r"do not have the same val\.bin"):
        Theirs(tmp_path / "again", tmp_path / "nanoGPT", ours)


def test_a_failed_command_shows_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the disk is on fire"):
        run("-c", "import sys; sys.exit('the disk is on fire')", cwd=tmp_path)


def test_an_outcome_knows_when_the_target_was_reached() -> None:
    command: Any = SimpleNamespace(seconds=9.0)
    points = [{"step": s, "seconds": s / 10, "loss": 3 - s / 20} for s in (0, 20, 40)]
    training = Training(command, 0.5, 0.01, points)
    assert outcome(training, {"loss": 1.0}, 2.0)["reached"] == points[1]
    assert outcome(training, {"loss": 1.0}, 0.5)["reached"] is None


def test_the_page_says_never_and_does_without_the_other_side() -> None:
    def end(loss: float, reached: Any) -> dict[str, Any]:
        timed = {"seconds": 100.0, "step_seconds": 0.05, "steps": 2000}
        return timed | {"loss": loss, "reached": reached}

    ours = end(1.87, {"step": 200, "seconds": 20.0, "loss": 1.87})
    row = {"seed": 1, "to_1.88": ours, "in_120s": end(1.57, None)}
    about = {"command": "make bench ONLY=loss", "date": "today"}
    alone = {"target": 1.88, "rounds": [row]}
    text = page.render({"loss": {"about": about, "figures": alone}})
    assert "| 1 | ours, to 1.88 | 20.0 s | 10.0 s | 1.8700 | 100.0 s |" in text
    assert "times" not in text
    assert "*`make bench ONLY=loss`; today.*" in text
    beside = {"target": 1.88, "rounds": [row | {"theirs": end(1.9, None)}]}
    text = page.render({"loss": {"about": about, "figures": beside}})
    assert "never in 100.0 s" in text
    assert "at least 5.0 times** as fast by the command" in text
    assert "at least 10.0 times** by the steps" in text
    assert "theirs ends at **1.9000** after 100 s" in text


@pytest.mark.parametrize("name", ["to_1.88", "in_120s"])
def test_its_recipes_have_no_more_parameters_than_the_quick_start(name: str) -> None:
    counts = []
    for path in (
        ROOT / "benchmarks" / f"{name}.yaml",
        ROOT / "pipelines/tiny_shakespeare_nanogpt/params.yaml",
    ):
        model = load(path).model
        width = model.n_embd // model.n_head
        shape = GPTConfig(vocab_size=65, head_dim=width, **model.model_dump())
        counts.append(GPT(shape).parameter_count())
    assert counts[0] <= counts[1]
    assert (
        yaml.safe_load((ROOT / "benchmarks" / f"{name}.yaml").read_text())["model"]["context"] == 64
    )
