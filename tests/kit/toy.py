"""Small repositories for tests of what runs around the stages.

`make_toy`: a recipe of two stages that write a word each. `make_project`: this project's graph and
recipes, to be looked at or to be run with a copy of the code.
"""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]

# `first` starts as our stages do; `second` has a shell above it, as a stage of a person's own may
TOY = """
stages:
  second:
    cmd: python second.py
    deps: [first.txt]
    params: [word]
    outs: [second.txt]
  first:
    cmd: exec python first.py
    deps: [first.py]
    outs: [first.txt]
    meta: {retries: 2, backoff: 0.1}
"""
WRITE = "from pathlib import Path\nPath('{0}.txt').write_text('{0}')\n"

# a first stage that takes a minute, with a child process; it writes down how it ends
SLOW = """
import os, subprocess, sys, time
from pathlib import Path
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, __file__, "child"])
try:
    if len(sys.argv) > 1:
        Path("pids.new").write_text(f"{os.getppid()} {os.getpid()}")
        os.rename("pids.new", "pids")
    for _ in range(600):
        print("at work", flush=True)
        time.sleep(0.1)
except KeyboardInterrupt:
    Path("interrupted" + "".join(sys.argv[1:])).touch()
"""


def make_toy(folder: Path) -> None:
    """Make `folder` a DVC repository with the toy recipe at its root."""
    make_repository(folder)
    (folder / "dvc.yaml").write_text(TOY)
    (folder / "params.yaml").write_text("word: to be\n")
    for name in ("first", "second"):
        (folder / f"{name}.py").write_text(WRITE.format(name))


def make_project(folder: Path, *recipes: str) -> None:
    """Make `folder` a DVC repository with our default recipe and others, none of which has run."""
    make_repository(folder)
    for recipe in (".", *recipes):
        (folder / recipe).mkdir(parents=True, exist_ok=True)
        for file in ("dvc.yaml", "params.yaml"):
            shutil.copy(PROJECT / recipe / file, folder / recipe)


def make_repository(folder: Path) -> None:
    """Make `folder` a repository of git and DVC, with our options and nothing in it."""
    subprocess.run(["git", "init", "--quiet"], check=True, cwd=folder)
    (folder / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", folder / ".dvc")


def eventually(look: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """What `look` returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found
