"""What a device can do: its peak speed, how much it computes at once, its memory's allocator."""

import ctypes
import re
import sys

import torch

# dense bfloat16 matrix products, 10¹² operations a second, from the makers' data sheets (float16
# where there is no bfloat16); the first name that the device's own holds, as a word
PEAK_TERAFLOPS = {
    "B200": 2250,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
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
    "V100": 125,
    "T4": 65,
}


def peak_flops(device: torch.device) -> float | None:
    """Floating-point operations a second that a device promises; None if it is not in the table."""
    if device.type != "cuda":
        return None
    own = torch.cuda.get_device_name(device)
    if re.search(r"\b(Laptop|Max-Q|MIG|Ti)\b|\dg\.\d+gb", own):
        return None  # a weaker relative, or a part of it, that has its name
    found = (peak for name, peak in PEAK_TERAFLOPS.items() if re.search(rf"\b{name}\b", own))
    return next((1e12 * peak for peak in found), None)


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


def return_freed_memory() -> None:
    """Have glibc return what it kept, before something that takes blocks of other sizes."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
