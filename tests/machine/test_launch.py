"""The processes of one machine: what the command that starts them exits with, and prints."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanogpt.common.errors import UserError
from nanogpt.machine import launch
from tests.kit.recipes import ROOT, quick

# starts two processes of hands.py, as a stage starts its own
BOSS = """
import sys
from nanogpt.common.command import one_line
from nanogpt.machine import launch
from nanogpt.settings import load

with one_line("boss"):
    sys.exit(launch.launch(load("params.yaml").machine, 2, "hands", ["a", "$b"]))
"""
# what a process does is the part that a test adds
HANDS = """
import os, signal, sys, time
from pathlib import Path

rank = int(os.environ["RANK"])

def end(code, *said):
    os.write(1, (" ".join(map(str, said)) + "\\n").encode())  # whole lines from both
    os._exit(code)

def stop(number, frame):
    time.sleep(0.5)  # the rest of a step, and a save
    end(128 + number, f"process {rank} saved")

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
Path(f"{rank}.partial").write_text(str(os.getpid()))
Path(f"{rank}.partial").rename(f"{rank}.ready")
while not (Path("0.ready").exists() and Path("1.ready").exists()):
    time.sleep(0.01)
"""
WAIT = "while True: time.sleep(0.01)"


class Boss:
    """A running command that has started two processes."""

    def __init__(self, folder: Path, hands: str) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        (folder / "boss.py").write_text(BOSS)
        (folder / "hands.py").write_text(HANDS + hands)
        (folder / "tmp").mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "boss.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "TMPDIR": str(folder / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def hand(self, rank: int) -> int:
        """The id of one of its processes, once both run."""
        while not all((self.folder / f"{r}.ready").exists() for r in (0, 1)):
            time.sleep(0.01)
        return int((self.folder / f"{rank}.ready").read_text())

    def end(self, code: int) -> str:
        """Wait for its end, with this exit code and nothing left behind; returns what it said."""
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == code, said
        assert not any(psutil.pid_exists(self.hand(rank)) for rank in (0, 1))
        assert not list((self.folder / "tmp").iterdir())
        return said


def test_arguments_and_ranks_arrive(tmp_path: Path) -> None:
    said = Boss(tmp_path, "end(0, rank, os.environ['WORLD_SIZE'], *sys.argv[1:])").end(0)
    assert sorted(said.splitlines()) == ["0 2 a $b", "1 2 a $b"]


@pytest.mark.parametrize("code", [1, 2])
def test_a_refusal_ends_both_and_adds_no_words(tmp_path: Path, code: int) -> None:
    refuse = f"if rank: end({code}, 'what to do')\n"
    said = Boss(tmp_path, refuse + WAIT).end(code)
    assert said.splitlines() == ["what to do", "process 0 saved"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_let_both_save(tmp_path: Path, number: int) -> None:
    boss = Boss(tmp_path, WAIT)
    boss.hand(0)
    boss.process.send_signal(number)
    said = boss.end(128 + number)
    assert sorted(said.splitlines()) == ["process 0 saved", "process 1 saved"]


def test_a_second_ctrl_c_waits_no_longer(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nPath(f'{rank}.deaf').touch()\n"
    boss = Boss(tmp_path, deaf + WAIT)
    while len(list(tmp_path.glob("*.deaf"))) < 2:
        time.sleep(0.01)
    boss.process.send_signal(signal.SIGINT)
    time.sleep(2)  # a busy machine hands over two that come close together as one
    assert boss.process.poll() is None
    boss.process.send_signal(signal.SIGINT)
    (said,) = boss.end(130).splitlines()
    assert said == "boss: stopped before the end of a step; run the same command to go on"


def test_a_killed_process_is_named_and_the_other_stops(tmp_path: Path) -> None:
    boss = Boss(
        tmp_path, f"if rank == 0: signal.signal(15, lambda *_: end({launch.LOST_PEER}))\n" + WAIT
    )
    os.kill(boss.hand(1), signal.SIGKILL)
    (said,) = filter(None, boss.end(1).splitlines())
    assert said == (
        "boss: a process was ended by SIGKILL (out of memory?);"
        " run the same command to go on from the last save"
    )


def test_a_rendezvous_out_of_reach_is_refused() -> None:
    settings = quick(machine__nodes=2, machine__rendezvous="no such host:1")
    with pytest.raises(UserError, match="no such host:1 cannot be reached"):
        launch.launch(settings.machine, 1, "hands", [])
