"""`make gpu`, on a machine without one: what is not run is told, and the checks themselves run."""

import json
import os
import platform
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.contact import __main__ as contact
from benchmarks.contact import lines
from benchmarks.contact.asked import Asked
from benchmarks.processes import run
from tests.kit.fake_nanogpt import make_peer
from tests.kit.recipes import ROOT

LINES = ["numbers", "speed", "repeats", "loss", "sizes", "types", "shards", "packed", "launches"]


def start(*words: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contact", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def results(folder: Path) -> dict[str, list[dict[str, str]]]:
    found = json.loads((folder / "gpu.json").read_text())
    return {name: line["checks"] for name, line in found.items()}


def test_without_a_gpu_nothing_is_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, said = start("--folder", tmp_path)
    assert code == 75
    assert said.count("not run: no GPU\n") == len(LINES)
    assert list(results(tmp_path)) == LINES
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"| {name} | all of it |  |  | not run: no GPU |\n" in page for name in LINES)


@pytest.mark.slow
def test_every_line_runs_in_small(tmp_path: Path) -> None:
    text, peer = tmp_path / "input.txt", tmp_path / "peer"
    files = sorted((ROOT / "nanogpt").glob("*.py"))
    text.write_text("".join(file.read_text().encode("ascii", "replace").decode() for file in files))
    make_peer(peer)
    _, said = start("--quick", "--folder", tmp_path, "--text", text, "--peer", peer)
    found = results(tmp_path)
    assert list(found) == LINES, said
    # of the figures of so little only these must be right: all that a CPU can tell
    for name in ("numbers", "repeats", "types", "shards", "packed"):
        assert {check["result"] for check in found[name]} == {"passed"}, found[name]
    for name in ("speed", "loss", "sizes", "launches"):
        assert all(check["what"] != "the rest of it" for check in found[name]), found[name]
    assert any("times" in check["found"] for check in found["speed"])
    assert any("50,257 entries" in check["what"] for check in found["speed"])
    assert "never in" in found["loss"][-1]["found"]


@pytest.mark.parametrize(
    ("code", "checks", "ended"),
    [
        ('print(\'{"result": "passed"}\'); 1 / 0', ["passed", "failed"], "ZeroDivisionError"),
        ('print(\'{"result": "passed"}\')\nwhile True: pass', ["passed", "failed"], "within"),
        ("import nowhere", ["not run: ModuleNotFoundError: No module named 'nowhere'"], ""),
        ("import os; os.kill(os.getpid(), 9)", ["failed"], "it ended with -9"),
    ],
)
def test_a_line_that_breaks_off_keeps_what_it_found(
    monkeypatch: pytest.MonkeyPatch, code: str, checks: list[str], ended: str
) -> None:
    popen = subprocess.Popen
    replaced = lambda words, **more: popen([sys.executable, "-uc", code], **more)  # noqa: E731
    monkeypatch.setattr(subprocess, "Popen", replaced)
    monkeypatch.setattr(contact, "LINES", {"numbers": (2 / 60, "")})
    args = Namespace(quick=True, text=None, peer=None)
    found = contact.run("numbers", args, seconds=60)
    assert [check["result"] for check in found] == checks
    assert ended in found[-1].get("found", "")


def test_a_line_that_MINUTES_cuts_short_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it said last is told: the page has one line of it."""
    popen = subprocess.Popen
    code = "import sys; print('loading', file=sys.stderr, flush=True)\nwhile True: pass"
    replaced = lambda words, **more: popen([sys.executable, "-uc", code], **more)  # noqa: E731
    monkeypatch.setattr(subprocess, "Popen", replaced)
    monkeypatch.setattr(contact, "LINES", {"numbers": (5 / 60, "")})
    (found,) = contact.run("numbers", Namespace(quick=True, text=None, peer=None), seconds=2)
    assert found["what"] == "the rest of it"
    assert found["result"].startswith("not run: it was not done within 2 s, all that was left of M")
    assert "loading" in capsys.readouterr().err


def test_packages_that_only_PYTHONPATH_names_are_there_for_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a network, to which they were carried in a folder."""
    (tmp_path / "carried.py").touch()
    popen, code = subprocess.Popen, 'import benchmarks, carried, json; print(\'{"result": "x"}\')'
    replaced = lambda words, **more: popen([sys.executable, "-c", code], **more)  # noqa: E731
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peer = run("-c", "import benchmarks, carried; print('peer')", cwd=tmp_path)
    assert peer.text == "peer\n"
    monkeypatch.setattr(subprocess, "Popen", replaced)
    (found,) = contact.run("numbers", Namespace(quick=True, text=None, peer=None), seconds=60)
    assert found == {"result": "x"}


def test_what_a_line_started_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """if True:
        import json, subprocess
        words, quiet = ["sleep", "600"], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        peer = subprocess.Popen(words, start_new_session=True, **quiet)
        print(json.dumps({"result": "figure", "found": peer.pid}))
        peer.wait()
    """
    popen = subprocess.Popen
    replaced = lambda words, **more: popen([sys.executable, "-uc", code], **more)  # noqa: E731
    monkeypatch.setattr(subprocess, "Popen", replaced)
    monkeypatch.setattr(contact, "LINES", {"speed": (3 / 60, "")})
    args = Namespace(quick=True, text=None, peer=None)
    peer, ended = contact.run("speed", args, seconds=60)
    assert "within" in ended["found"]
    for _ in range(50):  # the kernel takes a moment
        if not running(peer["found"]):
            break
        time.sleep(0.1)
    assert not running(peer["found"])


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_torch_looks_for_once_is_set_before_the_first_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the second training of the line is refused: it is to sum in order, the first is not."""
    found: list[str | None] = []

    def train(*_: object, **__: object) -> None:
        found.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        raise InterruptedError

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(lines, "train", train)
    with pytest.raises(InterruptedError):
        [*lines.speed(Asked("cpu", began=0, quick=True))]
    assert found == [":4096:8"]


def test_a_driver_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "ANSWER", 0.1)
    monkeypatch.setattr(contact, "ASK", "import time; time.sleep(60)")
    _, why = contact.here(Namespace(quick=False))
    assert why == "torch did not say within 0.1 s whether there is a GPU"


@pytest.mark.parametrize(
    ("python", "torch", "why"),
    [
        ("3.10.13", "2.12.0", "Python 3.10.13 is older than 3.11"),
        ("3.12.1", "2.10.0+cu130", "torch 2.10.0+cu130 is older than 2.11"),
        ("3.12.1", "2.11.0a0+git", ""),
    ],
)
def test_what_is_too_old_is_told(
    monkeypatch: pytest.MonkeyPatch, python: str, torch: str, why: str
) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: python)
    monkeypatch.setattr(contact, "ASK", f"print('{torch};NVIDIA H100')")
    assert contact.here(Namespace(quick=False))[1] == why


def test_a_line_for_which_no_time_is_left_is_not_run() -> None:
    (found,) = contact.run("speed", Namespace(), seconds=20)
    assert found["result"] == "not run: no time was left"


@pytest.mark.parametrize(
    ("results", "code"), [(["passed", "figure"], 0), (["not run: x"], 75), (["failed"], 1)]
)
def test_the_exit_code_is_that_of_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[str], code: int
) -> None:
    checks: list[dict[str, Any]] = [
        {"what": "w|x", "found": "", "wanted": "", "result": result} for result in results
    ]
    monkeypatch.setattr(contact, "here", lambda args: ("a GPU", ""))
    monkeypatch.setattr(contact, "run", lambda name, args, left: checks)
    args = Namespace(folder=tmp_path, minutes=1.0, quick=False)
    assert contact.contact(args, ["speed"]) == code
    page = (tmp_path / "gpu.md").read_text()
    assert f"| speed | w/x |  |  | {results[0]} |\n" in page
    assert (
        "| loss | `shakespeare_gpu` to nanoGPT's best loss |  |  | not run: not asked for |" in page
    )


def test_a_line_that_is_not_run_keeps_what_an_older_page_has_of_it() -> None:
    line = {"about": "today", "checks": [contact.not_run("no GPU")]}
    both = contact.render({"speed": line, "loss": line}, "")
    assert contact.render({"loss": line}, both) == both
    assert "- speed, GPT-2 124M at half a million tokens a step: today.\n" in both


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only=steps"], "gpu: ONLY: no line 'steps'; there are numbers, speed,"),
        (["--minutes=0"], "gpu: MINUTES: 0 are none"),
        (["--text=nowhere.txt"], "gpu: TEXT: there is no file nowhere.txt"),
        (["--peer=nowhere"], "gpu: PEER: there is no train.py in nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: list[str], says: str) -> None:
    code, said = start(*words)
    assert code == 2
    assert said.startswith(says)
    assert said.count("\n") == 1
