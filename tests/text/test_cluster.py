"""Dask's workers make the tokens that are made here; a cluster that is not there is told."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import KilledWorker
from distributed.scheduler import NoWorkerError

from nanogpt.common.errors import NotNow, UserError
from nanogpt.text.writer import tokenize
from nanogpt.text.writing import chunks, cluster
from nanogpt.text.writing.cluster import executor
from tests.kit.recipes import ROOT
from tests.text.test_documents import settings
from tests.text.test_tokens import contents, many


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each a process of its own."""
    folder = tmp_path_factory.mktemp("dask")
    with ExitStack() as stack:

        def start(*command: str) -> None:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        file = folder / "scheduler.json"
        common = ("--no-dashboard", "--scheduler-file", str(file))
        start("scheduler", "--host", "127.0.0.1", "--port", "0", *common)
        for _ in range(2):
            start(
                "worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder), *common
            )
        from distributed import Client

        while not file.exists():
            time.sleep(0.1)
        with Client(scheduler_file=str(file), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address.replace("tcp://", "dask://")


def test_dasks_workers_make_the_same_tokens(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = many(tmp_path)
    tokenize(raw, tmp_path / "alone", settings())
    monkeypatch.setattr(chunks, "CHUNK", 300)
    with executor(scheduler, raw) as work:
        assert work
        tokenize(raw, tmp_path / "dask", settings(), work)
    assert contents(tmp_path / "dask") == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (CancelledError(), NotNow, "does not answer any more"),  # the scheduler is lost
        (NoWorkerError("read", 5.0), NotNow, "no worker is left"),
        (
            KilledWorker("read", SimpleNamespace(address="tcp://one"), 3),
            OSError,
            "workers were killed",
        ),
    ],
)
def test_a_cluster_that_ends_in_the_middle_is_told(
    tmp_path: Path, scheduler: str, error: Exception, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says), executor(scheduler, many(tmp_path)):
        raise error


def test_workers_with_other_code_are_refused(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "code_digest", lambda: "another")
    message = "runs other code"
    with pytest.raises(UserError, match=message), executor(scheduler, many(tmp_path)):
        pass


def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS", 1)
    message = r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 within"
    with pytest.raises(UserError, match=message), executor("dask://127.0.0.1:1", tmp_path):
        pass
