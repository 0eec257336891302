"""What a measurement was of: the processor, and the commit of a checkout. No path, no name."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def versions() -> str:
    return f"Python {platform.python_version()}, torch {version('torch')}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in known.items()}
    name = facts.get("model name", platform.machine())
    return name + (" with avx512_bf16" if "avx512_bf16" in facts.get("flags", "") else "")


def commit(folder: Path) -> str:
    command = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
