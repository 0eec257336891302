"""Which process a training is of, who started it, and whether it lives."""

import hashlib
import importlib.metadata
import os
import platform
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

LIBRARIES = ("torch", "numpy", "mlflow")


def describe() -> dict[str, str]:
    """Tags of a run started by this process."""
    tags = {
        "host": socket.gethostname(),
        "mlflow.user": psutil.Process().username(),  # a number where it has no name
        **_process(os.getpid()),
        "mlflow.source.name": "nanogpt",
        "mlflow.source.type": "LOCAL",
        "version.python": platform.python_version(),
    }
    for library in LIBRARIES:
        tags[f"version.{library}"] = importlib.metadata.version(library)
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process that these tags describe is known to have ended.

    Of a process in another container or on another machine, which may have the same name, nothing
    is known from here.
    """
    theirs, ours = tags.get(PROCESS[1], "").split(), _processes().split()
    if theirs == ours:
        try:
            return _process(int(tags[PROCESS[0]])) != {key: tags[key] for key in PROCESS}
        except psutil.NoSuchProcess:
            return True
    # the machine was started again since; a container's processes may be on another one
    return len(theirs) == len(ours) == 3 and theirs[::2] == ours[::2] and ours[2] == OUTSIDE


PROCESS = ("nanogpt.pid", "nanogpt.processes", "nanogpt.process_started")
OUTSIDE = "pid:[4026531836]"  # of all containers: the kernel's first namespace has this number


def _process(pid: int) -> dict[str, str]:
    """What tells a process from all others, as tags: PROCESS.

    Raises:
        psutil.NoSuchProcess: it is not there.
    """
    try:  # in ticks since the machine was started: no clock that is set changes it
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        started = stat.rpartition(")")[2].split()[19]
    except FileNotFoundError:  # also where there is no /proc
        started = str(psutil.Process(pid).create_time())
    return dict(zip(PROCESS, (str(pid), _processes(), started), strict=True))


def _processes() -> str:
    """Among which processes an id is one's own: a machine, its last start, a container on it."""
    try:
        # systemd asks not to show it as it is
        machine = hashlib.sha256(Path("/etc/machine-id").read_bytes()).hexdigest()[:16]
    except OSError:
        machine = f"{uuid.getnode():x}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{machine} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return machine
