"""Small real recipes for the tests: settings with changes, and stages run as a user would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nanogpt.settings import Settings, load, parse

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str]]  # a command's words → its exit code and what it says

# a model that trains in a second
QUICK = {
    "tokenize__tokenizer": "char",  # of any text, however short
    "tokenize__vocab_size": None,
    "model__n_layer": 2,
    "model__n_embd": 32,
    "model__n_inner": 64,
    "model__context": 16,
    "train__steps": 12,
    "train__batch_size": 8,
    "train__decay_steps": 6,
    "train__eval_interval": 6,
    "train__log_interval": 1,
    "sample__prompt": "",  # which no corpus lacks
    "sample__tokens": 20,
    "sample__samples": 2,
    "machine__device": "cpu",
    "machine__dtype": "float32",
    "machine__threads": 1,
}


def values(**changes: Any) -> dict[str, Any]:
    """The default recipe's values with some changed; `a__b` is the key b of section a."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    for path, value in changes.items():
        *sections, key = path.split("__")
        target = settings
        for section in sections:
            target = target[section]
        target[key] = value
    return settings


def quick(**changes: Any) -> Settings:
    """Settings of a small model, with changes."""
    return parse(values(**(QUICK | changes)))


def texts(folder: Path) -> None:
    """Fill `folder` with code of this repository, a file a document, in Latin letters alone."""
    folder.mkdir()
    for file in (*(ROOT / "nanogpt").glob("*.py"), *(ROOT / "pipelines").glob("*.py")):
        text = file.read_text(encoding="utf-8").encode("latin-1", "replace").decode("latin-1")
        (folder / f"{file.parent.name}_{file.stem}.txt").write_text(text, encoding="utf-8")


class Recipe:
    """A checkout with one recipe, at its root, whose stages run as processes of their own."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.data = folder / "data" / "test"
        folder.mkdir(exist_ok=True)
        (folder / ".dvc").mkdir(exist_ok=True)
        if not (folder / "nanogpt").is_symlink():
            (folder / "nanogpt").symlink_to(ROOT / "nanogpt")
        self.change(**changes)

    def change(self, **changes: Any) -> None:
        """Write params.yaml: the quick recipe with these changes."""
        settings = values(**({"data": "data/test"} | QUICK | changes))
        (self.folder / "params.yaml").write_text(yaml.safe_dump(settings))
        self.settings = load(self.folder / "params.yaml")

    def command(self, stage: str) -> list[str]:
        """The command of a stage, as in dvc.yaml."""
        return [sys.executable, "-m", f"nanogpt.stages.{stage}", "params.yaml"]

    def start(self, command: list[str]) -> "subprocess.Popen[str]":
        """Start a command here, in a process group of its own."""
        tracking = f"sqlite:///{self.folder}/mlflow.db"
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": tracking},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, stage: str, code: int = 0) -> str:
        """Run a stage to its end, which must have this exit code; returns what it printed."""
        process = self.start(self.command(stage))
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == code, printed
        assert "Traceback" not in printed, printed
        return printed


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
