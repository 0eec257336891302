"""Where a training comes from: its commit, its versions, its process."""

import importlib.metadata
import logging
import os
import platform
import socket
import subprocess

import psutil

log = logging.getLogger(__name__)

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
    """The commit that holds the code, and whether files differ from it; why there is none, if so.

    `dvc.lock` always differs while DVC is at work.
    """
    # git reads nothing in a checkout of another user's, as in a container, unless it is told to:
    # whoever runs the code that lies there has trusted it already
    git = ["git", "-c", "safe.directory=*"]
    # the second name: a repository around this folder that does not hold it has a HEAD as well
    held = [*git, "rev-parse", "HEAD", "HEAD:./nanogpt/__init__.py"]
    try:
        head = subprocess.run(held, capture_output=True, encoding="utf-8", errors="replace")
        fault = head.stderr.partition("\n")[0] if head.returncode else ""
    except FileNotFoundError:
        fault = "there is no program git"
    if fault:
        log.warning("the record of this training names no commit with its code: %s", fault)
        return {"git.missing": fault}
    paths = (":(top)", ":(top,exclude)*dvc.lock")
    differs = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *paths]).returncode != 0
    commit = head.stdout.partition("\n")[0]
    return {"mlflow.source.git.commit": commit, "git.dirty": str(differs).lower()}
