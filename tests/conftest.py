"""Every test runs offline, with two threads, and reports to nobody."""

import ipaddress
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import fake_hub
from tests.kit.recipes import Recipe, Run, texts

os.environ |= {
    # before torch is imported, here or in a child process: threads that wait for each other spin
    "OMP_NUM_THREADS": "1" if "PYTEST_XDIST_WORKER" in os.environ else "2",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def refuse_network(event: str, args: tuple[Any, ...]) -> None:
    # not an OSError: code that handles a network failure must not take this for one
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
        try:
            local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise RuntimeError(f"a test connects to {host}; mark it `network`, or serve it locally")


# what was typed for `make test` (VENV=…) is not for the `make` that a test runs
for name in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)

# started in the background or by nohup, this process and all that it starts ignore these
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if not os.environ.get("NANOGPT_TEST_NETWORK"):
    sys.addaudithook(refuse_network)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: it takes MLflow two seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A recipe's folder after download and tokenize: the library's own text, a file a document."""
    recipe = Recipe(tmp_path_factory.mktemp("tokenized"), download__corpus="text/*.txt")
    shutil.copy(empty_database, recipe.folder / "mlflow.db")
    texts(recipe.folder / "text")
    recipe.run("download")
    recipe.run("tokenize")
    return recipe.folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A repository with an empty MLflow; the current folder, with a space in its path."""
    folder = tmp_path / "my repository"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories of the fake hub, to be copied."""
    root = tmp_path_factory.mktemp("checkpoints")
    fake_hub.make_checkpoints(root)
    return root


@pytest.fixture
def hub(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fake_hub.FakeHub]:
    """A hub, the user's cache of it empty; the current folder is empty too."""
    shutil.copytree(checkpoints, tmp_path / "root")
    with fake_hub.used(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `nanogpt`; returns its exit code and what it says, errors or not."""
    from nanogpt.commands import __main__ as command

    def run(*arguments: object) -> tuple[int, str]:
        # the folder of a test is no checkout
        monkeypatch.setattr(command, "checkout", lambda: command.CODE)
        monkeypatch.setattr(sys, "argv", ["nanogpt", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        said = capsys.readouterr()
        code: Any = ended.value.code or 0
        return code, (said.err if code else said.out).strip()

    return run
