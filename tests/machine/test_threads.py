"""Threads are as many as this process may use, and sleep while they wait on a busy machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanogpt.common import groups
from nanogpt.common.groups import thread_count
from nanogpt.machine import threads
from nanogpt.machine.distributed import join
from nanogpt.machine.threads import waited
from nanogpt.stages import sample
from nanogpt.text.prompt import go_on
from nanogpt.text.words.tokenizer import load
from tests.kit.recipes import ROOT, quick
from tests.kit.trainings import make_model

linux = pytest.mark.skipif(sys.platform != "linux", reason="of libgomp and /proc")


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
    model = make_model(tmp_path / "model")
    sample.sample(model, sample.Asked(go_on(load(model), "the"), "the", 1, str), settings)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    join(settings.machine)  # as train and eval do
    assert torch.get_num_threads() == 1


@linux
def test_a_thread_that_shares_its_core_waits() -> None:
    cores = os.sched_getaffinity(0)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for process in (busy.pid, 0):
            os.sched_setaffinity(process, {min(cores)})
        before, deadline = waited(), time.monotonic() + 60
        while waited() - before < 0.05:
            assert time.monotonic() < deadline
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, cores)


BUSY = """
import os, time, torch
from nanogpt.machine.distributed import prepare
from nanogpt.machine.threads import use_threads
from tests.kit.recipes import quick

def tasks():
    return os.listdir("/proc/self/task")

def move(cores):
    for task in tasks():
        os.sched_setaffinity(int(task), cores)

prepare(quick(machine__threads="auto").machine)
print(torch.get_num_threads())
use_threads(2)
numbers = torch.randn(300, 300)
product, cores, alone = numbers @ numbers, os.sched_getaffinity(0), len(tasks())
move({min(cores)})
while len(tasks()) == alone:
    assert torch.equal(numbers @ numbers, product)
print("more")
for _ in range(10):
    assert torch.equal(numbers @ numbers, product)
move(cores)
while len(tasks()) > alone:
    time.sleep(0.01)
print("as before")
"""


@linux
def test_on_a_busy_machine_there_are_more_threads_than_cores_until_it_is_calm() -> None:
    """That has libgomp's threads sleep; as many as before compute, and the sums are the same."""
    assert python(BUSY, OMP_NUM_THREADS="1") == "1\nmore\nas before\n"


@pytest.mark.parametrize("variable", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
@pytest.mark.usefixtures("two")
def test_who_says_how_threads_wait_is_obeyed(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(threads, "_watch_for_ever", lambda: pytest.fail("it is watched"))
    threads.use_threads(2)
