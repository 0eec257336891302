"""The server from its start to its end: it listens, loads, answers, and stops with care."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanogpt.common.errors import Stopped
from nanogpt.common.told import stops
from nanogpt.serving.app import make_app
from nanogpt.serving.errors import Refused
from nanogpt.serving.guard import Guard
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.models import Limits
from nanogpt.serving.shelf import Shelf

LOOK_SECONDS = 0.05
FLUSH_SECONDS = 2  # for what was answered to be sent
STEP_SECONDS = 30  # for the step that a model is at


def serve(
    shelf: Shelf,
    listener: socket.socket,
    limits: Limits,
    *,
    hosts: Collection[str] | None,
    key: str | None,
    follow: float,
    code: str,
    ready: Callable[[], object],
) -> None:
    """Serve until a signal says to stop.

    Args:
        hosts, key: see `Guard`.
        follow: seconds from one look whether an alias has moved to the next.
        code: which code runs, for /version.
        ready: is called when all models are loaded.

    Raises:
        UserError: a model cannot be loaded.
        Stopped: a signal said so.
    """
    server, guard = make_server(shelf, limits, hosts, key, code)

    async def load_and_follow() -> None:
        await shelf.load()
        ready()
        await shelf.follow(follow)

    told, cut = asyncio.run(_run(server, guard, listener, load_and_follow()))
    texts = "1 text was" if cut == 1 else f"{cut} texts were"
    raise Stopped(f"stopped, and {texts} cut off" if cut else "stopped", told)


def make_server(
    shelf: Shelf, limits: Limits, hosts: Collection[str] | None, key: str | None, code: str
) -> tuple["_Server", Guard]:
    """A server that is not started yet, and what stands before its app."""
    metrics = Metrics(shelf)
    app = make_app(shelf, metrics, limits, code)
    guard = Guard(app, shelf=shelf, metrics=metrics, limits=limits, hosts=hosts, key=key)

    class Patient(_Patient):
        seconds = limits.patience

    config = uvicorn.Config(
        guard,
        http=Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    # what is no HTTP, and who is cut off at the end, would each be a line, or a traceback
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return _Server(config), guard


async def _run(
    server: "_Server",
    guard: Guard,
    listener: socket.socket,
    work: Coroutine[Any, Any, None],
) -> tuple[signal.Signals, int]:
    """Serve until a signal, with this work beside it.

    Returns:
        The signal, and how many texts it cut off.
    """
    told: list[signal.Signals] = []
    something = asyncio.Event()

    def hear(number: signal.Signals) -> None:
        told.append(number)
        something.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, *stops()):
        loop.add_signal_handler(number, hear, number)
    working, serving = loop.create_task(work), loop.create_task(server.serve([listener]))
    for task in (working, serving):
        task.add_done_callback(lambda _: something.set())
    await something.wait()
    until = loop.time() + guard.limits.grace
    guard.shelf.state = "stopping"
    # a second signal: at once
    while told and guard.running and len(told) < 2 and loop.time() < until:
        await asyncio.sleep(LOOK_SECONDS)
    stopped = Refused(503, "the server stopped before the answer was whole")
    models = [*guard.shelf.at_work]
    cut = sum(model.worker.fail(stopped) for model in models)
    server.should_exit = True
    await serving
    for model in models:
        model.worker.close()
    for model in models:
        model.worker.join(STEP_SECONDS)
    if not told:  # a model could not be loaded
        await working
    working.cancel()
    return told[0], cut


class _Server(uvicorn.Server):
    """Leaves signals to `_run`: uvicorn would shut the door at once, and tell nobody why."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Patient(H11Protocol):
    """Closes a connection whose client takes too long to say what it wants, or to take what it is
    told.

    uvicorn has no such limits; that of a request's body is the guard's.
    """

    seconds: float
    timer: asyncio.TimerHandle | None = None
    full: asyncio.TimerHandle | None = None  # runs while the client takes nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()
        if self.full:
            self.full.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        # not `close`, which waits until all is taken
        self.full = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.full:
            self.full.cancel()

    def _look(self) -> None:
        """Have the clock run while the head of a request is not whole, or what is left of one that
        was answered."""
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._stop()
        elif self.timer is None:
            self.timer = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None
