"""Threads are as many as this process may use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanogpt.common import groups
from nanogpt.common.groups import thread_count
from nanogpt.machine.distributed import join
from nanogpt.stages import sample
from tests.kit.recipes import ROOT, quick
from tests.kit.trainings import make_model


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores."""
    monkeypatch.setattr(groups, "MEMBERSHIP", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("variable", "here", "count"),
    [
        ("", 1, 8),
        ("", 3, 2),
        ("", 16, 1),
        ("3", 1, 3),
        ("3", 4, 2),
        ("3,2", 1, 3),  # a number for each level
        ("64", 1, 8),
        ("0", 1, 8),  # libgomp ignores these two as well
        ("many", 1, 8),
    ],
)
def test_auto_is_a_share_of_the_cores_within_omp_num_threads(
    variable: str, here: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count("auto", here) == count
    assert thread_count(5, here) == 5  # what the settings say comes first


def python(code: str, **environment: str) -> str:
    """Run code in a process of its own; returns what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.check_output(
        command, env=os.environ | environment, cwd=ROOT, text=True, timeout=120
    )


@pytest.fixture
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two")
def test_settings_decide_over_the_environment_in_every_stage(tmp_path: Path) -> None:
    settings = quick(machine__threads=1)
    sample.sample(make_model(tmp_path / "model"), "the", settings, 1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    join(settings.machine)  # as train and eval do
    assert torch.get_num_threads() == 1


SAYS = """
import torch
from nanogpt.machine.distributed import prepare
from tests.kit.recipes import quick

prepare(quick(machine__threads="auto").machine)
print(torch.get_num_threads())
"""


def test_a_process_keeps_to_omp_num_threads() -> None:
    assert python(SAYS, OMP_NUM_THREADS="1") == "1\n"
