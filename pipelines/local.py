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
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines.graph import RecipeError, deployment, name_of, one_line, root

HOST = "127.0.0.1"  # reachable from this machine alone: the server asks nobody for a password
LOOPBACK = (HOST, "localhost", "::1")
POOL = "local"
# what SQLite's "database is locked" looks like from outside
PASSING = re.compile("database is locked|Service Unavailable|Internal Server Error")
MARK = "# Written by `make deploy`, removed by `make undeploy`.\n"


class LocalError(RecipeError):
    """What did not start, why, and what to do, in one message."""


class Local:
    """The server and the worker of one repository; `processes.json` knows which they are."""

    def __init__(self, top: Path, port: int) -> None:
        self.top = top
        self.home = top / ".prefect"
        self.record = self.home / "processes.json"
        self.settings = top / "prefect.toml"
        self.port = port

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def up(self) -> None:
        """Start the server and the worker unless they run, and deploy each recipe.

        Raises:
            LocalError: the port is taken, or something did not start or answer in time.
        """
        self.home.mkdir(exist_ok=True)
        if len(self.running()) < 2:
            self.down()
            refuse_taken(self.port, f"make deploy PORT={self.port + 1}")
            self._start()
        else:
            self.port = self._recorded()["port"]
            print(f"the server and the worker are up already, at {self.address}")
            self._deploy()

    def _start(self) -> None:
        try:
            self._spawn("server", "server", "start", "--host", HOST, "--port", str(self.port))
            self._wait("server", lambda: self._get("health") is True)
            self._deploy()  # with the pool, which the worker looks for
            self._spawn("worker", "worker", "start", "--pool", POOL, "--name", POOL)
            self._wait("worker", lambda: self._get(f"work_pools/{POOL}")["status"] == "READY")
        except BaseException:
            self.down()
            raise
        self.settings.write_text(f'{MARK}[api]\nurl = "{self.address}/api"\n', encoding="utf-8")

    def down(self) -> bool:
        """Stop what `up` started, and only that; whether there was anything to stop."""
        running = self.running()
        # flow runs first, then the worker, then the server: each tells the next how it ended
        for process in reversed(running.values()):
            with suppress(psutil.NoSuchProcess):
                family = process.children(recursive=True)
                for group in (process.children(), [process]):
                    _each(group, psutil.Process.terminate)
                    psutil.wait_procs(group, timeout=30)
                _each([*family, process], psutil.Process.kill)
        self.record.unlink(missing_ok=True)
        if self._ours():
            self.settings.unlink()
        return bool(running)

    def gone(self) -> bool:
        """Whether a server was started here, and has ended without `down`; then it is forgotten."""
        if not self._ours() or "server" in self.running():
            return False
        self.settings.unlink()
        return True

    def running(self) -> dict[str, psutil.Process]:
        """The recorded processes that still run: a process id alone may be another's by now."""
        found = {}
        for name, (pid, arguments) in self._recorded().get("processes", {}).items():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                process = psutil.Process(pid)
                # not its start, which psutil tells differently once the clock was set; and not
                # its words alone, which are those of another checkout's worker too
                here = Path(process.cwd()).samefile(self.top)
                if here and process.cmdline()[1:] == arguments:
                    found[name] = process
        return found

    def _recorded(self) -> dict[str, Any]:
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}

    def _ours(self) -> bool:
        return self.settings.exists() and self.settings.read_text(encoding="utf-8").startswith(MARK)

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "DO_NOT_TRACK": "true",
            # a page of another origin, open in a browser on this machine, may ask for nothing
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.address,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
            **no_proxy(),
        }

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _spawn(self, name: str, *command: str) -> None:
        print(f"starting the {name}, its log in {self._log(name).relative_to(self.top)}")
        arguments = ["-m", "prefect", *command]
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.top,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # for a moment the kernel shows a process that is being started without its arguments
        with suppress(psutil.NoSuchProcess):
            while process.poll() is None and not psutil.Process(process.pid).cmdline():
                time.sleep(0.01)
        known = self._recorded().get("processes", {})
        known[name] = (process.pid, arguments)
        whole = self.record.with_suffix(".new")
        whole.write_text(json.dumps({"port": self.port, "processes": known}), encoding="utf-8")
        whole.rename(self.record)

    def _wait(self, name: str, answers: Callable[[], bool], seconds: int = 180) -> None:
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
        last = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise LocalError("\n".join([f"the {name} {why}; its last lines:", *last]))

    def _get(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.address}/api/{path}", timeout=5) as answer:
            return json.load(answer)

    def _deploy(self) -> None:
        for delay in (1, 2, 4, 8, 0):
            done = subprocess.run(
                [sys.executable, "-m", "pipelines.deployments", "--pool", POOL],
                cwd=self.top,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
            said = (done.stdout + done.stderr).strip()
            if done.returncode == 0 or not PASSING.search(said):
                break
            time.sleep(delay)
        if done.returncode:
            raise LocalError(f"the recipes were not deployed:\n{said}")


def refuse_taken(port: int, other: str) -> None:
    """Raise LocalError if a port cannot be had; `other` is the command that takes another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            said = f"port {port} is for the system; take one from 1024 on"
        except OSError:
            said = f"port {port} is taken by another program; stop it or take another: {other}"
        else:
            return
    raise LocalError(said)


def _each(processes: Iterable[psutil.Process], action: Callable[[psutil.Process], object]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            action(process)


def no_proxy() -> dict[str, str]:
    """Variables that keep a proxy from between this machine and itself, where one is set."""
    if not urllib.request.getproxies() or all(map(urllib.request.proxy_bypass, LOOPBACK)):
        return {}
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    hosts = ",".join([*([others] if others else []), *LOOPBACK])
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def port_number(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")


def main() -> None:
    parser = argparse.ArgumentParser(description="A Prefect server and a worker, here.")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument(
        "--port", type=port_number, default=4200, help="of the server (default: 4200)"
    )
    args = parser.parse_args()
    with one_line("deploy"):
        local = Local(root(), args.port)
        if args.action == "down":
            print("stopped" if local.down() else "nothing to stop: `make deploy` started nothing")
            return
        local.up()
    default = deployment(name_of(local.top))
    direct = f" && export NO_PROXY={hosts}" if (hosts := no_proxy().get("NO_PROXY")) else ""
    if os.environ.get("PREFECT_API_URL") not in (None, "", f"{local.address}/api"):
        direct += " && unset PREFECT_API_URL"  # else it would be asked, whatever prefect.toml says
    print(
        f"up: {local.address}\n"
        f"run a recipe:  prefect deployment run 'pipeline/{default}' --watch\n"
        f"               (after `source .venv/bin/activate{direct}`)\n"
        "stop:          make undeploy"
    )


if __name__ == "__main__":
    main()
