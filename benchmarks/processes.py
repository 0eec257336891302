"""Commands, timed from outside: wall time, peak memory, and when they printed what.

The measuring process itself imports nothing heavy: Linux counts the memory of the process that
starts a command as the command's own until that one grows larger.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nanogpt.common.errors import UserError

ROOT = Path(__file__).parent.parent
MIB = 2**20 if sys.platform == "darwin" else 2**10  # in the system's unit of ru_maxrss
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python_path() -> str:
    """This checkout's packages first, then what PYTHONPATH names: torch may be there alone."""
    return os.pathsep.join([os.fspath(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def check_given(text: Path | None, peer: Path | None, needed: Iterable[str]) -> None:
    """Refuse a TEXT= or a PEER= that is not there.

    Args:
        needed: files that a checkout of nanoGPT has to have.

    Raises:
        UserError: it is not there.
    """
    if text and not text.is_file():
        raise UserError(f"TEXT: there is no file {text}")
    if peer:
        for name in needed:
            if not (peer / name).is_file():
                raise UserError(f"PEER: there is no {name} in {peer}")


@dataclass(frozen=True)
class Finished:
    began: float  # seconds since 1970
    seconds: float  # wall time
    peak_mib: float  # resident memory
    lines: list[tuple[float, str]]  # seconds since it began, and what it printed

    @property
    def text(self) -> str:
        return "".join(line for _, line in self.lines)


def run(*command: str, cwd: Path, cores: int = CORES, **environment: str) -> Finished:
    """Run `python COMMAND` on `cores` cores. Whatever ends this process ends the command as well.

    Raises:
        UserError: the command refused its input (exit code 2), and says why.
        OSError: it failed otherwise; the message has the end of what it printed.
    """
    words = [sys.executable, *command]
    threads = {"OMP_NUM_THREADS": str(cores), "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}
    with _pinned(cores):
        began, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=os.environ | threads | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it by way of us alone
        )
    assert process.stdout is not None
    try:
        lines = [(time.perf_counter() - clock, line) for line in process.stdout]
        # its own figures, not the largest of all children
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stdout.close()
    seconds = time.perf_counter() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    tail = "".join(line for _, line in lines[-25:]).strip()
    if process.returncode == 2:
        raise UserError(tail)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(words)} ended with {process.returncode}:\n{tail}")
    return Finished(began, seconds, usage.ru_maxrss / MIB, lines)


@contextmanager
def _pinned(cores: int) -> Iterator[None]:
    """A command started inside has the first so many cores, and all its threads share them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
