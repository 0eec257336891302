"""A Prefect server and a worker on this machine, in the background.

    python -m pipelines.local up      # what `make deploy` runs
    python -m pipelines.local down    # what `make undeploy` runs

All state lies in .prefect/ at the repository's root. While the server is up, prefect.toml tells
every `prefect` command typed there where it is; the user's own Prefect profile stays untouched.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines.graph import RecipeError, root

HOST = "127.0.0.1"  # reachable from this machine alone: the server asks nobody for a password
POOL = "local"
# what SQLite's "database is locked" looks like from outside
PASSING = re.compile("database is locked|Service Unavailable|Internal Server Error")
MARK = "# Written by `make deploy`, removed by `make undeploy`.\n"


class LocalError(Exception):
    """What did not start, why, and what to do, in one message."""


class Local:
    """The server and the worker of one repository; `processes.json` knows which they are."""

    def __init__(self, top: Path, port: int) -> None:
        self.top = top
        self.home = top / ".prefect"
        self.record = self.home / "processes.json"
        self.settings = top / "prefect.toml"
        self.port = port
        self.api = f"http://{HOST}:{port}/api"

    def up(self) -> None:
        """Start the server and the worker unless they run, and apply prefect.yaml.

        Raises:
            LocalError: the port is taken, or something did not start or answer in time.
        """
        self.home.mkdir(exist_ok=True)
        if len(self.running()) < 2:
            self.down()
            self._refuse_taken_port()
            self._start()
        else:
            self.port = self._recorded()["port"]
            self.api = f"http://{HOST}:{self.port}/api"
            print(f"the server and the worker are up already, at http://{HOST}:{self.port}")
        self._prefect("--no-prompt", "deploy", "--all")

    def _start(self) -> None:
        try:
            self._spawn("server", "server", "start", "--host", HOST, "--port", str(self.port))
            self._wait("server", lambda: self._get("health") is True)
            self._prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
            self._spawn("worker", "worker", "start", "--pool", POOL, "--name", POOL)
            self._wait("worker", lambda: self._get(f"work_pools/{POOL}")["status"] == "READY")
        except BaseException:
            self.down()
            raise
        self.settings.write_text(f'{MARK}[api]\nurl = "{self.api}"\n')

    def down(self) -> bool:
        """Stop what `up` started, and only that; whether there was anything to stop."""
        running = self.running()
        # flow runs first, then the worker, then the server: each tells the next how it ended
        for process in reversed(running.values()):
            family = process.children(recursive=True)
            for group in (process.children(), [process]):
                for member in group:
                    member.terminate()
                psutil.wait_procs(group, timeout=30)
            for member in [*family, process]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        self.record.unlink(missing_ok=True)
        if self.settings.exists() and self.settings.read_text().startswith(MARK):
            self.settings.unlink()
        return bool(running)

    def running(self) -> dict[str, psutil.Process]:
        """The recorded processes that still run: a process id alone may be another's by now."""
        found = {}
        for name, (pid, created) in self._recorded().get("processes", {}).items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    found[name] = process
        return found

    def _recorded(self) -> dict[str, Any]:
        return json.loads(self.record.read_text()) if self.record.exists() else {}

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
        }

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _spawn(self, name: str, *command: str) -> None:
        print(f"starting the {name}, its log in {self._log(name).relative_to(self.top)}")
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                cwd=self.top,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        known = self._recorded().get("processes", {})
        known[name] = (process.pid, psutil.Process(process.pid).create_time())
        self.record.write_text(json.dumps({"port": self.port, "processes": known}))

    def _wait(self, name: str, answers: Callable[[], bool], seconds: int = 90) -> None:
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if name not in self.running():
                why = "stopped at once"
                break
            with suppress(OSError, ValueError):  # no answer yet, or half of one
                if answers():
                    return
            time.sleep(0.3)
        else:
            why = f"did not answer for {seconds} s"
        last = self._log(name).read_text(errors="replace").splitlines()[-15:]
        raise LocalError("\n".join([f"the {name} {why}; its last lines:", *last]))

    def _get(self, path: str) -> Any:
        # no proxy stands between this machine and itself
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.api}/{path}", timeout=5) as answer:
            return json.load(answer)

    def _prefect(self, *command: str) -> None:
        for delay in (1, 2, 4, 8, 0):
            done = subprocess.run(
                [sys.executable, "-m", "prefect", *command],
                cwd=self.top,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            said = (done.stdout + done.stderr).strip()
            if done.returncode == 0 or not PASSING.search(said):
                break
            time.sleep(delay)
        if done.returncode:
            raise LocalError(f"`prefect {' '.join(command)}` failed:\n{said}")

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError:
                raise LocalError(
                    f"port {self.port} is taken by a program that `make deploy` did not start;"
                    f" stop it or take another: make deploy PORT={self.port + 1}"
                ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description="A Prefect server and a worker, here.")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--port", type=int, default=4200, help="of the server (default: 4200)")
    args = parser.parse_args()
    try:
        local = Local(root(), args.port)
        if args.action == "down":
            print("stopped" if local.down() else "nothing to stop: `make deploy` started nothing")
            return
        local.up()
    except (LocalError, RecipeError) as error:
        sys.exit(f"deploy: {error}")
    print(
        f"up: http://{HOST}:{local.port}\n"
        "run a recipe:  prefect deployment run 'pipeline/shakespeare' --watch\n"
        "               (after `source .venv/bin/activate`)\n"
        "stop:          make undeploy"
    )


if __name__ == "__main__":
    main()
