"""`make run` and `make join`: what they start is told to stop, and what they made is recorded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from nanogpt.common import states
from tests.kit.checkouts import SCRIPTS, make_checkout, run
from tests.kit.recipes import ROOT
from tests.kit.toy import eventually, make_toy

# a stage that needs a moment to save
SAVES = """
import os, signal, sys, time
from pathlib import Path
told = []
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: told.append(number))
Path("pid.new").write_text(str(os.getpid()))
os.rename("pid.new", "pid")
while not told:
    time.sleep(0.05)
time.sleep(1.5)
Path("saved").touch()
sys.exit(128 + told[0])
"""

HERE = {"PYTHONPATH": str(ROOT)}


def start(folder: Path, action: str) -> "subprocess.Popen[str]":
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    known = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", action, "--", "."],
        cwd=folder,
        env=known | {"PATH": path} | (HERE if action == "repro" else {"PYTHONPATH": ""}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("action", ["repro", "join"])
def test_a_wrong_folder_is_told_which_recipes_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    make_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "pipelines.run", action, "--", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | HERE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{action}: nowhere is not the folder of a recipe")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("becomes_the_command", [True, False])
def test_a_signal_reaches_the_stage_and_is_seen_after_it_has_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    becomes_the_command: bool,
) -> None:
    make_toy(tmp_path)
    (tmp_path / "first.py").write_text(SAVES)
    shell = tmp_path / "a.sh"  # of Debian's two, bash becomes its command, and dash waits for it
    start_it = "exec sh" if becomes_the_command else "sh"
    shell.write_text(f'#!/bin/sh\n{start_it} "$@"\nexit $?\n')
    shell.chmod(0o755)
    monkeypatch.setenv("SHELL", str(shell))
    process = start(tmp_path, "repro")
    eventually((tmp_path / "pid").exists, "a stage's start")
    process.send_signal(number)  # to it alone
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "saved").exists()
    assert "Traceback" not in said
    assert "Running stage 'second'" not in said
    assert json.loads((tmp_path / ".dvc" / "tmp" / "rwlock").read_text()) == {}


@pytest.mark.parametrize("told", ["all by Ctrl-C", "make", "what make runs"])
def test_below_make_one_line_says_it_and_its_caller_sees_the_signal(
    tmp_path: Path, told: str
) -> None:
    make_toy(tmp_path)
    says = SAVES.replace("signal.SIGHUP", "signal.SIGINT").replace(
        'Path("saved").touch()', "print('first: stopped', flush=True)"
    )
    (tmp_path / "first.py").write_text(says)
    (tmp_path / "Makefile").write_text("run:\n\t@exec python -m pipelines.run repro -- .\n")
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    make = subprocess.Popen(
        ["make", "run"],
        cwd=tmp_path,
        env=os.environ | HERE | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    eventually((tmp_path / "pid").exists, "a stage's start")
    if told == "all by Ctrl-C":
        os.killpg(make.pid, signal.SIGINT)
    else:
        (command,) = psutil.Process(make.pid).children()
        os.kill(make.pid if told == "make" else command.pid, signal.SIGTERM)
    said, _ = make.communicate(timeout=60)
    assert make.returncode == -(signal.SIGINT if told == "all by Ctrl-C" else signal.SIGTERM)
    assert said.partition("> exec python first.py\n")[2] == "first: stopped\n"


def test_a_stage_that_fails_has_the_last_word(tmp_path: Path) -> None:
    make_toy(tmp_path)
    (tmp_path / "first.py").write_text("import sys; print('first: no'); sys.exit(75)")
    process = start(tmp_path, "repro")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.endswith("> exec python first.py\nfirst: no\n")
    (tmp_path / "first.py").write_text("import os; os.kill(os.getpid(), 9)")
    process = start(tmp_path, "repro")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 137
    assert "failed to reproduce 'first'" in said


def test_what_a_signal_left_half_written_of_dvcs_locks_is_mended(tmp_path: Path) -> None:
    make_toy(tmp_path)
    locks = tmp_path / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir()
    locks.write_text('{"write": {"first')
    process = start(tmp_path, "repro")
    said, _ = process.communicate(timeout=60)
    assert "corrupted" not in said
    assert (tmp_path / "second.txt").exists()
    assert json.loads(locks.read_text()) == {}


def test_ctrl_c_waits_for_what_has_to_save_and_starts_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(SAVES.replace("signal.SIGHUP", "signal.SIGINT"))
    two = (
        "from pipelines.run import telling_on, wait_for\n"
        "with telling_on():\n    for _ in range(2):\n        wait_for('first.py')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", two]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        eventually((tmp_path / "pid").exists, "the first one's start")
        first = (tmp_path / "pid").read_text()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b""
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "pid").read_text() == first


@pytest.mark.slow
def test_join_tells_dvc_what_it_made(tmp_path: Path, empty_database: Path) -> None:
    folder = make_checkout(tmp_path / "checkout")
    shutil.copy(empty_database, folder)
    run(folder, "dvc", "repro", "tokenize")

    process = start(folder, "join")
    eventually(lambda: list(folder.glob("data/test/state/*/run.json")), "a training")
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("seed: 1337", "seed: 7"))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("join: params.yaml was changed during the training")
    (folder / "params.yaml").write_text(params)

    process = start(folder, "join")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "publishing it again" in said
    outs = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]["train"]["outs"]
    made = {out["path"]: out["md5"] for out in outs}
    assert set(made) == {f"data/test/{name}" for name in ("curves", "model", "train.json")}
    # an experiment of another recipe checks out all of them by force
    run(folder, "dvc", "checkout", "--force", "--allow-missing")
    assert {name: states.dvc_md5(folder / name) for name in made} == made
    assert "Running stage 'train'" not in run(folder, "dvc", "repro", "eval")
    assert not list(folder.glob("data/test/state/*"))
