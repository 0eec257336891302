"""`make deploy` and `make undeploy`: what they start is found, used and stopped; no more."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from pipelines.local import HOST, MARK, Local, LocalError
from tests.kit.toy import PROJECT, SLOW, eventually, make_toy


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[Local]:
    """The toy recipe in a repository with this project's flow."""
    make_toy(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(f"# A toy\n# of words\ndata: data/toy\n{params.read_text()}")
    (tmp_path / "pipelines").mkdir()
    shutil.copy(PROJECT / "pipelines" / "flows.py", tmp_path / "pipelines")
    monkeypatch.chdir(tmp_path)
    # what the user has set up elsewhere plays no part
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    local = Local(tmp_path, port)
    yield local
    local.down()


def say(*command: str, code: int = 0) -> str:
    """What a `python -m` command prints that is typed at the repository's root."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def record(local: Local, **processes: int) -> None:
    """Write down process ids as those of the server and the worker."""
    arguments = {name: ["-m", "prefect", name, "start"] for name in processes}
    known = {name: (pid, arguments[name]) for name, pid in processes.items()}
    local.home.mkdir(exist_ok=True)
    local.record.write_text(json.dumps({"port": local.port, "processes": known}))


@pytest.mark.slow
def test_deploy_run_undeploy(local: Local) -> None:
    up = ("pipelines.local", "up", f"--port={local.port}")
    record(local, server=os.getpid(), worker=2**22)  # of before a reboot: another's, and nobody's
    assert "prefect deployment run 'pipeline/toy'" in say(*up)
    said = say("prefect", "deployment", "run", "pipeline/toy", "--param", "recipe=tay", code=1)
    assert "'tay' is not one of ['toy']" in said
    say("prefect", "deployment", "schedule", "create", "pipeline/toy", "--cron=0 3 * * *")
    planned = ("prefect", "flow-run", "ls", "--state=Scheduled", "--output=json")
    eventually(lambda: "auto-scheduled" in say(*planned), "a run at three")
    assert "Completed" in say("prefect", "deployment", "run", "pipeline/toy", "--watch")
    assert Path("second.txt").read_text() == "second"

    before = {process.pid for process in local.running().values()}
    assert "up already" in say(*up)
    shown = say("prefect", "deployment", "inspect", "pipeline/toy")
    assert "0 3 * * *" in shown, "a schedule stays"
    assert "A toy" in shown
    for origin, allowed in ((local.address, True), ("http://elsewhere:80", False)):
        asked = requests.post(
            f"{local.address}/api/flows/filter", json={}, headers={"Origin": origin}, timeout=30
        )
        assert asked.status_code == 403  # the page brings a token, which it may read
        shown = requests.get(f"{local.address}/api/health", headers={"Origin": origin}, timeout=30)
        assert ("Access-Control-Allow-Origin" in shown.headers) is allowed
    assert {process.pid for process in local.running().values()} == before

    Path("first.py").write_text(SLOW)
    say("prefect", "deployment", "run", "pipeline/toy")
    pids = eventually(lambda: Path("pids").exists() and Path("pids").read_text(), "a stage's start")
    stage = [psutil.Process(int(pid)) for pid in pids.split()]
    started = [
        child for process in local.running().values() for child in process.children(recursive=True)
    ]
    assert {process.pid for process in stage} <= {process.pid for process in started}
    assert "stopped" in say("pipelines.local", "down")
    assert not any(process.is_running() for process in [*stage, *started])
    assert Path("interrupted").exists()
    assert "Crashed" in Path(".prefect/worker.log").read_text()
    assert not Path("prefect.toml").exists()
    assert "nothing to stop" in say("pipelines.local", "down")


def test_a_taken_port_is_one_message(local: Local) -> None:
    message = f"port {local.port} is taken .* PORT="
    with socket.create_server((HOST, local.port)), pytest.raises(LocalError, match=message):
        local.up()
    assert not local.running()


def test_a_server_that_dies_shows_its_last_lines(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "nonsense")
    message = say("pipelines.local", "up", f"--port={local.port}", code=2)
    assert "the server stopped at once; its last lines:" in message
    assert "Could not parse SQLAlchemy URL" in message
    assert not local.running()
    assert not Path("prefect.toml").exists()


def test_only_what_was_started_is_stopped(local: Local) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        record(local, server=other.pid, worker=1)
        Path("prefect.toml").write_text("# mine\n")
        assert not local.down()
        assert other.poll() is None
        assert Path("prefect.toml").read_text() == "# mine\n"
        other.communicate(b"\n")


def test_a_server_that_died_is_forgotten(local: Local) -> None:
    assert not local.gone()
    local.settings.write_text("# mine\n")
    assert not local.gone()
    local.settings.write_text(MARK)
    record(local, server=2**22)
    assert local.gone()  # else every `prefect` command here would ask it
    assert not local.settings.exists()


def test_what_was_started_is_known_again(
    local: Local, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "prefect", "server", "start"]  # neither prefect nor a server
    Path("prefect.py").write_text("print(flush=True); input()")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # until then the kernel may show it without its arguments
        record(local, server=process.pid)
        with monkeypatch.context() as patch:  # a clock that was set, as psutil shows it
            patch.setattr(psutil.Process, "create_time", lambda _: 0.0)
            assert local.running()["server"].pid == process.pid
        other = Local(tmp_path / "another checkout", local.port)
        other.top.mkdir()
        record(other, server=process.pid)  # of before a reboot: the id is that of ours by now
        assert not other.running()
        process.communicate(b"\n")
        assert not local.running()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused(local: Local, port: str) -> None:
    message = say("pipelines.local", "up", f"--port={port}", code=2)
    assert f"{port!r} is not a number from 1 to 65535" in message


def test_a_proxy_is_not_asked_for_this_machine(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert "NO_PROXY" not in local._environment()
    monkeypatch.setenv("http_proxy", "http://proxy:8080")
    here = "127.0.0.1,localhost,::1"
    assert local._environment()["NO_PROXY"] == here
    monkeypatch.setenv("NO_PROXY", "intern")
    assert local._environment()["no_proxy"] == f"intern,{here}"
    monkeypatch.setenv("NO_PROXY", f"{here},intern")
    assert local._environment()["NO_PROXY"] == f"{here},intern"


def test_a_locked_database_is_tried_again(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    real = subprocess.run
    tries = []

    def locked_twice(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        tries.append(command)
        code = "raise SystemExit('database is locked')" if len(tries) < 3 else ""
        return real([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

    monkeypatch.setattr("subprocess.run", locked_twice)
    local._deploy()
    assert len(tries) == 3
