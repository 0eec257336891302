"""Where a training comes from: its commit, its versions, its process."""

import importlib.metadata
import os
import platform
import socket
import subprocess

import psutil

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
