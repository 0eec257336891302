"""The memory that tensors take, counted without any: for tensors that have no numbers.

memory = Heap()
with FakeTensorMode(), Counter(memory):
    step()
print(memory.peak)
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt.devices import LARGE_BLOCK

SPARE = 96  # bytes by which a hole must exceed a block, which glibc aligns inside it


class Heap:
    """A CPU's memory under glibc: the most that it had is `peak`.

    A block goes into the smallest hole that is large enough, else to the end of the heap, which
    never shrinks (`devices.keep_freed_memory`). A large block has a place of its own, and is
    returned when it is freed.
    """

    def __init__(self) -> None:
        self._end = self._top = self._mapped = self.peak = 0
        self._holes: dict[int, int] = {}  # start → bytes

    def take(self, size: int) -> int:
        """Where a block of so many bytes starts; -1: in a place of its own."""
        if size >= LARGE_BLOCK:
            self._mapped += size
            start = -1
        elif fitting := [(n, hole) for hole, n in self._holes.items() if n >= size + SPARE]:
            n, start = min(fitting)
            del self._holes[start]
            self._holes[start + size] = n - size
        else:
            start = self._end
            self._end += size
            self._top = max(self._top, self._end)
        self.peak = max(self.peak, self._top + self._mapped)
        return start

    def give(self, start: int, size: int) -> None:
        """Free a block: in the heap it becomes a hole, with those beside it."""
        if start < 0:
            self._mapped -= size
            return
        size += self._holes.pop(start + size, 0)
        for hole in [h for h, n in self._holes.items() if h + n == start]:
            size += self._holes.pop(hole)
            start = hole
        if start + size == self._end:
            self._end = start
        else:
            self._holes[start] = size


class Device:
    """A GPU's memory: what is taken, and the most there was, as `torch.cuda` counts it."""

    def __init__(self) -> None:
        self._taken = self.peak = 0

    def take(self, size: int) -> int:
        self._taken += size
        self.peak = max(self.peak, self._taken)
        return 0

    def give(self, start: int, size: int) -> None:
        self._taken -= size


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells `memory` of every tensor that is made, and of its end.

    Attributes:
        share: how much this process keeps of a tensor that is made from now on.
    """

    def __init__(self, memory: Heap | Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.share = 1.0
        self._memory = memory
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive.add(key)
            size = int(storage.nbytes() * self.share)
            weakref.finalize(storage, self._forget, key, self._memory.take(size), size)

    def _forget(self, key: int, start: int, size: int) -> None:
        self._alive.remove(key)
        self._memory.give(start, size)
