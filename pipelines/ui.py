"""MLflow's and Prefect's pages on this machine, until Ctrl-C: what `make ui` runs.

    python -m pipelines.ui --port 5000 --prefect-port 4200

Prefect comes with its worker and a deployment of each recipe, so that what its pages start is run.
A server that `make deploy` started is used, and stays.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from types import FrameType

import psutil

from pipelines.exits import STOPS
from pipelines.graph import one_line, root
from pipelines.local import HOST, Local, LocalError, no_proxy, port_number, refuse_taken
from pipelines.run import leave

LOOK_SECONDS = 0.5
STARTUP_SECONDS = 180
STOP_SECONDS = 20


class _Told(BaseException):
    """A signal asks for the end."""


def _hear(number: int, _: FrameType | None) -> None:
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    print("stopping what was started ...", end=" ", flush=True)
    raise _Told(number)


class _Mlflow:
    """MLflow's server, or nothing to start where MLFLOW_TRACKING_URI names one."""

    def __init__(self, local: Local, port: int) -> None:
        self.log = local.home / "mlflow.log"
        self.port = port
        self.remote = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
        self.process: subprocess.Popen[bytes] | None = None
        if not self.remote:
            refuse_taken(port, f"make ui PORT={port + 1}")

    def start(self) -> None:
        if self.remote:
            return
        print(f"starting MLflow, its log in {os.path.relpath(self.log)}", flush=True)
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nanogpt.commands", "ui", f"--port={self.port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes to this process alone
            )

    def wait(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + STARTUP_SECONDS
        while not self.remote:
            self.check()
            with suppress(OSError):
                opener.open(f"http://{HOST}:{self.port}/health", timeout=5).close()
                return
            if time.monotonic() > end:
                raise LocalError(f"MLflow did not answer for {STARTUP_SECONDS} s; see {self.log}")
            time.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """Raise LocalError if it has ended."""
        if self.process and self.process.poll() is not None:
            said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            raise LocalError("\n".join(["MLflow has ended; its last lines:", *said]))

    def links(self) -> str:
        """Lines of what the pages show and where they are, parted by a tab."""
        words = ["-m", "nanogpt.commands", "ui", "--links", f"--port={self.port}"]
        done = subprocess.run(
            [sys.executable, *words], stdout=subprocess.PIPE, encoding="utf-8", check=False
        )
        return done.stdout

    def stop(self) -> None:
        if self.process:
            with suppress(psutil.NoSuchProcess):
                family = psutil.Process(self.process.pid).children(recursive=True)
                self.process.terminate()
                _, stay = psutil.wait_procs([*family, self.process], timeout=STOP_SECONDS)
                for process in stay:
                    process.kill()


def show(port: int, prefect_port: int) -> None:
    """Start what is not up, print where the pages are, and wait.

    Raises:
        LocalError: a port is taken, or something did not start, or ended.
        _Told: after all that was started here has been stopped.
    """
    local = Local(root(), prefect_port)
    running = local.running()
    up = len(running) == 2
    mlflow = _Mlflow(local, port)
    if "server" not in running:  # ours whose worker has ended is started anew
        refuse_taken(prefect_port, f"make ui PREFECT_PORT={prefect_port + 1}")
    try:
        mlflow.start()
        local.up()
        mlflow.wait()
        rows = [line.split("\t") for line in mlflow.links().splitlines()]
        table = [(f"MLflow   {what}", address) for what, address in rows]
        pages = {"all runs": "runs", "recipes to run": "deployments"}
        table += [(f"Prefect  {what}", f"{local.address}/{page}") for what, page in pages.items()]
        width = max(len(what) for what, _ in table)
        print("", *(f"{what:{width}}  {address}" for what, address in table), "", sep="\n")
        print("Ctrl-C stops what this started" if up else "Ctrl-C stops all of it", flush=True)
        while True:
            time.sleep(LOOK_SECONDS)
            mlflow.check()
            if "server" not in local.running():
                raise LocalError(f"Prefect's server has ended; see {local.home}/server.log")
    finally:
        for each in STOPS:
            signal.signal(each, signal.SIG_IGN)
        mlflow.stop()
        if not up:
            local.down()


def main() -> None:
    parser = argparse.ArgumentParser(description="The pages of MLflow and Prefect.")
    parser.add_argument("--port", type=port_number, default=5000, help="MLflow's (default: 5000)")
    parser.add_argument(
        "--prefect-port", type=port_number, default=4200, help="Prefect's (default: 4200)"
    )
    args = parser.parse_args()
    os.environ |= no_proxy()
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
            signal.signal(number, _hear)
    try:
        with one_line("ui"):
            show(args.port, args.prefect_port)
    except _Told as told:
        print("done", flush=True)
        leave(told.args[0])


if __name__ == "__main__":
    main()
