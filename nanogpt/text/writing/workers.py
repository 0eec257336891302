"""Who does the work: this process, others on this machine, or Dask's on any."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

SMALL = 1 << 24  # bytes of text that are done before other processes could start


@contextmanager
def workers(
    executor: Executor | None, size: int, processes: int
) -> Iterator[Callable[..., Iterator[Any]]]:
    """The `map` that does the work, results in order: the executor's, processes', Python's own."""
    if executor:
        yield executor.map
    elif size < SMALL or processes == 1:
        yield map
    else:
        # spawn: a fork would copy the thread of the progress bar in an unknown state
        context = multiprocessing.get_context("spawn")
        try:
            pool = ProcessPoolExecutor(processes, context, _start_worker)
        except OSError as error:  # their semaphores are in shared memory; a container may lack it
            said = f"tokenize: one process does it all: none can be shared with ({error.strerror})"
            print(f"{said}; is there a /dev/shm that can be written?", file=sys.stderr)
            yield map
            return

        def start(*task: Any) -> Iterator[Any]:
            # Ctrl-C reaches all, and the parent ends its workers: these inherit what is blocked
            # here, so that none of them prints where it was
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return pool.map(*task)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        with pool:
            try:
                yield start
            except BrokenProcessPool:
                raise OSError("a worker was killed, perhaps for want of memory") from None
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Without this a worker would wait for ever for the next task of a killed parent."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
