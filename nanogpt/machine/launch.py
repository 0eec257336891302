"""Start the training processes of this machine, alone or as one of several machines.

torch's elastic agent starts and watches them, as `torchrun` would; which exit code the command ends
with, what is printed, and when a restart makes sense is decided here.
"""

import hashlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

import psutil
from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.api import WorkerState as State
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from nanogpt.common.errors import Stopped, UserError
from nanogpt.common.told import stops
from nanogpt.settings import Machine

LOST_PEER = os.EX_TEMPFAIL  # a worker's exit code: another process is gone; start again
STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
LOOPBACK = "127.0.0.1"

HEARTBEAT, MISSED = 5, 3  # seconds between heartbeats; so many missed in a row: it is gone
LAST_CALL = 10  # seconds that a machine which may start alone waits for others
PATIENCE = 600  # seconds to wait for machines that are needed, and for a save at a restart
RESTARTS = 100  # a training of several days may see many machines come and go


def launch(machine: Machine, processes: int, module: str, arguments: list[str]) -> int:
    """Run `python -m module arguments` in `processes` processes here, and wait for them.

    With several `machine.nodes`, all of them run this with the same arguments. A process that dies
    takes the others with it; they start again together, and go on from the last save, where a
    machine or a connection was lost, but not where a process refused its input.

    SIGTERM, SIGHUP and SIGINT are passed on to the processes, which save and end in their own time.

    Returns:
        What the command has to exit with: 0, or the code of a process that has said why it ended.

    Raises:
        UserError: `machine.rendezvous` cannot be reached from this machine.
        Stopped: a second Ctrl-C came before a process had saved.
        OSError: a process was killed, or the other machines cannot be reached.
    """
    fewest, most = machine.machines
    alone = machine.rendezvous is None or most == 1
    endpoint = "localhost:0" if alone else str(machine.rendezvous)
    hosts, address = (True, LOOPBACK) if alone else _meet(endpoint)
    if not alone:
        # the shared store keeps the address of a machine that is gone: pytorch issue 135712
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # left to itself, gloo takes the address of the host's name, which is often the loopback
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(address))
    _silence()
    command = ["-m", module, *arguments]
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=endpoint,
        # another training that uses the same rendezvous does not mix with this one
        run_id=hashlib.sha256("\0".join(command).encode()).hexdigest(),
        min_nodes=fewest,
        max_nodes=most,
        local_addr=address,
        is_host=hosts,
        read_timeout=30,
        join_timeout=PATIENCE,
        last_call_timeout=LAST_CALL,
        keep_alive_interval=HEARTBEAT,
        keep_alive_max_attempt=MISSED,
    )
    try:
        spec = WorkerSpec(
            role="train",
            local_world_size=processes,
            entrypoint=sys.executable,
            args=tuple(word.replace("$", "$$") for word in command),  # torch fills ${local_rank} in
            rdzv_handler=get_rendezvous_handler(parameters),
            max_restarts=0 if alone else RESTARTS,
            monitor_interval=0.1,
            local_addr=address,
        )
        agent = Agent(spec, restartable={LOST_PEER} | (STOPPED if most > fewest else set()))
        if not hosts:
            threading.Thread(target=_watch, args=(endpoint, agent), daemon=True).start()
        result = agent.run()
    except SignalException as stop:
        return 128 + stop.sigval
    except RendezvousClosedError:
        raise ConnectionError("ended by another machine, whose messages say why") from None
    except RendezvousTimeoutError:
        raise TimeoutError(
            f"fewer than {fewest} machines came to machine.rendezvous {endpoint} within"
            f" {PATIENCE // 60} minutes; start the same command on all of them"
        ) from None
    except (RendezvousError, DistError):
        raise _unreachable(endpoint) from None
    if result is None:  # this machine was a spare one and was not needed
        return 0
    if not agent.stopped and (hosts or result.is_failed()):
        spec.rdzv_handler.shutdown()  # the other machines need not wait, or start again
    return _exit_code(result, agent.stopped)


class Agent(LocalElasticAgent):
    """torch's agent, which restarts only what a restart can mend, and leaves signals to workers."""

    def __init__(self, spec: WorkerSpec, restartable: set[int]) -> None:
        # workers still there when the rendezvous has failed hang in a collective: 1 second
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull), shutdown_timeout=1)
        self.restartable = restartable
        self.stopped: signal.Signals | None = None
        self._take_signals()

    def _take_signals(self) -> None:
        numbers = [*stops(), signal.SIGINT]
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in numbers)
        for number in numbers:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.stopped = self.stopped is not None, signal.Signals(number)
        if self.get_worker_group().state != State.HEALTHY:  # no process could save here
            _say("stopped; run the same command to go on")
            raise SignalException("stopped", self.stopped)
        # processes hear a signal at the end of a step: who presses Ctrl-C twice will not wait
        self.signal_workers(signal.SIGKILL if again and number == signal.SIGINT else number)

    def signal_workers(self, number: int) -> None:
        """Send a signal to the processes that were started."""
        for worker in self.get_worker_group().workers:
            if worker.id is not None:  # between two starts there are none
                with suppress(ProcessLookupError):
                    os.kill(worker.id, number)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, int]:
        started: dict[int, int] = super()._start_workers(worker_group)
        self._take_signals()  # torch has just put its own handlers in place
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            codes = {failure.exitcode for failure in result.failures.values()}
            if self.stopped or any(code > 0 for code in codes - self.restartable):
                self._remaining_restarts = 0
            elif self._remaining_restarts:
                _say("a process is gone; starting again from the last save")
        elif result.state == State.HEALTHY and self._lost_a_machine(worker_group):
            _say("a machine is gone; starting again from the last save")
            return RunResult(state=State.UNHEALTHY)
        return result

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Before a restart: let them save where a machine joins; where one is gone, they hang."""
        lost = self._lost_a_machine(worker_group)
        if worker_group.state == State.HEALTHY and not lost and not self.stopped:
            _say("another machine joins; saving, and starting again with it")
        # processes that are stopping save too, even if the other machine has left already
        hang = lost and not self.stopped
        self._shutdown(signal.SIGKILL if hang else signal.SIGTERM, PATIENCE)
        if self.stopped and worker_group.state != State.FAILED:
            raise SignalException("stopped", self.stopped)

    def _lost_a_machine(self, worker_group: WorkerGroup) -> bool:
        # a machine that lost its power closes no connection: only its missing heartbeats show it.
        # torch counts them too, but waits for the collective's timeout
        state = self._rdzv_handler._state_holder.state  # type: ignore[attr-defined]
        size = worker_group.group_world_size  # None until the first start
        return size is not None and len(state.participants) < size


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.rsplit(":", 1)
    return host, int(port)


def _meet(endpoint: str) -> tuple[bool, str]:
    """Wait for the rendezvous; whether it is on this machine, and the address that leads there."""
    place = _host_and_port(endpoint)
    try:
        # asking the kernel for a route sends nothing
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            address: str = probe.getsockname()[0]
    except OSError as error:
        raise UserError(
            f"machine.rendezvous: {endpoint} cannot be reached from here ({error.strerror})"
        ) from None
    try:
        socket.create_server(place).close()
        return True, address
    except OSError:  # another machine's address, or another process of this one is there already
        pass
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(place, timeout=5).close()
            return False, address
        except OSError:
            if time.monotonic() > deadline:
                raise _unreachable(endpoint) from None
            time.sleep(1)


def _watch(endpoint: str, agent: Agent) -> None:
    """End everything here when the rendezvous is gone: torch's agent would wait in a read for it.

    That read has no timeout and lets no signal through; if the machine lost its power, the kernel
    takes 15 minutes to end it.
    """
    missed = 0
    while missed < MISSED:
        time.sleep(HEARTBEAT)
        try:
            socket.create_connection(_host_and_port(endpoint), timeout=HEARTBEAT).close()
            missed = 0
        except OSError:
            missed += 1
    agent.signal_workers(signal.SIGKILL)
    _say(str(_unreachable(endpoint)))
    os._exit(1)


def _interface(address: str) -> str:
    """Name of the network interface that has this address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return str(name)
    raise UserError(f"no network interface of this machine has the address {address}")


def _silence() -> None:
    """Keep torch's messages about its agent off the terminal; this module prints what matters."""
    logger = logging.getLogger("torch.distributed.elastic")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _say(message: str) -> None:
    print(f"train: {message}", file=sys.stderr, flush=True)


def _unreachable(endpoint: str) -> ConnectionError:
    return ConnectionError(
        f"machine.rendezvous {endpoint} does not answer; start the same command on every machine,"
        " that one first: training goes on from the last save"
    )


def _exit_code(result: RunResult, stopped: signal.Signals | None) -> int:
    """The most telling code: of a refused input, else of a stop; a killed process raises."""
    if result.state == State.SUCCEEDED:
        return 0
    codes = {failure.exitcode for failure in result.failures.values()}
    if said := {code for code in codes if code > 0 and code != LOST_PEER}:
        return min(said)
    if stopped:
        raise Stopped("stopped before the end of a step", stopped)
    for code in codes - {LOST_PEER, -signal.SIGTERM}:  # the agent ends the others by SIGTERM
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        raise ChildProcessError(
            f"a process was ended by {name}{hint}; run the same command to go on from the last save"
        )
    raise ConnectionError(
        "the processes lost each other; run the same command to go on from the last save"
    )
