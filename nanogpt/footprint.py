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

REST = 48  # bytes on either side of a block, by which glibc takes more to align it


class Heap:
    """A CPU's memory under glibc: the most that it had is `peak`.

    A block goes into the smallest hole that is large enough, else to the end of the heap, which
    never shrinks (`devices.keep_freed_memory`); a large block that would make the heap longer gets
    a place of its own. In the rests on both sides of a block the small objects of autograd's graph
    settle, and stay until the backward pass: the hole between them is too small for the next block
    of the same size.
    """

    def __init__(self) -> None:
        self._end = self._top = self._mapped = self.peak = 0
        self._holes: dict[int, int] = {}  # start → bytes
        self._settled: list[int] = []  # starts of rests

    def take(self, size: int) -> int:
        """Where a block of so many bytes starts; -1: in a place of its own."""
        size += 2 * REST
        if fitting := [(n, hole) for hole, n in self._holes.items() if n >= size]:
            n, start = min(fitting)
            del self._holes[start]
            if n > size:
                self._holes[start + size] = n - size
        elif size >= LARGE_BLOCK and self._end + size > self._top:
            self._mapped += size
            start = -1
        else:
            start = self._end
            self._end += size
            self._top = max(self._top, self._end)
        self.peak = max(self.peak, self._top + self._mapped)
        return start

    def give(self, start: int, size: int) -> None:
        """Free a block; with the rests, if no graph is being made."""
        if start < 0:
            self._mapped -= size + 2 * REST
        elif torch.is_grad_enabled():
            self._settled += [start, start + REST + size]
            self._free(start + REST, size)
        else:
            while self._settled:
                self._free(self._settled.pop(), REST)
            self._free(start, size + 2 * REST)

    def _free(self, start: int, size: int) -> None:
        """Make a hole of a place, with the holes beside it."""
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
