"""What several processes must agree on, inside one training."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nanogpt.machine import distributed
from nanogpt.machine.distributed import pick_compute, process_count
from tests.kit.recipes import ROOT, quick

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


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
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


@pytest.fixture(scope="module")
def gpus() -> Iterator[pytest.MonkeyPatch]:
    """As if this machine had GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        yield patch


@given(batch=st.integers(1, 100), there=st.integers(1, 16), most=st.integers(1, 4))
@example(batch=8, there=16, most=1)
def test_auto_takes_as_many_gpus_as_gain(
    gpus: pytest.MonkeyPatch, batch: int, there: int, most: int
) -> None:
    assume(batch >= most)
    gpus.setattr(torch.cuda, "device_count", lambda: there)
    options = {"machine__device": "cuda", "machine__nodes": most, "machine__rendezvous": "a:1"}
    settings = quick(**options, train__batch_size=batch)
    found = process_count(settings.machine, batch)
    assert 1 <= found <= there
    assert found * most <= batch  # each has a window
    at_once = -(-batch // (found * most))  # and the slowest has no more than of all that fit
    assert at_once == -(-batch // (min(there, batch // most) * most))
    assert found == 1 or at_once < -(-batch // ((found - 1) * most))


@pytest.mark.parametrize(("hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_no_emulated_bfloat16(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, dtype: torch.dtype
) -> None:
    # as torch answers on a T4, a V100 or an RTX 20, which emulate it
    supported = lambda including_emulation=True: including_emulation or hardware  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_compute(quick(machine__dtype="auto").machine, "cuda") is dtype


@pytest.mark.parametrize(
    ("kind", "asked", "trains", "ordered"),
    [
        ("cuda", True, True, True),
        ("cuda", False, True, False),
        ("cuda", True, False, False),  # a score is no training
        ("mps", True, True, False),  # where torch has no such mode
    ],
)
def test_what_repeats_is_said_where_it_does(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: bool, trains: bool, ordered: bool
) -> None:
    called: list[bool] = []
    monkeypatch.setattr(distributed, "prepare", lambda machine: torch.device(kind))
    monkeypatch.setattr(distributed, "_sum_in_order", lambda: called.append(True))
    machine = quick(machine__compile=False, machine__deterministic=asked).machine
    world = distributed.join(machine.model_copy(update={"device": kind}), trains)
    assert (world.deterministic, bool(called)) == (ordered, ordered)
