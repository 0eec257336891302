"""What decides the bytes of a training besides its code, settings and data: machine and packages.

found = look(world.facts() | {"parallel": "ddp"})
"""

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nanogpt.common.manifest import Manifest

# variables of the libraries that compute, by which they choose another way to do so
CHOOSING = re.compile("(MKL|OMP|KMP|GOMP|DNNL|ONEDNN|ATEN|CUBLAS|CUDNN|NVIDIA_TF32|TORCH_ALLOW)_")


class Machine(Manifest):
    """What computed, and how; `torch_build` is a digest of all that torch says of its build."""

    processor: str
    instruction_set: str  # that torch uses
    capabilities: tuple[str, ...]  # of the processor
    torch: str
    torch_build: str
    blas: str
    cuda: str | None
    device: str  # its kind: cpu, cuda, mps
    device_name: str | None  # of a GPU
    dtype: str
    threads: int
    processes: int  # on all machines
    compile: bool
    deterministic: bool
    parallel: str
    platform: str
    variables: dict[str, str]  # of the environment: CHOOSING


class Surroundings(Manifest):
    """A machine, and what is installed there."""

    machine: Machine
    packages: dict[str, str]  # versions by name
    python: str


def look(facts: Mapping[str, Any]) -> Surroundings:
    """This process's surroundings.

    Args:
        facts: `World.facts`, and `parallel`.
    """
    can = torch.cpu.get_capabilities()
    build = torch.__config__.show()
    mkl = re.search("oneAPI Math Kernel Library Version ([^ ]+)", build)
    blas = re.search(r"BLAS_INFO=(\w+)", build)
    gpu = torch.cuda.get_device_name() if facts["device"] == "cuda" else None
    packages = {found.name: found.version for found in importlib.metadata.distributions()}
    return Surroundings(
        machine=Machine(
            processor=_processor(),
            instruction_set=torch.backends.cpu.get_cpu_capability(),
            capabilities=tuple(sorted(name for name, has in can.items() if has is True)),
            torch=torch.__version__,
            torch_build=hashlib.sha256(build.encode()).hexdigest(),
            blas=" ".join([*(found[1] for found in (blas, mkl) if found)]) or "unknown",
            cuda=torch.version.cuda,
            device_name=gpu,
            platform=platform.platform(),
            variables={key: value for key, value in os.environ.items() if CHOOSING.match(key)},
            **facts,
        ),
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        python=platform.python_version(),
    )


def _processor() -> str:
    """The model of the processor, as its maker calls it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:
        found = None
    # no such line on ARM; on macOS it is `arm` or `i386`
    return found[1] if found else platform.processor() or platform.machine()
