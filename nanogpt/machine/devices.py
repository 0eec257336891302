"""What a device can do: its peak speed, how much it computes at once, its memory's allocator."""

import ctypes
import os
import re
import sys
import warnings
from pathlib import Path

import torch

from nanogpt.common.errors import UserError

DEVICES = Path("/dev")  # where Linux has the machine's devices

# dense bfloat16 matrix products, 10¹² operations a second, from the makers' data sheets (float16
# where there is no bfloat16); the first name that the device's own holds, as a word
PEAK_TERAFLOPS = {
    "B200": 2250,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200 NVL": 835,
    "H200": 989,
    "GH200": 989,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "V100-PCIE": 112,
    "V100": 125,
    "T4": 65,
}


def peak_flops(device: torch.device) -> float | None:
    """Floating-point operations a second that a device promises; None if it is not in the table."""
    if device.type != "cuda":
        return None
    own = torch.cuda.get_device_name(device)
    if re.search(r"\b(Laptop|Max-Q|MIG|Ti|SUPER|D)\b|\dg\.\d+gb|-\d+[ABCQ]\b", own):
        return None  # a relative that has its name, or a part of it
    found = (peak for name, peak in PEAK_TERAFLOPS.items() if re.search(rf"\b{name}\b", own))
    return next((1e12 * peak for peak in found), None)


def has_cuda() -> bool:
    """Whether torch computes on an NVIDIA GPU here; without torch's warning of why not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA initialization")
        return torch.cuda.is_available()


def cuda_fault() -> str | None:
    """Why torch does not use the NVIDIA GPU that is in this machine; None: it does, or none is."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if hidden or has_cuda() or not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return f"torch {torch.__version__} is built without CUDA; pytorch.org has builds with it"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # of many kinds: the driver's, the library's
        said = str(error).strip()
        if found := re.search(r"driver on your system is too old \(found version (\d+)\)", said):
            number = int(found[1])
            return (
                f"its driver is too old: it knows CUDA {number // 1000}.{number % 1000 // 10}, and"
                f" torch is built for {torch.version.cuda}; update the driver, or install a torch"
                " that is built for it (pytorch.org)"
            )
        return next(iter(said.splitlines()), repr(error))
    return None


def compile_fault(device: torch.device) -> str | None:
    """Why `torch.compile` does not work on a device, in a line; None: it does.

    It writes C++ or Triton, whose own compilers it looks for at the first call, and it may lack
    headers besides: so a product is compiled.
    """
    try:
        torch.compile(lambda x: x.exp().sum())(torch.ones(8, device=device))
    except Exception as error:  # of any kind: many programs take part
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        return next((line for line in lines if "ompiler" in line or "rror:" in line), lines[0])
    return None


def memory_of(device: torch.device) -> int:
    """Bytes that a GPU has; 0 of another device."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def sum_in_order() -> None:
    """Have CUDA's kernels sum in one order, not in the order in which their threads come.

    Else the gradients of attention and of embeddings differ in their last bits from run to run.

    Raises:
        UserError: the environment gives cuBLAS a workspace with which it does not.
    """
    name, good = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # read at the first product
    if (asked := os.environ.setdefault(name, good[0])) not in good:
        raise UserError(
            f"machine.deterministic: with {name}={asked} cuBLAS does not sum in one order; unset"
            f" it, or say {' or '.join(good)}, or machine.deterministic: false"
        )
    torch.use_deterministic_algorithms(True)
    # nothing here reads memory before it is written; torch's module declares no such name
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def windows_at_once(tokens: int, context: int, vocab_size: int, device: torch.device) -> int:
    """Windows in one forward pass: of so many tokens, fewer if the vocabulary is large.

    Of a large vocabulary the logits are most of the memory, and a CPU is no faster with more.
    """
    usual = 1 << 12 if device.type == "cpu" else 1 << 15
    return max(1, min(tokens, tokens * usual // vocab_size) // context)


LARGE_BLOCK = 1 << 25  # bytes


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of returning it to the kernel.

    A training step frees and takes the same blocks again; fetching them anew, page by page, costs
    a CPU a tenth of its time. Large blocks are returned: their holes would seldom fit again.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, limit in ((-1, 1 << 30), (-3, LARGE_BLOCK)):  # M_TRIM_, M_MMAP_THRESHOLD
            getattr(libc, "mallopt", lambda *_: 0)(option, limit)
