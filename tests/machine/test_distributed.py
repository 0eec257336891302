"""What several processes must agree on, inside one training."""

import os
import socket
import subprocess
import sys

import pytest

from tests.kit.recipes import ROOT

# one process of two: the second one's gradient is no number in three steps
ONE_OF_TWO = """
import itertools, math, sys
import torch
from tests.kit.recipes import quick
from tests.test_trainer import Training

training = Training(quick(train__eval_interval=1, machine__parallel=sys.argv[1]))
passes = itertools.count()

def spoil(module, inputs, output):
    if training.world.rank == 1 and output.requires_grad and next(passes) in range(4, 7):
        # one number of one row of the embedding, which with fsdp one process alone has
        output.register_hook(lambda g: g.index_put([torch.tensor(0)] * 3, torch.tensor(math.nan)))

training.model.embedding.register_forward_hook(spoil)
training.run()
before, during, after = (training.saves[step]["tensors"] for step in (4, 7, 8))
for name, tensor in before.items():
    assert type(tensor) is type(during[name])
    local, then = (getattr(t, "_local_tensor", t) for t in (tensor, during[name]))
    assert torch.equal(local, then), name
assert any(not torch.equal(t.sum(), after[name].sum()) for name, t in during.items())
assert training.progress.guard.skipped == 3
if training.world.rank == 0:
    loss = training.curve("val_loss")
    assert loss[-1] < loss[4] == loss[7]
training.world.close()
"""


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_bad_gradient_in_one_process_is_skipped_by_all(parallel: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, parallel],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
