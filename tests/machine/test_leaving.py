"""How processes of a training leave it, and go on with it."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.kit.recipes import ROOT, Recipe
from tests.machine.test_distributed import run_all

# NCCL, for which gloo stands in, waits for all processes where one leaves
ALONE = """
import os, sys
import torch.distributed as dist
from nanogpt.common.command import run_stage
from nanogpt.settings import load
from nanogpt.stages import train
from nanogpt.training.journal import Journal

leave = dist.destroy_process_group
dist.destroy_process_group = lambda: (dist.barrier(), leave())

def record(self, step, metrics):
    if step == 3:
        raise OSError(28, "No space left on device", "journal")

if os.environ["RANK"] == "0":
    Journal.record = record
sys.argv = ["train", "params.yaml"]
run_stage(load, train.main)
"""


def test_who_met_an_error_alone_says_so_and_does_not_wait_for_the_others(
    tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized, tmp_path / "full", symlinks=True)
    recipe = Recipe(tmp_path / "full", download__corpus="text/*.txt")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    world |= {"MLFLOW_TRACKING_URI": f"sqlite:///{recipe.folder}/mlflow.db"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE],
            cwd=recipe.folder,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 1, said
    assert "No space left on device" in said[0]
    assert processes[1].returncode == os.EX_TEMPFAIL, said  # which lost the other one


GOING_ON = """
import torch
from nanogpt.machine.distributed import join
from tests import test_trainer
from tests.kit.recipes import quick

settings = quick(train__batch_size=12, model__n_embd=64, model__n_inner=128)
world = join(settings.machine)
test_trainer.join = lambda machine: world
whole, stopped = test_trainer.Training(settings).run(), test_trainer.Training(settings)
stopped.resume(whole.saves[1])
stopped.run()
for name, tensor in whole.saves[-1]["tensors"].items():
    assert torch.equal(tensor, stopped.saves[-1]["tensors"][name]), name
world.close()
"""


def test_three_processes_that_go_on_end_with_the_same_bytes() -> None:
    """Of three numbers the sum depends on their order, and DDP changes it after its first pass."""
    run_all(GOING_ON, "auto", size=3)
