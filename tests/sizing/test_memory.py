"""What a training will take: near what it takes; if it is too much, a word before its start."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt.architecture import GPTConfig
from nanogpt.common import groups
from nanogpt.common.errors import UserError
from nanogpt.machine.distributed import World, join
from nanogpt.settings import Lora, Settings
from nanogpt.sizing import memory
from tests.kit.measured import SHAPE, settings_of
from tests.kit.recipes import ROOT

CASES: dict[str, Any] = {
    "float32": {"machine__dtype": "float32"},
    "what this processor is best at": {"machine__dtype": "auto"},
    "adapters": {
        "machine__dtype": "auto",
        "lora": {"rank": 8, "alpha": 16.0, "targets": "all-linear"},
    },
    "activation checkpointing": {
        "machine__dtype": "auto",
        "machine__activation_checkpointing": True,
    },
    "several passes": {"machine__dtype": "auto", "machine__micro_batch": 1},
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is glibc's")
def test_the_estimate_is_near_the_measured_peak() -> None:
    command = [sys.executable, "-m", "tests.kit.measured", json.dumps(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(CASES)
    for case in found:
        # rather a training refused that would just fit than one that is killed when it does not
        assert 0.9 <= case["estimated"] / case["measured"] <= 1.35, found


def big(**changes: Any) -> tuple[GPTConfig, Settings]:
    """A quarter of a billion parameters, from a base; no memory is taken for them."""
    wide = {"n_layer": 5, "n_embd": 2048, "n_inner": 5632, "n_head": 32, "n_kv_head": 8}
    config = GPTConfig(**(SHAPE | wide))  # type: ignore[arg-type]
    settings = settings_of(config, **({"train__batch_size": 16} | changes))
    download = settings.download.model_copy(update={"base": "gpt2"})
    return config, settings.model_copy(update={"download": download})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_of_a_deep_model_that_cannot_fit_some_layers_are_counted(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = big()
    config = replace(config, n_layer=memory.DEEP + 5)
    train = settings.train.model_copy(update={"optimizer": optimizer})
    settings = settings.model_copy(update={"train": train})
    world = join(settings.machine)
    monkeypatch.setattr(memory, "available", lambda device: 1 << 50)
    whole, layers = memory.estimate(config, settings, world), list[int]()
    monkeypatch.setattr(memory, "available", lambda device: 1 << 28)
    counted = memory._counted

    def told(config: GPTConfig, *given: Any) -> int:
        layers.append(config.n_layer)
        return counted(config, *given)

    monkeypatch.setattr(memory, "_counted", told)
    assert memory.estimate(config, settings, world) == pytest.approx(whole, rel=1e-6)
    assert layers == [memory.DEEP, memory.DEEP // 2]


def test_a_machine_too_small_is_told_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = big(machine__micro_batch=16)
    world = join(settings.machine)
    needed = memory.estimate(config, settings, world)
    monkeypatch.setattr(memory, "available", lambda device: needed)
    memory.check(config, settings, world)  # it just fits
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    with pytest.raises(UserError) as error:
        memory.check(config, settings, world)
    said = str(error.value)
    for part in ("of memory", "what would fit", "machine.micro_batch: 8", "train.lora"):
        assert part in said
    assert "machine.activation_checkpointing: true" in said


def test_where_nothing_would_fit_it_says_how_much_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, settings = big()
    monkeypatch.setattr(memory, "available", lambda device: 1 << 28)
    with pytest.raises(UserError, match=r"nothing here makes it fit, the least is\s+\d+\.\d GiB"):
        memory.check(config, settings, join(settings.machine))


def test_the_ways_to_need_less_do(monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = big(machine__micro_batch=16)
    world = join(settings.machine)
    machine, train = settings.machine, settings.train
    lora = Lora(rank=8, alpha=16.0, targets="all-linear")
    whole = memory.estimate(config, settings, world)
    for change in (
        {"machine": machine.model_copy(update={"micro_batch": 1})},
        {"machine": machine.model_copy(update={"activation_checkpointing": True})},
        {"train": train.model_copy(update={"lora": lora})},
    ):
        assert memory.estimate(config, settings.model_copy(update=change), world) < whole


def test_a_training_far_from_the_limit_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(**SHAPE)  # type: ignore[arg-type]
    settings = settings_of(config)
    monkeypatch.setattr(memory, "estimate", None)
    monkeypatch.setattr(memory, "available", lambda device: 1 << 40)
    memory.check(config, settings, join(settings.machine))


def test_who_knows_better_can_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = big()
    monkeypatch.setattr(memory, "available", lambda device: 1 << 28)
    world = join(settings.machine)
    with pytest.raises(UserError, match="If you know better: NANOGPT_MEMORY_CHECK=off before"):
        memory.check(config, settings, world)
    monkeypatch.setenv("NANOGPT_MEMORY_CHECK", "off")
    memory.check(config, settings, world)
    monkeypatch.setenv("NANOGPT_MEMORY_CHECK", "0")
    with pytest.raises(UserError, match="NANOGPT_MEMORY_CHECK: '0' should be on or off"):
        memory.check(config, settings, world)


def test_all_processes_refuse_what_one_has_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config, settings = big()
    world = join(settings.machine)
    monkeypatch.setattr(memory, "available", lambda device: 1 << 40)
    less = -(1 << 28)  # of the other process, which only the exchange knows
    monkeypatch.setattr(World, "largest", lambda self, number: [max(number, less)])
    with pytest.raises(UserError, match=r"it can have 0\.2 GiB"):
        memory.check(config, settings, world)


def test_what_torch_keeps_of_a_gpu_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert memory.available(torch.device("cuda", 0)) == 140


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_counts(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = tmp_path / "cgroup"
    if version == 2:
        membership.write_text("0::/user/app\n")
        group, names = tmp_path / "user", ("memory.max", "memory.current", "")
    else:
        membership.write_text("5:cpu:/user/app\n4:memory:/user/app\n")
        group = tmp_path / "memory" / "user"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    limit, usage, prefix = names
    (group / "app").mkdir(parents=True)
    (group / limit).write_text("1000\n")
    (group / usage).write_text("700\n")
    (group / "memory.stat").write_text(f"{prefix}active_file 50\n{prefix}inactive_file 25\n")
    monkeypatch.setattr(groups, "MEMBERSHIP", membership)
    monkeypatch.setattr(groups, "MOUNT", tmp_path)
    assert list(memory._group_rooms()) == [375]
