"""Nothing that is typed in the environment reports to anyone, with make or without."""

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.checkouts import SCRIPTS
from tests.kit.recipes import ROOT
from tests.kit.toy import make_project

MADE = Path(sysconfig.get_path("purelib"), "silence.pth")
# what would silence a tool by itself: this suite's own, make's, and a CI's
LOUD = re.compile(
    "DO_NOT_TRACK|DVC_NO_ANALYTICS|MLFLOW_|PREFECT_|HF_|PYTEST_|PYTHONPATH|CI$|.*_proxy", re.I
)
# notes each host that a process of Python asks for, and lets it reach none
RECORDER = """
import ipaddress, os, sys

def record(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or "localhost"
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        here = address.is_loopback or address.is_unspecified
    except ValueError:
        here = False
    if not here:
        with open(os.environ["RECORD"], "a") as file:
            print(host, *sys.argv[:3], file=file)
        raise OSError("no network in this test")

sys.addaudithook(record)
"""


class Typed:
    """Commands as a person types them in the activated environment, with a new home."""

    def __init__(self, folder: Path) -> None:
        (folder / "recorder").mkdir()
        (folder / "recorder" / "sitecustomize.py").write_text(RECORDER)
        self.record = folder / "asked"
        kept = {k: v for k, v in os.environ.items() if not LOUD.match(k)}
        self.environment = kept | {
            "PATH": f"{SCRIPTS}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": str(folder / "recorder"),
            "RECORD": str(self.record),
            "HOME": str(folder / "home"),
        }
        (folder / "home").mkdir()

    def run(self, *words: str, folder: str = ".") -> None:
        # on a terminal: some report there alone
        terminal = [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"]
        done = subprocess.run(
            [*terminal, *words],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout

    @contextmanager
    def server(self, *words: str, page: str) -> Iterator[str]:
        """A server that answers at `page`, to which `{port}` is given; its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = Path("server.log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*words, "--port", str(port)],
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                with suppress(OSError):
                    opener.open(f"http://127.0.0.1:{port}/{page}", timeout=5).close()
                    break
                time.sleep(0.2)
            else:
                raise AssertionError(log.read_text())
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)

    def asked(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """In a repository with two recipes."""
    here = tmp_path / "here"
    here.mkdir()
    make_project(here, "pipelines/baseline")
    shutil.copy(ROOT / "pyproject.toml", here)
    monkeypatch.chdir(here)
    return Typed(tmp_path)


def test_make_put_it_into_this_environment() -> None:
    said = re.search(r"define SILENCE\n(.*\n)endef", (ROOT / "Makefile").read_text())
    assert said
    assert MADE.exists(), f"{MADE} is missing: `make` writes it"
    assert MADE.read_text() == said[1]


def test_the_recorder_hears(typed: Typed) -> None:
    code = "import socket\ntry: socket.create_connection(('example.org', 80), 1)\nexcept OSError: 0"
    typed.run("python", "-c", code)
    assert [line.split()[0] for line in typed.asked()] == ["example.org"]


@pytest.mark.slow
def test_commands_of_the_tools_ask_for_nobody(typed: Typed) -> None:
    for folder in (".", "pipelines/baseline"):
        typed.run("dvc", "stage", "list", folder=folder)
        typed.run("prefect", "version", folder=folder)
        typed.run("prefect", "config", "view", folder=folder)
    run = "import mlflow\nmlflow.set_tracking_uri('sqlite:///a.db')\nwith mlflow.start_run(): pass"
    typed.run("python", "-c", run)
    assert typed.asked() == []


@pytest.mark.slow
def test_the_page_of_mlflow_asks_for_nobody(typed: Typed) -> None:
    with typed.server("mlflow", "ui", page="health") as address:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/ajax-api/3.0/mlflow/ui-telemetry") as answer:
            assert b'"disable_ui_telemetry":true' in answer.read().replace(b" ", b"")
    assert typed.asked() == []


@pytest.mark.slow
@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("folder", [".", "pipelines/baseline"])
def test_prefects_server_asks_for_nobody(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, deployed: bool, folder: str
) -> None:
    if deployed:
        Path("prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:9/api"\n')
    monkeypatch.chdir(folder)
    with typed.server("prefect", "server", "start", page="api/health"):
        time.sleep(3)  # its services start when it answers
    assert typed.asked() == []
