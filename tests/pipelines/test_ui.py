"""`make ui`: both pages at once, until a signal; what was up before stays."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.local import HOST, Local
from tests.kit.recipes import ROOT
from tests.kit.toy import PROJECT, make_toy

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two that nobody listens at."""
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
        found = one.getsockname()[1], other.getsockname()[1]
    return found


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Start:
    """Start the pages of a toy repository on two ports."""
    make_toy(tmp_path)
    (tmp_path / "params.yaml").write_text("data: data/toy\nword: to be\n")
    (tmp_path / "nanogpt").symlink_to(ROOT / "nanogpt")
    (tmp_path / "pipelines").mkdir()
    shutil.copy(PROJECT / "pipelines" / "flows.py", tmp_path / "pipelines")
    shutil.copy(empty_database, tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, module: str = "ui") -> "subprocess.Popen[str]":
        own = {"MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
        own["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "0"
        code = f"from pipelines.{module} import main; main()"  # not the toy's pipelines/
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, *words],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return run


def given(ports: tuple[int, int]) -> list[str]:
    return [f"--port={ports[0]}", f"--prefect-port={ports[1]}"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_taken_port_is_said_before_anything_starts(
    start: Start, ports: tuple[int, int], which: int
) -> None:
    with socket.create_server((HOST, ports[which])):
        process = start(*given(ports))
        said, _ = process.communicate(timeout=60)
    name = ("PORT", "PREFECT_PORT")[which]
    assert process.returncode == 2
    assert said == (
        f"ui: port {ports[which]} is taken by another program; stop it or take another:"
        f" make ui {name}={ports[which] + 1}\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "was_up"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_stops_all_that_was_started(
    start: Start, ports: tuple[int, int], tmp_path: Path, number: signal.Signals, was_up: bool
) -> None:
    if was_up:
        up = start("up", f"--port={ports[1]}", module="local")
        up.communicate(timeout=200)
        assert up.returncode == 0
    process = start(*given(ports))
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C stops"):
            break
    said = "".join(lines)
    assert f"http://127.0.0.1:{ports[0]}/#/experiments?workflowType=machine_learning" in said
    assert re.search(rf"^Prefect .* http://127.0.0.1:{ports[1]}/deployments$", said, re.MULTILINE)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for port, page in ((ports[0], "health"), (ports[1], "api/health")):
        opener.open(f"http://{HOST}:{port}/{page}", timeout=20).close()
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert said == "stopping what was started ... done\n"
    local = Local(tmp_path, ports[1])
    if was_up:
        assert len(local.running()) == 2
        local.down()
    psutil.wait_procs(family, timeout=20)
    assert not any(process.is_running() for process in family)
    assert not local.running()
    assert not (tmp_path / "prefect.toml").exists()
