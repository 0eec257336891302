"""How much memory a training takes, known before its first step.

    check(config, settings, world)  # a UserError says what would fit
    ...
    print(peak(world.device))

A step is made of tensors that have shapes and no numbers, and what is alive at once is counted. On
a CPU the holes between blocks of memory count too: they are a tenth of the peak, and more.
"""

import math
import os
import resource
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt import lora, optim
from nanogpt.architecture import GPTConfig
from nanogpt.config import Lora, Settings
from nanogpt.distributed import World
from nanogpt.errors import UserError
from nanogpt.evaluation import windows_at_once
from nanogpt.model import GPT
from nanogpt.trainer import pass_count

SPARE = 96  # bytes by which a hole must exceed a block, which glibc aligns inside it
GROUPS = Path("/sys/fs/cgroup")


class Heap:
    """Where glibc puts blocks: in the smallest hole that is large enough, else at the end."""

    def __init__(self) -> None:
        self.end = self.peak = 0
        self._holes: dict[int, int] = {}  # start → bytes

    def take(self, size: int) -> int:
        """Where a block of so many bytes starts."""
        fitting = [(n, start) for start, n in self._holes.items() if n >= size + SPARE]
        if fitting:
            n, start = min(fitting)
            del self._holes[start]
            self._holes[start + size] = n - size
        else:
            start = self.end
            self.end += size
            self.peak = max(self.peak, self.end)
        return start

    def give(self, start: int, size: int) -> None:
        """Make a hole of a block, and one of it and those beside it."""
        size += self._holes.pop(start + size, 0)
        for hole in [h for h, n in self._holes.items() if h + n == start]:
            size += self._holes.pop(hole)
            start = hole
        if start + size == self.end:
            self.end = start
        else:
            self._holes[start] = size


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, and keeps the most there were as `peak`.

    Attributes:
        share: how much this process keeps of a tensor that is made from now on.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.share = 1.0
        self.peak = self._now = 0
        self._heap = Heap() if device.type == "cpu" else None
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive.add(key)
        size = int(storage.nbytes() * self.share)
        self._now += size
        start = self._heap.take(size) if self._heap else 0
        self.peak = max(self.peak, self._heap.peak if self._heap else self._now)
        weakref.finalize(storage, self._forget, key, start, size)

    def _forget(self, key: int, start: int, size: int) -> None:
        self._alive.remove(key)
        self._now -= size
        if self._heap:
            self._heap.give(start, size)


def estimate(config: GPTConfig, settings: Settings, world: World) -> int:
    """Bytes that a process takes at the peak of a training, beside what it has before it.

    Of weights, moments, the copy of both that a save makes on a CPU, a validation's pass, and the
    passes and the update of a step. What torch.compile spares is not known to it.
    """
    train, context = settings.train, settings.model.context
    config = replace(config, context=context, dropout=settings.model.dropout)
    passes = pass_count(settings, config.vocab_size, world)
    windows = math.ceil(math.ceil(train.batch_size / world.size) / passes)

    def losses(windows: int) -> Tensor:
        ids = torch.zeros(windows, context, dtype=torch.long)
        return model(ids, ids)[1].sum()  # type: ignore[no-any-return]

    with FakeTensorMode(), Counter(world.device) as counter, world.device:
        model = GPT(config, world.compute)
        model.activation_checkpointing = settings.machine.activation_checkpointing
        if train.lora:
            lora.add(model, train.lora)
        optimizers = optim.build(model, train)
        trained = [p for p in model.parameters() if p.requires_grad]
        kept = [*trained, *optim.state_tensors(model, optimizers).values()]
        with torch.no_grad():
            losses(windows_at_once(context, config.vocab_size))
        copies = [t.detach().clone() for t in kept] if world.device.type == "cpu" else []
        if passes > 1:
            for p in trained:
                p.grad = torch.zeros_like(p)
        losses(windows).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        del copies
    return int(counter.peak)


def available(device: torch.device) -> int:
    """Bytes that this process may still take: of the device, or its share of the machine's.

    A CPU's are those that the kernel can free, within the limits of the control groups that this
    process is in, shared evenly by the processes of a training on this machine.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    rooms = [
        int(psutil.virtual_memory().available),
        *_group_rooms(Path("/proc/self/cgroup"), GROUPS),
    ]
    return int(min(rooms)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _group_rooms(membership: Path, mount: Path) -> Iterator[int]:
    """What is left in each control group above this process that has a limit (version 1 or 2)."""
    lines = membership.read_text().splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        root = mount / controllers
        limit, usage, prefix = {
            "": ("memory.max", "memory.current", ""),
            "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        }[controllers]
        own = root / path.strip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(root) or not (group / limit).exists():
                continue  # in a container the path may be that of the machine outside
            text = (group / limit).read_text().strip()
            if text != "max":
                counts = (group / "memory.stat").read_text().splitlines()
                stat = dict(line.split() for line in counts)
                # files that were read count as used, and are dropped when memory is needed
                files = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
                yield int(text) - int((group / usage).read_text()) + files


def peak(device: torch.device) -> int:
    """The most bytes so far: of the device's tensors, or on a CPU of this whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check(config: GPTConfig, settings: Settings, world: World) -> None:
    """Refuse a training that is too big for its machine, before it takes any memory.

    Raises:
        UserError: it needs more than there is; says what would fit.
    """
    there = available(world.device)
    # the count takes seconds, which a training that is far from the limit need not wait for
    if 2 * _roughly(config, settings) < there:
        return
    needed = estimate(config, settings, world)
    if needed <= there:
        return
    machine, train = settings.machine, settings.train
    smaller = {"micro_batch": 1}
    without = {"activation_checkpointing": True}
    adapters = {"lora": Lora(rank=8, alpha=16, targets="all-linear"), "optimizer": "adamw"}
    half = {"context": max(1, settings.model.context // 2)}
    ways: dict[str, dict[str, Any]] = {
        "machine.micro_batch: 1": {"machine": machine.model_copy(update=smaller)},
        "machine.activation_checkpointing: true": {"machine": machine.model_copy(update=without)},
        "both of these": {"machine": machine.model_copy(update=smaller | without)},
        f"model.context: {half['context']}": {"model": settings.model.model_copy(update=half)},
    }
    if settings.download.bases and not train.lora:
        lighter = {"train": train.model_copy(update=adapters)}
        ways["train.lora: {rank: 8, alpha: 16, targets: all-linear}"] = lighter
        ways["all of these but the context"] = ways["both of these"] | lighter
    found = {
        way: estimate(config, settings.model_copy(update=change), world)
        for way, change in ways.items()
    }
    lines = [f"  {way} ({_gib(size)})" for way, size in found.items() if size <= there]
    raise UserError(
        f"this training needs {_gib(needed)} of memory, and there are {_gib(there)} on this"
        f" {world.device.type}; "
        + (
            "\n".join(("what would fit:", *lines))
            if lines
            else f"none of the ways to make it smaller would do, and the least is"
            f" {_gib(min(found.values()))}: take a smaller model or a bigger machine"
        )
    )


def _roughly(config: GPTConfig, settings: Settings) -> int:
    """More bytes than any training of this shape takes, or nearly so."""
    c, context = config, settings.model.context
    layer = c.n_embd * (2 * (c.n_head + c.n_kv_head) * c.head_dim + 3 * c.n_inner)
    weights = c.n_layer * layer + c.vocab_size * c.n_embd * (1 if c.tied else 2)
    tokens = context * settings.train.batch_size
    token = c.n_layer * (40 * c.n_embd + 8 * c.n_inner + 4 * c.n_head * context) + 4 * c.vocab_size
    return 40 * weights + 4 * token * tokens


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
