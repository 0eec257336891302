"""A full disk or memory is one line, whatever a library makes of it."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nanogpt.common.command import one_line
from tests.kit.recipes import ROOT


def nested() -> Exception:
    error = RuntimeError("a thread failed")
    error.__cause__ = ValueError("I/O error: No space left on device (os error 28)")
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "No space left on device"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a/b"), "Disk quota exceeded"),
        (sqlite3.OperationalError("database or disk is full"), "disk is full"),
        (nested(), "No space left on device"),
    ],
)
def test_a_full_disk_is_said_with_the_room_there_is(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line("train"):
        raise error
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"train: {says}: ")
    assert said.endswith("; make room, and run the same command to go on\n")
    assert "MiB are free in" in said
    assert said.count("\n") == 1


def test_any_other_error_is_not_taken_for_a_full_disk() -> None:
    with pytest.raises(ValueError, match="odd"), one_line("train"):
        raise ValueError("odd")


WRITES = {
    "text": "from nanogpt.common.files import write_text; write_text(Path('x'), 'x' * 9999)",
    "safetensors": "import numpy as np; from safetensors.numpy import save_file;"
    " save_file({'x': np.zeros(9999)}, 'x')",
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_file_that_may_not_grow_is_said(kind: str, tmp_path: os.PathLike[str]) -> None:
    code = f"from pathlib import Path\nfrom nanogpt.common.command import one_line\n{WRITES[kind]}"
    code = code.replace(WRITES[kind], f"with one_line('export'):\n    {WRITES[kind]}")
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("export: File too large: ")


def full(message: str) -> Callable[[], object]:
    def take() -> object:
        raise RuntimeError(message)

    return take


TAKE: dict[str, Callable[[], object]] = {
    "python": lambda: bytearray(1 << 58),
    "numpy": lambda: np.empty(1 << 58, dtype=np.uint8),
    "torch": lambda: torch.empty(1 << 58, dtype=torch.uint8),
    "cuda": full("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
    "cuda's context": full("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    "cublas": full("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "nccl": full("ncclUnhandledCudaError: Call to CUDA failed.\nCuda failure 2 'out of memory'"),
    "mps": full("MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.0 GB)"),
}


@pytest.mark.parametrize("library", TAKE)
def test_a_lack_of_memory_is_said(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line("eval"):
        TAKE[library]()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("eval: there is not enough memory; ")
    assert said.count("\n") == 1
