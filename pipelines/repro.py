"""`dvc repro` of one stage inside a flow: its output to the log, its locks waited for, its end.

A stage that is told to stop gets the time to save, and takes all its processes along.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import psutil
from prefect import get_run_logger

from pipelines.graph import Stage, dvc_environment

RAN = re.compile(r"Running stage '.+':")
BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
BLOCKER = re.compile(r"\(PID (\d+)\)")
EXIT_CODE = re.compile(r"exited with (-?\d+)$")

WRONG_INPUT = 2  # exit code of a stage that no second try can help
TOLD = {129, 130, 143}  # exit codes of a stage that was told to stop
WAITING = "NANOGPT_WAITING"  # pids: a stage stops when one of these that it runs below is gone
EXPERIMENT = "DVC_EXP_NAME"  # how DVC tells a stage the name of its experiment
RUN_ID = "PREFECT__FLOW_RUN_ID"  # set where a worker started this process
BUSY_DELAY = 2  # seconds between two looks at another DVC command that is at work
PATIENCE = 20  # seconds to stop in: less than the 30 that a Prefect worker grants


class StageFailed(Exception):
    """The last lines that a stage and DVC wrote."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code  # exit code of the stage's command; None when DVC itself gave up


def command(stage: Stage) -> list[str]:
    """What brings the stage up to date, typed at the repository's root."""
    return ["dvc", "repro", "--single-item", stage.address]


def repro(stage: Stage, top: Path, experiment: str | None) -> bool:
    """Bring one stage up to date at the root `top`; whether its command ran.

    Raises:
        StageFailed: DVC, or the command that it ran, ended with an error.
    """
    while True:
        code, lines = _run(stage, top, experiment)
        text = "\n".join(lines)
        if code == 0:
            return any(RAN.fullmatch(line) for line in lines)
        if not BUSY.search(text):
            ended = int(found[1]) if (found := EXIT_CODE.search(text)) else None
            # a signal that ended the shell in between is negative here
            raise StageFailed(text, 128 - ended if ended and ended < 0 else ended)
        blockers = [int(pid) for pid in BLOCKER.findall(text)]
        get_run_logger().warning("another DVC command is at work on this: waiting for its end")
        time.sleep(BUSY_DELAY)
        while any(map(_runs, blockers)):
            time.sleep(BUSY_DELAY)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _run(stage: Stage, top: Path, experiment: str | None) -> tuple[int, list[str]]:
    """Run DVC once for one stage, its output going to the log as it comes.

    Returns:
        DVC's exit code, with the line that says whether the command ran and the last few lines.
    """
    logger = get_run_logger()
    logger.info("$ %s", " ".join(command(stage)))
    named = {EXPERIMENT: experiment} if experiment else {}
    ran: list[str] = []
    last: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        [sys.executable, "-m", *command(stage)],
        cwd=top,
        env=dvc_environment() | {"PYTHONUNBUFFERED": "1", WAITING: _waiting()} | named,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C in a terminal then reaches only this process, which passes it on once
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                # of a line that carriage returns overwrote, the log gets what stayed
                line = raw.decode("utf-8", "replace").rstrip().rsplit("\r", 1)[-1]
                if line:
                    logger.info(line)
                    (ran if RAN.fullmatch(line) else last).append(line)
            return process.wait(), [*ran, *last]
        finally:
            if process.poll() is None:
                _stop(process)


def _waiting() -> str:
    """The processes that wait for a stage above DVC's, which is a job of its own; pids."""
    known = os.environ.get(WAITING, "").split()
    # the parent of a flow that runs for a worker is that worker
    return " ".join([*known, str(os.getpid()), str(os.getppid()) if RUN_ID in os.environ else ""])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a process and all its descendants, as Ctrl-C would; end those that stay."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    os.killpg(process.pid, signal.SIGINT)
    _, stubborn = psutil.wait_procs(family, timeout=PATIENCE)
    for member in stubborn:
        member.kill()
    process.wait()
