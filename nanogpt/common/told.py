"""How a stage learns that it is to stop: by a signal, or because those that wait for it are gone.

    raise_when_told()           # SIGTERM and SIGHUP, as Ctrl-C does
    follow_ancestors("eval")    # SIGTERM to itself when one of them ends

Who stops `make`, `dvc repro` or a flow often reaches that process alone: DVC hands no signal on,
and nobody can hand on `kill -9`. What runs below would go on unseen, and write where the next run
does.
"""

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import psutil

from nanogpt.common.errors import Told

# pids of processes that wait for DVC, which they started as a job of its own: a Prefect flow
WAITING = "NANOGPT_WAITING"
LOOK_SECONDS = 0.3


def stops() -> list[signal.Signals]:
    """Signals besides Ctrl-C that ask for an end: not SIGHUP, where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


def raise_when_told() -> None:
    """Raise `Told` in the main thread at the first of these signals; leave the clean-up alone.

    So does an output whose reader is gone: a terminal that was closed, a flow that was killed.
    """

    def hear(number: int, _: FrameType | None) -> None:
        for other in stops():
            signal.signal(other, lambda *_: None)
        raise Told(number)

    for number in stops():
        signal.signal(number, hear)
    sys.stdout = cast(TextIO, _Output(sys.stdout))
    sys.stderr = cast(TextIO, _Output(sys.stderr))


class _Output:
    """A stream that loses what nobody reads, and has this process told, instead of failing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._lose()

    def _lose(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is in the buffer goes there
        os.close(nowhere)
        if signal.SIGHUP in stops():
            os.kill(os.getpid(), signal.SIGHUP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def follow_ancestors(stage: str) -> None:
    """Send SIGTERM to this process when one of those that wait for it is gone."""
    chain = _chain()
    # DVC, which waits for its commands, was a part of the same job: killed before this looked.
    # A shell in between may have made a job of its own of this, but in the same session
    orphan = "DVC_STAGE" in os.environ and len(chain) == 1 and _another_session(os.getppid())

    def follow() -> None:
        while not orphan and all(_parent(pid) == above for pid, above in pairwise(chain)):
            time.sleep(LOOK_SECONDS)
        print(f"{stage}: the process that waited for this one is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    if orphan or len(chain) > 1:
        threading.Thread(target=follow, name="ancestors", daemon=True).start()


def _chain() -> list[int]:
    """This process, and upwards those that wait for its end: its ancestors in the shell's job.

    The shell that the job was typed in is no part of it, so it may go: `make run &`. What ignores
    SIGHUP (`nohup make run &` in a script) outlives those above it that do not.
    """
    chain, group = [os.getpid()], os.getpgrp()
    with suppress(psutil.Error, OSError):
        for above in psutil.Process().parents():
            if os.getpgid(above.pid) != group:
                if str(above.pid) not in os.environ.get(WAITING, "").split():
                    break
                group = os.getpgid(above.pid)
            if _ignores_hangup(chain[-1]) and not _ignores_hangup(above.pid):
                break
            chain.append(above.pid)
    return chain


def _another_session(pid: int) -> bool:
    try:
        return os.getsid(pid) != os.getsid(0)
    except OSError:
        return True


def _parent(pid: int) -> int:
    if pid == os.getpid():
        return os.getppid()
    try:
        return cast(int, psutil.Process(pid).ppid())
    except psutil.NoSuchProcess:
        return -1


def _ignores_hangup(pid: int) -> bool:
    """Whether a process ignores SIGHUP; False where the kernel does not say (macOS)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"SigIgn:\s*([0-9a-f]+)", status)
    return bool(found and int(found[1], 16) & 1 << (signal.SIGHUP - 1))
