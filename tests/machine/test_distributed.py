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

from nanogpt.common.errors import UserError
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
    loss = {step: row.get("val_loss") for step, row in training.rows.items()}
    assert loss[12] < loss[4] == loss[7]
training.world.close()
"""


# with borders, masks and weights, what is in a batch decides what a loss is divided by
CURVE = """
import sys
from tests.kit.recipes import quick
from tests.test_trainer import MIXTURE, Training, mixture

settings = quick(machine__parallel=sys.argv[1], train__optimizer="adamw", **MIXTURE)
training = Training(settings, *mixture()).run()
if training.world.rank == 0:
    row = training.rows[12]
    print(*training.curve("train_loss"), *(row[f"val_loss/{name}"] for name in ("code", "more")))
training.world.close()
"""


# matrices of 32 rows on three processes: their shards are not equally large
MUON = """
import copy, sys
import torch
from torch.distributed.tensor import distribute_tensor
from nanogpt import optim
from nanogpt.model import GPT
from tests.kit.recipes import quick
from tests.test_trainer import Training

training = Training(quick(machine__parallel=sys.argv[1], train__weight_decay=0.1))
model = training.model
whole = GPT(model.config)
with torch.no_grad():
    for p, mine in zip(whole.parameters(), model.parameters()):
        p.copy_(mine.full_tensor())
_, alone = optim.build(whole, training.settings.train)
_, muon = training.optimizers
for step in range(3):
    torch.manual_seed(step)
    for p, mine in zip(whole.parameters(), model.parameters()):
        p.grad = torch.randn_like(p)
        mine.grad = distribute_tensor(p.grad, mine.device_mesh, mine.placements)
    alone.found_inf = muon.found_inf = torch.tensor(float(step == 1))
    alone.step()
    muon.step()
for (name, p), mine in zip(whole.named_parameters(), model.parameters()):
    assert (p - mine.full_tensor()).abs().max() < 1e-5, name
    if mine in muon.state:
        kept = copy.deepcopy(muon.state[mine]["momentum"]).full_tensor()  # as a save copies it
        assert (alone.state[p]["momentum"] - kept).abs().max() < 1e-5, name
training.world.close()
"""


# what is compiled is looked at, and run as it is
COMPILED = """
import sys
from dataclasses import replace
import torch
from nanogpt.machine.distributed import join
from tests import test_trainer
from tests.kit.recipes import quick

graphs, compile = [], torch.compile

def keep(graph, inputs):
    graphs.append([*map(str, graph.graph.nodes)])
    return graph.forward

torch.compile = lambda m, **options: compile(m, backend=keep, fullgraph=True, **options)
settings = quick(
    machine__parallel=sys.argv[1], machine__micro_batch=2, model__n_layer=12, train__steps=3,
    train__decay_steps=3,
    model__dropout=0.2,
)
world = join(settings.machine)
test_trainer.join = lambda machine: world
curves = []
for compiled, again in ((False, False), (True, False), (True, True)):
    training = test_trainer.Training(settings)
    training.world = replace(world, compile=compiled)
    training.model.activation_checkpointing = again
    training.run()
    curves.append([*training.curve("val_loss"), *training.curve("train_loss")])
    # of twelve blocks one is compiled, and the losses: for validation and for training
    assert len(graphs) == 4 * compiled, len(graphs)
for other in curves[1:]:
    for one, two in zip(curves[0], other, strict=True):
        assert abs(one - two) < 1e-5, curves
world.close()
"""


# as on an RTX 2080 Ti beside an RTX 3090
UNLIKE = """
import torch
from types import SimpleNamespace
from nanogpt.machine import distributed
from tests.kit.recipes import quick

rank = int(distributed.os.environ["RANK"])
distributed.memory_of = lambda device: (24 << 30, 11 << 30)[rank]
distributed.pick_compute = lambda *_, **__: (torch.bfloat16, torch.float16)[rank]
world = distributed.join(quick().machine)
sizes = [SimpleNamespace(parameter_count=lambda n=n: n * 10**6) for n in (300, 500)]
print(world.compute, *map(world.shards, sizes))
world.close()
"""


def run_all(code: str, parallel: str, size: int = 2) -> str:
    """Run code in each of so many processes; returns what they print."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, parallel],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, said
    return said[0][0]


BOTH = ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)]


@pytest.mark.parametrize("parallel", BOTH)
def test_a_bad_gradient_in_one_process_is_skipped_by_all(parallel: str) -> None:
    run_all(ONE_OF_TWO, parallel)


HALF = """
import sys
import torch
from tests.kit.recipes import quick
from tests.test_trainer import Training

settings = quick(
    machine__parallel=sys.argv[1], machine__dtype="bfloat16", model__architecture=sys.argv[2],
    train__steps=30, train__eval_interval=10,
)
training = Training(settings)
seen = set()
first = training.model.blocks[0]
first.mlp.up.register_forward_pre_hook(lambda m, x: seen.add((m.weight.dtype, x[0].dtype)))
training.run()
if training.world.size > 1:
    assert seen == {(torch.bfloat16, torch.float32)}, seen
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
if training.world.rank == 0:
    print(*training.curve("val_loss"))
training.world.close()
"""


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_shards_are_exchanged_in_the_type_of_the_products(architecture: str) -> None:
    code = HALF.replace("sys.argv[2]", repr(architecture))
    alone, together = ([*map(float, run_all(code, "fsdp", n).split())] for n in (1, 2))
    assert len(alone) == 3
    assert together == pytest.approx(alone, abs=0.02)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_blocks_and_losses_are_compiled_by_themselves(parallel: str) -> None:
    run_all(COMPILED, parallel)


def test_unlike_gpus_agree_on_what_the_least_of_them_can() -> None:
    assert run_all(UNLIKE, "auto") == "torch.float16 False True\n"


def test_muon_on_shards_is_muon() -> None:
    run_all(MUON, "fsdp", size=3)


@pytest.mark.parametrize("parallel", BOTH)
def test_processes_divide_by_what_counts_in_all_of_them(parallel: str) -> None:
    alone, together = (run_all(CURVE, parallel, size).split() for size in (1, 2))
    assert len(alone) == 14
    assert [*map(float, together)] == pytest.approx([*map(float, alone)], abs=1e-4)


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


@pytest.mark.parametrize(
    ("hardware", "trains", "dtype"),
    [
        (True, True, torch.bfloat16),
        (True, False, torch.bfloat16),
        (False, True, torch.float16),
        (False, False, torch.float32),  # no step to skip where float16's range is too small
    ],
)
def test_auto_takes_no_emulated_bfloat16(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, trains: bool, dtype: torch.dtype
) -> None:
    # as torch answers on a T4, a V100 or an RTX 20, which emulate it
    supported = lambda including_emulation=True: including_emulation or hardware  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_compute(quick(machine__dtype="auto").machine, "cuda", trains) is dtype


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
    monkeypatch.setattr(distributed, "sum_in_order", lambda: called.append(True))
    machine = quick(machine__compile=False, machine__deterministic=asked).machine
    world = distributed.join(machine.model_copy(update={"device": kind}), trains)
    assert (world.deterministic, bool(called)) == (ordered, ordered)


def test_a_workspace_with_which_nothing_repeats_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    monkeypatch.setattr(distributed, "prepare", lambda machine: torch.device("cuda"))
    machine = quick(machine__compile=False, machine__deterministic=True).machine
    with pytest.raises(UserError, match="with CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8 "):
        distributed.join(machine, trains=True)
