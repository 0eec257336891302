"""The memory that tensors take, counted without any: for fake tensors (shape and type, no data).

with FakeTensorMode(), Counter() as counter:
    step()
print(counter.peak)
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive.

    Attributes:
        taken: so many there are.
        peak: the most there were.
        share: how much this process keeps of a tensor that is made from now on.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.taken = self.peak = 0
        self.share = 1.0
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
            size = int(storage.nbytes() * self.share)
            self._alive.add(key)
            self.taken += size
            self.peak = max(self.peak, self.taken)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.taken -= size
