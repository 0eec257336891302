"""`nanogpt ui`: MLflow's own page of the root's database, on this machine alone."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nanogpt.tracking.run import experiment
from tests.kit.recipes import Recipe, Run
from tests.kit.trainings import client


def get(port: int, path: str) -> str:
    # no proxy stands between this machine and itself
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.slow
def test_the_page_is_of_the_roots_database(tmp_path: Path, empty_database: Path) -> None:
    recipe = Recipe(tmp_path / "a place")
    (recipe.folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    below = recipe.folder / "pipelines" / "mine"
    below.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "0"}
    # the code of the folder, though another's is installed
    script = Path(sys.executable).with_name("nanogpt")
    process = subprocess.Popen(
        [script, "ui", "--port", str(port)],
        cwd=below,
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            assert process.poll() is None
            with suppress(OSError):
                if get(port, "health") == "OK":
                    break
            time.sleep(0.2)
        assert "<html" in get(port, "")
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        addresses = {
            c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}
        assert not any("mlflow.db" in word for word in family[0].cmdline()), "it may be a secret"
        assert not list(below.iterdir())
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_of_a_server_its_address_is_said(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:1")
    code, said = run("ui")
    assert code == 0
    assert said.endswith("http://127.0.0.1:1/#/experiments?workflowType=machine_learning")


def test_links_are_those_of_the_recipes(root: Path, run: Run) -> None:
    for name in ("plays", "poems"):
        experiment(client(), name)
    client().create_experiment("of another project")
    code, said = run("ui", "--links", "--port", 5001)
    assert code == 0
    home, *recipes = [line.split("\t") for line in said.splitlines()]
    assert home == [
        "all recipes",
        "http://127.0.0.1:5001/#/experiments?workflowType=machine_learning",
    ]
    assert {what for what, _ in recipes} == {"runs of plays", "runs of poems"}
    assert all("workflowType=machine_learning" in address for _, address in recipes)


def test_a_taken_port_is_one_message(root: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run("ui", "--port", port)
    assert code == 2
    assert said.startswith(f"ui: --port {port} cannot be had (")
