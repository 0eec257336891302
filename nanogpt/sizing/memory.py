"""How much memory a training takes, known before its first step.

    check(config, settings, world)  # a UserError says what would fit
    ...
    print(peak(world.device))

A step is made with fake tensors (shape and type, no data), and the bytes that are alive at once are
counted. A CPU's allocator leaves holes between the blocks that a step takes and frees: MARGIN is
for them.
"""

import math
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpt import optim
from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.common.groups import groups
from nanogpt.evaluation import TOKENS_AT_ONCE
from nanogpt.machine.devices import windows_at_once
from nanogpt.machine.distributed import World
from nanogpt.model import GPT
from nanogpt.settings import Lora, Settings
from nanogpt.sizing.footprint import Counter
from nanogpt.trainer import pass_count
from nanogpt.training import lora
from nanogpt.training.checkpoint import FILE_BYTES

SWITCH = "NANOGPT_MEMORY_CHECK"
SHORTEST = 64  # the shortest context that a message proposes
# bytes that a CPU's first step of each kind takes for good, beside tensors: code that is read from
# libraries, and that oneDNN makes for each shape of a product
KERNELS = 64 << 20
DEEP = 16  # layers; to count one takes a tenth of a second
# what a CPU takes for each byte that a step needs besides what stays: the rest is holes (lab book)
MARGIN = 1.65


def estimate(config: GPTConfig, settings: Settings, world: World) -> int:
    """Bytes that a process takes at the peak of a training, beside what it has before it.

    Of weights, moments, what a save copies of both on a CPU, a validation's pass, and the passes
    and the update of a step. What torch.compile spares is not known to it. Where the
    weights alone are too many, DEEP layers are counted, and half of them: each more takes as much.
    """
    if config.n_layer <= DEEP or 4 * _weights(config) // world.size <= available(world.device):
        return _counted(config, settings, world)
    whole, half = (_counted(replace(config, n_layer=n), settings, world) for n in (DEEP, DEEP // 2))
    return whole + (config.n_layer - DEEP) * (whole - half) // (DEEP - DEEP // 2)


def _counted(config: GPTConfig, settings: Settings, world: World) -> int:
    train, context = settings.train, settings.model.context
    config = replace(config, context=context, dropout=settings.model.dropout)
    passes = pass_count(settings, config.vocab_size, world)
    windows = math.ceil(math.ceil(train.batch_size / world.size) / passes)
    scored = windows_at_once(TOKENS_AT_ONCE, context, config.vocab_size, world.device)

    def losses(windows: int) -> Tensor:
        ids = torch.zeros(windows, context, dtype=torch.long)
        positions = ids if train.packing == "documents" else None
        found: Tensor = model(ids, ids, positions=positions)
        return found.sum()

    with FakeTensorMode(), world.device, Counter() as counter:
        sharded = world.size > 1 and world.shards(GPT(config))
        counter.share = own = 1 / world.size if sharded else 1.0
        model = GPT(config, world.compute)
        model.activation_checkpointing = settings.machine.activation_checkpointing
        if train.lora:
            lora.add(model, train.lora)
        optimizers = optim.build(model, train)
        trained = [p for p in model.parameters() if p.requires_grad]
        kept = [*trained, *optim.state_tensors(model, optimizers).values()]
        counter.share = 1.0
        with torch.no_grad():
            losses(scored)
        held = []
        if sharded:
            # two blocks, in the type of products, and the weights outside of blocks are whole for a
            # while, and a second time for the exchange
            sizes = [sum(p.nbytes for p in m.parameters()) for m in (model, *model.blocks)]
            whole = sizes[0] - sum(sizes[1:]) + 2 * sizes[1] * world.compute.itemsize // 4
            held.append(torch.empty(2 * whole, dtype=torch.uint8))
        counter.share = own
        if world.device.type == "cpu":
            held += [t.detach().clone() for t in kept]
            saved = min(FILE_BYTES, sum(t.nbytes for t in kept))
            held.append(torch.empty(2 * saved, dtype=torch.uint8))
        if passes > 1 or world.size > 1:
            # ddp keeps whole gradients, and so does fsdp until the last pass
            counter.share = own if passes == 1 else 1.0
            for p in trained:
                p.grad = torch.zeros_like(p)
        counter.share = 1.0
        stays = counter.taken
        losses(windows).backward()  # type: ignore[no-untyped-call]
        held.clear()
        for optimizer in optimizers:
            optimizer.step()
    if world.device.type != "cpu":
        return int(counter.peak)
    return int(stays + MARGIN * (counter.peak - stays)) + KERNELS


def available(device: torch.device) -> int:
    """Bytes that this process may still take: of the device, or its share of the machine's.

    A CPU's are those that the kernel can free, within the limits of the control groups that this
    process is in, shared evenly by the processes of a training on this machine.
    """
    if device.type == "cuda":
        # with what an earlier training in this process has freed, which torch keeps
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    rooms = [int(psutil.virtual_memory().available), *_group_rooms()]
    return int(min(rooms)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _group_rooms() -> Iterator[int]:
    """What is left in each control group above this process that has a limit."""
    for group, version in groups("memory", "memory.limit_in_bytes", "memory.max"):
        limit, usage, prefix = {
            2: ("memory.max", "memory.current", ""),
            1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        }[version]
        text = (group / limit).read_text("utf-8").strip()
        if text != "max":
            counts = (group / "memory.stat").read_text("utf-8").splitlines()
            stat = dict(line.split() for line in counts)
            # cached files count as used, but the kernel drops them when memory is needed
            files = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
            yield int(text) - int((group / usage).read_text("utf-8")) + files


def peak(device: torch.device) -> int:
    """The most bytes so far: of the device's tensors, or on a CPU of this whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def refuses() -> bool:
    """Whether what is too big is refused, as the environment has it.

    Raises:
        UserError: it says neither on nor off.
    """
    asked = os.environ.get(SWITCH, "on")
    if asked not in ("on", "off"):
        raise UserError(f"{SWITCH}: {asked!r} should be on or off")
    return asked == "on"


def check(config: GPTConfig, settings: Settings, world: World) -> None:
    """Refuse a training that is too big for its machine, before it takes any memory.

    All processes of a training must call this, and all refuse what one of them has no memory for.

    The environment's NANOGPT_MEMORY_CHECK=off says not to: then what is too big fails in its first
    steps, or is killed.

    Raises:
        UserError: it needs more than there is; says what would fit.
    """
    # whoever refused alone would be ended with the others, and only the first says why
    there = -int(world.largest(-available(world.device))[0])
    if not refuses():
        return
    # counting takes a second; a training far from the limit does not wait for it
    if 2 * _at_most(config, settings) < there:
        return
    needed = estimate(config, settings, world)
    if needed <= there:
        return
    fitting = []
    for way in WAYS:
        for text, changed, world_then in way(config, settings, world):
            if (size := estimate(config, changed, world_then)) <= there:
                fitting.append(f"{text} ({_gib(size)})")
                break
    said = "what would fit"
    if not fitting:
        least, changed, world_then = needed, settings, world
        for way in WAYS:
            if least > there and (furthest := list(way(config, changed, world_then))[-1:]):
                text, changed, world_then = furthest[0]
                fitting.append(text)
                least = estimate(config, changed, world_then)
        said = f"what would fit, all of it together ({_gib(least)})"
        if least > there:
            said = (
                "take a bigger machine or a smaller model: nothing here makes it fit, the least is"
                f" {_gib(least)}, with all of this"
            )
    raise UserError(
        f"this training needs {_gib(needed)} of memory in each process, and it can have"
        f" {_gib(there)} of this {world.device.type}'s; {said}:\n  "
        + "\n  ".join(fitting)
        + f"\nThis is a count, not a trial. If you know better: {SWITCH}=off before the command"
    )


Change = Iterator[tuple[str, Settings, World]]  # what to write, and the training that it makes


def _smaller_micro_batch(config: GPTConfig, settings: Settings, world: World) -> Change:
    share = math.ceil(settings.train.batch_size / world.size)
    windows = math.ceil(share / pass_count(settings, config.vocab_size, world))
    while windows > 1:
        windows //= 2
        changed = _with(settings, "machine", micro_batch=windows)
        yield f"machine.micro_batch: {windows}", changed, world


def _checkpointing(config: GPTConfig, settings: Settings, world: World) -> Change:
    if not settings.machine.activation_checkpointing:
        changed = _with(settings, "machine", activation_checkpointing=True)
        yield "machine.activation_checkpointing: true", changed, world


def _fsdp(config: GPTConfig, settings: Settings, world: World) -> Change:
    if world.size > 1 and world.parallel != "fsdp":
        yield "machine.parallel: fsdp", settings, replace(world, parallel="fsdp")


def _adapters(config: GPTConfig, settings: Settings, world: World) -> Change:
    if settings.download.bases and not settings.train.lora:
        text = "train.lora: {rank: 8, alpha: 16, targets: all-linear}, train.optimizer: adamw"
        adapters = Lora(rank=8, alpha=16.0, targets="all-linear")
        yield text, _with(settings, "train", lora=adapters, optimizer="adamw"), world


def _shorter_context(config: GPTConfig, settings: Settings, world: World) -> Change:
    context = settings.model.context
    while context >= 2 * SHORTEST:
        context //= 2
        yield f"model.context: {context}", _with(settings, "model", context=context), world


WAYS = (_smaller_micro_batch, _checkpointing, _fsdp, _adapters, _shorter_context)


def _with(settings: Settings, section: str, **changes: Any) -> Settings:
    changed = getattr(settings, section).model_copy(update=changes)
    return settings.model_copy(update={section: changed})


def _at_most(config: GPTConfig, settings: Settings) -> int:
    """More bytes than any training of this shape takes, or nearly so."""
    c, context = config, settings.model.context
    tokens = max(context * settings.train.batch_size, TOKENS_AT_ONCE)
    token = c.n_layer * (40 * c.n_embd + 8 * c.n_inner + 4 * c.n_head * context) + 4 * c.vocab_size
    return 40 * _weights(config) + 4 * token * tokens


def _weights(config: GPTConfig) -> int:
    """Parameters, or nearly so many."""
    c = config
    layer = c.n_embd * (2 * (c.n_head + c.n_kv_head) * c.head_dim + 3 * c.n_inner)
    return c.n_layer * layer + c.vocab_size * c.n_embd * (1 if c.tied else 2)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
