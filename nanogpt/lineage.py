"""Where a training comes from: its base, its commit, its versions, its process."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil

from nanogpt.errors import UserError

LIBRARIES = ("torch", "numpy", "mlflow")


def describe() -> dict[str, str]:
    """Tags of a run started by this process."""
    process = psutil.Process()
    tags = {
        "host": socket.gethostname(),
        "pid": str(process.pid),
        "process_started": str(process.create_time()),
        "mlflow.source.name": "nanogpt",
        "mlflow.source.type": "LOCAL",
        "version.python": platform.python_version(),
    }
    for library in LIBRARIES:
        tags[f"version.{library}"] = importlib.metadata.version(library)
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags | _commit()


def is_alive(pid: int, started: float) -> bool:
    """Whether the process of `describe` still runs: its id alone may be another's by now."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 2)
    except psutil.NoSuchProcess:
        return False


def open_base(folder: Path) -> dict[str, Any]:
    """The manifest of what the download stage made of `download.base`.

    Raises:
        UserError: it is not there, or damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the download stage") from None
    except ValueError:
        raise UserError(f"{path} is damaged; run the download stage again") from None
    return manifest


def _commit() -> dict[str, str]:
    """HEAD, and whether files differ from it; `dvc.lock` always does while DVC is at work."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    if head.returncode:
        return {}
    paths = (":(top)", ":(top,exclude)*dvc.lock")
    differs = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *paths]).returncode != 0
    return {"mlflow.source.git.commit": head.stdout.strip(), "git.dirty": str(differs).lower()}
