"""How many CPU threads compute, and how they wait for each other.

OpenMP's threads meet thousands of times in a training step. Who comes first spins: it keeps its
core until the last one is there, which is fastest as long as each has a core of its own. Beside
another busy process they burn the time that the last one needs, and a step takes twenty times as
long.

libgomp, GCC's OpenMP that torch brings on Linux, spins for milliseconds, but hardly at all while a
process has more OpenMP threads than cores (its manual says so under GOMP_SPINCOUNT). So as long as
this process's threads wait for cores, it has some more OpenMP threads, which sleep. As many as
before compute, so every sum is rounded as before.
"""

import ctypes
import os
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

TASKS = Path("/proc/self/task")
CROWDED = 0.25  # threads that wait for a core, on average: alone under 0.1, else over 0.5
LOOK, CALM = 0.2, 1.0  # seconds: how soon a busy machine is seen, and how long it has to be calm
CHOICES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # of the user, who knows better


def use_threads(count: int) -> None:
    """Have torch compute with so many threads, which spin only while each has a core."""
    torch.set_num_threads(count)
    known = hasattr(_openmp(), "GOMP_parallel") and any(TASKS.glob("*/schedstat"))
    if count > 1 and known and not CHOICES & os.environ.keys():
        _watch_for_ever()


def _openmp() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # torch loads it for the whole process


@cache  # once a process
def _watch_for_ever() -> None:
    threading.Thread(target=_watch, name="threads", daemon=True).start()


def _watch() -> None:
    while True:
        if _waiting(LOOK) > CROWDED:
            crowd = threading.Thread(target=_crowd, name="crowd", daemon=True)
            crowd.start()
            crowd.join()


def _crowd() -> None:
    """Have more OpenMP threads than cores as long as the machine is busy.

    They belong to the thread that this runs in, and end with it.
    """
    openmp = _openmp()
    # each of them calls free(NULL), which does nothing, and sleeps
    nothing = ctypes.cast(openmp.free, ctypes.c_void_p)
    more = max(1, len(os.sched_getaffinity(0)) - torch.get_num_threads() + 1)
    openmp.GOMP_parallel(nothing, None, ctypes.c_uint(1 + more), 0)  # this one is of their team
    while _waiting(CALM) > CROWDED:
        pass


def _waiting(seconds: float) -> float:
    """Watch for so long how many of this process's threads wait for a core, on average."""
    before, began = waited(), time.perf_counter()
    time.sleep(seconds)
    return (waited() - before) / (time.perf_counter() - began)


def waited() -> float:
    """Seconds that this process's threads were ready to run and had no core, since they began."""
    nanoseconds = 0
    for stat in TASKS.glob("*/schedstat"):
        with suppress(OSError):  # of a thread that has just ended
            nanoseconds += int(stat.read_text("ascii").split()[1])
    return nanoseconds / 1e9
