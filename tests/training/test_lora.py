"""Adapters: what they change, what they leave alone, and that `peft` reads them."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt import optim
from nanogpt.common.errors import UserError
from nanogpt.formats.base import Base
from nanogpt.formats.weights import hub_tensors, load_model, save_model
from nanogpt.model import GPT
from nanogpt.settings import Lora, parse
from nanogpt.sources.bases import download_base
from nanogpt.training import lora
from nanogpt.training.publish import findable
from tests.kit.fake_hub import SHARDED, FakeHub, commit
from tests.kit.recipes import QUICK, ROOT, values
from tests.test_model import SHAPES, random_model

EVERY = "all-linear"
CHOICES: list[tuple[str, Any]] = [
    ("gpt2 with biases", EVERY),
    ("gpt2", ["c_attn", "mlp.c_proj"]),
    ("gpt2, tanh, untied", ["c_proj", "c_fc"]),
    ("llama, grouped heads, tied", EVERY),
    ("llama", ["q_proj", "v_proj"]),
    ("qwen3, one kv head, wide heads", EVERY),
    ("qwen3", ["k_proj", "o_proj", "down_proj"]),
    ("qwen2, grouped heads", EVERY),
    ("olmo2, grouped heads", EVERY),
    ("smollm3", ["q_proj", "up_proj"]),
]
RANK = 4


@pytest.fixture(params=CHOICES, ids=lambda choice: f"{choice[0]}: {choice[1]}")
def choice(request: pytest.FixtureRequest) -> tuple[str, Lora]:
    shape, targets = request.param
    return shape, Lora(rank=RANK, alpha=6.0, targets=targets)


def adapted(shape: str, chosen: Lora, compute: torch.dtype = torch.float32) -> GPT:
    """A random model with adapters that change what it says."""
    model = random_model(SHAPES[shape])
    for module in model.modules():
        if hasattr(module, "compute"):
            module.compute = compute
    lora.add(model, chosen)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.1)
    return model


def adapters(model: GPT) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_they_change_nothing_until_they_are_trained(choice: tuple[str, Lora]) -> None:
    model, plain = random_model(SHAPES[choice[0]]), random_model(SHAPES[choice[0]])
    ids = torch.randint(85, (2, 20))
    lora.add(model, choice[1])
    assert torch.equal(model(ids), plain(ids))
    parameters = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameters[name], parameter)
        assert not parameters[name].requires_grad
    bounds = {name: p.shape[1] ** -0.5 for name, p in parameters.items() if "lora_A" in name}
    for name, bound in bounds.items():  # as torch draws a Linear
        assert parameters[name].abs().max() <= bound
        assert parameters[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.3)


def test_the_seed_says_what_they_are() -> None:
    first, again, other = (random_model(SHAPES["llama"]) for _ in range(3))
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        torch.manual_seed(seed)
        lora.add(model, Lora(rank=RANK, alpha=8.0, targets=EVERY))
    name = "blocks.1.attention.qkv.adapters.v_proj.lora_A"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_merged_they_are_the_same_model(choice: tuple[str, Lora]) -> None:
    model, plain = adapted(*choice), random_model(SHAPES[choice[0]])
    ids = torch.randint(85, (2, 20))
    before = model(ids)
    assert (before - plain(ids)).abs().max() > 0.1
    lora.merge(model)
    torch.testing.assert_close(model(ids), before, atol=1e-5, rtol=1e-5)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_reads_and_merges_them(choice: tuple[str, Lora], tmp_path: Path) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    plain = random_model(SHAPES[choice[0]])
    save_model(tmp_path, plain.config, dict(plain.named_parameters()))
    model = adapted(*choice)
    folder = tmp_path / "adapter"
    folder.mkdir()
    lora.write_adapter(folder, model.config, choice[1], adapters(model), str(tmp_path))
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(base, folder).eval()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert get_peft_model_state_dict(theirs).keys() == set(file.keys())
    ids = torch.randint(85, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    merged = theirs.merge_and_unload().state_dict()
    lora.merge(model)
    for name, tensor in hub_tensors(model.config, dict(model.named_parameters())).items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_finds_their_base_on_the_hub(hub: FakeHub) -> None:
    from peft import AutoPeftModelForCausalLM

    base = download_base([f"hf:{SHARDED}@main"], Path("base"))
    model = load_model(Path("base"))
    chosen = Lora(rank=RANK, alpha=6.0, targets=EVERY)
    lora.add(model, chosen)
    torch.nn.init.normal_(model.get_parameter("blocks.0.attention.out.adapters.o_proj.lora_B"))
    Path("adapter").mkdir()
    found = findable(base)
    assert found == (SHARDED, commit(SHARDED))
    lora.write_adapter(Path("adapter"), model.config, chosen, adapters(model), *found)
    theirs = AutoPeftModelForCausalLM.from_pretrained(Path("adapter").absolute()).eval()
    ids = torch.randint(96, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)


HF = "hf:Qwen/Qwen3-0.6B@"


@pytest.mark.parametrize(
    ("name", "source", "hub_id", "found"),
    [
        (f"{HF}main", f"{HF}{'0a' * 20}", "Qwen/Qwen3-0.6B", ("Qwen/Qwen3-0.6B", "0a" * 20)),
        ("gpt2", f"hf:o/gpt2@{'0a' * 20}", "o/gpt2", ("o/gpt2", "0a" * 20)),
        ("smollm2", "wheel llm==1 (sha256 0a)", "H/SmolLM2", ("H/SmolLM2", None)),
        ("models/mine", "models/mine", None, ("models/mine", None)),
        ("/home/me/mine", "/home/me/mine", None, ("mine", None)),
    ],
)
def test_a_base_goes_by_the_name_that_others_find(
    name: str, source: str, hub_id: str | None, found: tuple[str, str | None]
) -> None:
    assert findable(Base(name=name, source=source, hub_id=hub_id)) == found


def test_their_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    chosen = Lora(rank=RANK, alpha=8.0, targets=["up_proj", "q_proj"])
    written = []
    for _ in range(2):
        tensors = adapters(adapted("llama", chosen))
        lora.write_adapter(tmp_path, random_model(SHAPES["llama"]).config, chosen, tensors, "base")
        written.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert written[0] == written[1]
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    assert about["target_modules"] == ["q_proj", "up_proj"]
    assert (about["r"], about["lora_alpha"], about["fan_in_fan_out"]) == (RANK, 8.0, False)


def test_training_lowers_the_loss_and_leaves_the_frozen_weights() -> None:
    model = random_model(SHAPES["llama, grouped heads, tied"])
    before = {name: p.clone() for name, p in model.named_parameters()}
    lora.add(model, Lora(rank=RANK, alpha=8.0, targets=EVERY))
    settings = parse(values(**QUICK, train__optimizer="adamw", train__weight_decay=0.1))
    (optimizer,) = optim.build(model, settings.train)
    ids, targets = torch.randint(85, (2, 4, 32))
    losses = []
    for _ in range(30):
        loss = model(ids, targets).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    states = optim.state_tensors(model, [optimizer])
    assert {name.rpartition(".")[0] for name in states} == set(adapters(model))


def gradients(model: GPT, run: Any) -> Iterator[torch.Tensor]:
    torch.manual_seed(0)
    ids, targets = torch.randint(85, (2, 2, 32))
    model.zero_grad()
    run(ids, targets).mean().backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        if parameter.grad is not None:
            yield parameter.grad.clone()


@pytest.mark.parametrize("shape", ["gpt2", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_checkpointed_and_compiled_they_learn_the_same(shape: str) -> None:
    model = adapted(shape, Lora(rank=RANK, alpha=8.0, targets=EVERY)).train()
    plain = list(gradients(model, model))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # no break in the graph
    for there, expected in zip(gradients(model, compiled), plain, strict=True):
        torch.testing.assert_close(there, expected)
    model.activation_checkpointing = True
    for there, expected in zip(gradients(model, model), plain, strict=True):
        torch.testing.assert_close(there, expected)


def test_they_multiply_in_the_type_of_their_matrix() -> None:
    chosen = Lora(rank=RANK, alpha=8.0, targets=EVERY)
    ids, targets = torch.randint(85, (2, 4, 32))
    exact, near = (
        adapted("llama", chosen, compute)(ids, targets).mean().item()
        for compute in (torch.float32, torch.bfloat16)
    )
    assert near != exact
    assert near == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(("shape", "known"), [("gpt2", "c_attn"), ("qwen3", "gate_proj")])
def test_an_unknown_target_is_refused(shape: str, known: str) -> None:
    model = random_model(SHAPES[shape])
    chosen = Lora(rank=RANK, alpha=8.0, targets=[known, "proj"])
    with pytest.raises(UserError, match=rf"train.lora.targets: 'proj' .* known: .*{known}"):
        lora.add(model, chosen)
    assert all(p.requires_grad for p in model.parameters())


TRAIN = """
import numpy as np, sys, torch
from nanogpt.training import lora
from nanogpt import optim
from nanogpt.settings import Lora, parse
from nanogpt.machine.distributed import join
from nanogpt.batches import Text, Windows
from nanogpt.trainer import Hooks, Progress, Trainer
from tests.kit.recipes import QUICK, values
from tests.test_model import SHAPES, random_model

parallel, checkpointing = sys.argv[1], sys.argv[2] == "True"
settings = parse(values(**QUICK, train__optimizer="adamw", machine__parallel=parallel,
                        machine__micro_batch=2))
world = join(settings.machine)
model = random_model(SHAPES["llama, grouped heads, tied"])
model.activation_checkpointing = checkpointing
lora.add(model, Lora(rank=4, alpha=8.0, targets="all-linear"))
model = world.place(model)
tokens = np.random.default_rng(0).integers(0, 85, 2000).astype(np.uint16)
losses = []

def record(step, metrics):
    losses.append(metrics.get("train_loss", metrics.get("val_loss")))

optimizers = optim.build(model, settings.train)
hooks = Hooks(record, lambda progress: None, lambda loss, part: loss)
windows = Windows(Text(tokens), settings.model.context)
Trainer(model, optimizers, windows, Text(tokens[:200]), settings, world, Progress(), hooks).fit()
if world.rank == 0:
    print(losses)
world.close()
"""


def curve(processes: int, parallel: str, checkpointing: bool = False) -> list[float]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, parallel, str(checkpointing)],
            env=os.environ
            | {"PYTHONPATH": str(ROOT)}
            | {key: str(value) for key, value in (common | {"RANK": rank}).items()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    losses: list[float] = json.loads(printed[0])
    return losses


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return curve(1, "auto")


@pytest.mark.parametrize(("parallel", "checkpointing"), [("ddp", False), ("fsdp", True)])
@pytest.mark.slow
def test_on_two_processes_they_learn_the_same(
    parallel: str, checkpointing: bool, alone: list[float]
) -> None:
    assert alone[-1] < alone[0]
    assert curve(2, parallel, checkpointing) == pytest.approx(alone, abs=1e-4)
