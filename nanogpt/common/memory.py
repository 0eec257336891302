"""Memory that was freed, and that the C library kept."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Have glibc return what it kept, before something that takes blocks of other sizes."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
