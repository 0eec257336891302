"""A stage is told to stop by signals, by the end of those that wait for it, by a lost reader."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.kit.recipes import ROOT
from tests.kit.toy import eventually

# processes one below the other, each with what is special about it; the last one is a stage
TOWER = """
import os, signal, subprocess, sys, time
from pathlib import Path
me, *below = sys.argv[1:]
if "deaf" in me:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
if "waits" in me:
    os.environ["NANOGPT_WAITING"] = f"1 {os.getpid()}"
if below:
    command = [sys.executable, __file__, *below]
    group = 0 if "job" in below[0] else None
    child = subprocess.Popen(
        command, start_new_session="session" in below[0], process_group=group
    )
else:
    from nanogpt.common.command import one_line
    from nanogpt.common.told import follow_ancestors, raise_when_told
Path(me + ".partial").write_text(str(os.getpid()))
os.rename(me + ".partial", me)
if below:
    child.wait()
    sys.exit(child.returncode)
with one_line("stage"):
    raise_when_told()
    try:
        follow_ancestors("stage")  # which may tell it at once
        Path("ready").touch()
        for _ in range(1200):
            print("at work", file=sys.stderr, flush=True)
            time.sleep(0.05)
    except KeyboardInterrupt as told:
        Path("told.partial").write_text(str(getattr(told, "signal", 2)))
        os.rename("told.partial", "told")
        Path("ready").touch()
        raise
"""


class Tower:
    def __init__(self, folder: Path, names: list[str], **environment: str) -> None:
        self.folder, self.names = folder, names
        (folder / "tower.py").write_text(TOWER)
        self.process = subprocess.Popen(
            [sys.executable, "tower.py", *names],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        eventually((folder / "ready").exists, "the stage's start", 60)

    def pid(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def told(self) -> int:
        """The signal that the stage was told to stop by; 0: it has not been, for a while."""
        end = time.monotonic() + (1 if psutil.pid_exists(self.pid(self.names[-1])) else 0)
        while not (self.folder / "told").exists() and time.monotonic() < end:
            time.sleep(0.02)
        return int((self.folder / "told").read_text()) if (self.folder / "told").exists() else 0

    def end(self) -> None:
        assert self.process.stderr
        self.process.stderr.close()
        for name in self.names:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid(name), signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def tower(tmp_path: Path) -> "Callable[..., Tower]":
    made: list[Tower] = []

    def make(*names: str, **environment: str) -> Tower:
        made.append(Tower(tmp_path, list(names), **environment))
        return made[0]

    yield make  # type: ignore[misc]
    for each in made:
        each.end()


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="nobody says who ignores SIGHUP")


@pytest.mark.parametrize(
    ("names", "killed", "told"),
    [
        (["dvc", "stage"], "dvc", 15),
        (["make", "dvc", "sh", "stage"], "make", 15),
        (["make", "dvc", "sh", "stage"], "dvc", 15),
        # the shell in which a job was typed may go
        (["terminal", "make session", "dvc", "stage"], "terminal", 0),
        # a flow starts DVC as a job of its own
        (["worker", "flow waits", "dvc session", "stage"], "flow waits", 15),
        (["worker", "flow waits", "dvc session", "stage"], "worker", 15),
        # nohup
        pytest.param(["script", "make deaf", "stage"], "script", 0, marks=LINUX),
        (["script", "make deaf", "stage"], "make deaf", 15),
    ],
)
def test_it_stops_when_one_of_those_that_wait_for_it_is_gone(
    tower: Callable[..., Tower], names: list[str], killed: str, told: int
) -> None:
    made = tower(*names)
    os.kill(made.pid(killed), signal.SIGKILL)
    assert made.told() == told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_have_their_exit_codes(tower: Callable[..., Tower], number: int) -> None:
    made = tower("stage")
    made.process.send_signal(number)
    assert made.process.wait(20) == 128 + number
    assert made.told() == number
    assert made.process.stderr
    said = made.process.stderr.read().decode().splitlines()
    assert said[-1] == "stage: stopped; run the same command to go on"
    assert set(said[:-1]) == {"at work"}


def test_who_runs_with_nohup_hears_no_hangup(tower: Callable[..., Tower]) -> None:
    made = tower("deaf stage")
    made.process.send_signal(signal.SIGHUP)
    assert made.told() == 0


def test_a_reader_that_is_gone_ends_it_as_a_closed_terminal_does(
    tower: Callable[..., Tower],
) -> None:
    made = tower("stage")
    assert made.process.stderr
    made.process.stderr.close()
    assert made.process.wait(20) == 129
    assert made.told() == signal.SIGHUP


def test_with_nohup_what_nobody_reads_is_lost(tower: Callable[..., Tower]) -> None:
    made = tower("deaf stage")
    assert made.process.stderr
    made.process.stderr.close()
    assert made.told() == 0


def test_dvc_may_be_gone_before_the_stage_looks(tower: Callable[..., Tower]) -> None:
    made = tower("stage", DVC_STAGE="train")  # alone in its job
    assert made.told() == signal.SIGTERM


def test_a_shell_may_make_a_job_of_its_own_of_a_stage(tower: Callable[..., Tower]) -> None:
    made = tower("dvc", "job of a stage", DVC_STAGE="train")
    assert made.told() == 0
