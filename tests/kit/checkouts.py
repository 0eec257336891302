"""A checkout of this project with quick recipes, in which DVC's own commands run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.kit.recipes import QUICK, ROOT, texts, values

SCRIPTS = Path(sys.executable).parent
OTHER = "pipelines/other"
# a quick training of a few steps: what is tested is which code runs, and when
FEW = QUICK | {"train__steps": 2, "train__decay_steps": 1, "train__eval_interval": 2}


def make_checkout(folder: Path, **changes: Any) -> Path:
    """The code as it is here, committed, with a recipe at the root and one in a folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nanogpt", folder / "nanogpt", ignore=ignored)
    (folder / "pipelines").mkdir()
    for file in (*(ROOT / "pipelines").glob("*.py"), ROOT / "Makefile"):
        shutil.copy(file, folder / file.relative_to(ROOT))
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    for name in (".dvcignore", ".gitignore", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / OTHER).mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder / OTHER)
    texts(folder / "text")
    own = {"data": "data/test", "download__corpus": "text/*.txt"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values(**FEW | own | changes)))
    own |= {"root": "../..", "params": f"{OTHER}/params.yaml", "data": "data/other", "seed": 2}
    (folder / OTHER / "params.yaml").write_text(yaml.safe_dump(values(**FEW | own | changes)))
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", *person, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")


def run(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command of the environment as if it were active; returns all that it printed."""
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        words,
        cwd=folder,
        env=known | {"PATH": f"{SCRIPTS}{os.pathsep}{known['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def mark(folder: Path, word: str) -> None:
    """Have the first stage of this checkout's code say a word."""
    file = folder / "nanogpt" / "stages" / "download.py"
    line = "def main(settings: Settings) -> None:\n"
    text = file.read_text()
    start = text.index(line) + len(line)
    rest = text[start:]
    if rest.startswith("    print('code of"):
        rest = rest.partition("\n")[2]
    file.write_text(f"{text[:start]}    print('code of {word}', flush=True)\n{rest}")
