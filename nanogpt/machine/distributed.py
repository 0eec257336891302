"""torchrun's environment → World: which device, how many processes, and what they share."""

import datetime
import math
import os
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from nanogpt.common.errors import UserError
from nanogpt.common.groups import thread_count
from nanogpt.machine.devices import (
    compile_fault,
    cuda_fault,
    has_cuda,
    keep_freed_memory,
    memory_of,
    sum_in_order,
)
from nanogpt.machine.threads import use_threads
from nanogpt.settings import Machine

if TYPE_CHECKING:
    from nanogpt.model import GPT

PATIENCE = datetime.timedelta(minutes=10)  # to wait for a process that does not answer
TYPES = torch.bfloat16, torch.float32, torch.float16  # of products; each knows one that is later
BYTES_A_WEIGHT = 16  # of training: float32 weight, gradient and two moments


@dataclass(frozen=True)
class World:
    """This process among the processes of a training, and how it computes."""

    rank: int
    size: int
    device: torch.device
    compute: torch.dtype
    compile: bool
    parallel: str  # auto, ddp or fsdp, as asked
    parent: int
    memory: int = 0  # bytes, of the smallest GPU of several
    deterministic: bool = False  # whether a training here gives the same bytes again
    control: dist.ProcessGroup | None = None  # exchanges numbers without waiting for a device
    saving: dist.ProcessGroup | None = None  # used by the thread that saves

    def facts(self) -> dict[str, str | int | bool]:
        """How this training is run, for the tracking server."""
        return {
            "device": self.device.type,
            "dtype": str(self.compute).removeprefix("torch."),
            "compile": self.compile,
            "deterministic": self.deterministic,
            "processes": self.size,
            "threads": torch.get_num_threads(),
        }

    def place(self, model: "GPT") -> "GPT":
        """Put a model on this process's device: all of it, or with fsdp a share of each matrix."""
        if not self.shards(model):
            return model.to(self.device)
        # FSDP warns of in-place changes of what a model returns; nothing here makes any
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self.device.type, (self.size,))
        # blocks are exchanged in the type that they multiply in: half the bytes. What goes through
        # them stays in float32, and so do gradients as they are summed, and the shards
        policy = MixedPrecisionPolicy(self.compute, torch.float32, cast_forward_inputs=False)
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # else a validation, which has no backward pass, would leave the root's weights whole
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        return model

    def shards(self, model: "GPT") -> bool:
        """Whether the processes share the weights: if asked to, or if they are too big for one."""
        if self.parallel == "fsdp":
            return self.size > 1 or dist.is_initialized()  # alone: where a group was made by hand
        if self.size == 1 or self.parallel == "ddp" or not self.memory:
            return False
        return BYTES_A_WEIGHT * model.parameter_count() > self.memory / 2

    def compiled(self, model: "GPT") -> "GPT":
        """A model that `torch.compile` makes faster, if this training is to have it.

        Alone it is compiled whole. Of several processes each compiles its blocks and its losses by
        themselves: so DDP exchanges the gradients of a block, and fsdp its weights, while others
        are computed. All blocks share one compilation.
        """
        if not self.compile:
            return model
        # else past eight shapes torch goes without, and the ladder of `make scaling` has more
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit
        compile = partial(torch.compile, dynamic=False)
        if self.size == 1 and not isinstance(model, FSDPModule):
            whole: GPT = compile(model)  # type: ignore[assignment]
            return whole
        # these are pieces already: torch need not cut them again, at the buckets of DDP
        torch._dynamo.config.optimize_ddp = False
        # the function, not the module, whose hooks are how fsdp and DDP come to know of it
        for module, name in (*((block, "forward") for block in model.blocks), (model, "losses")):
            setattr(module, name, compile(getattr(module, name)))
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over the processes, if there are several; fsdp does it by itself."""
        if self.size == 1 or isinstance(_plain(model), FSDPModule):
            return model
        wrapped = DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        # no passing on of buffers, which all have; the argument has another name since torch 2.13
        wrapped.broadcast_buffers = False
        return wrapped

    def reorders(self, model: nn.Module) -> bool:
        """Whether gradients are summed in another order after the first backward pass.

        DDP then puts them into its buckets as they came. Of two processes' sums each order is one.
        """
        return self.size > 2 and isinstance(model, DistributedDataParallel)

    def meet(self, model: nn.Module, last: bool) -> None:
        """Before a backward pass: exchange gradients after it, if it is the `last` of a step."""
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = last
        elif isinstance(plain := _plain(model), FSDPModule):
            plain.set_requires_gradient_sync(last)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes; every process gets it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, *numbers: float) -> list[float]:
        """The largest of each number over the processes; every process gets them."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, self.control)
        return [float(x) for x in tensor]

    def check_parent(self) -> None:
        """End this process if its launcher was killed; else it would go on training unseen."""
        if self.size > 1 and os.getppid() != self.parent:
            print("train: the launcher is gone, stopping", file=sys.stderr, flush=True)
            os._exit(1)  # no clean-up: the next command is already waiting for this process's lock

    def close(self) -> None:
        """Leave the group of processes."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _plain(model: nn.Module) -> nn.Module:
    """The model that torch.compile was given."""
    found: nn.Module = getattr(model, "_orig_mod", model)
    return found


def pick_device(machine: Machine) -> str:
    """Kind of device: as asked, or the best there is.

    Raises:
        UserError: the device asked for is not there.
    """
    found = {
        "cuda": has_cuda(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if machine.device == "auto":
        return next(kind for kind, there in found.items() if there)
    if not found[machine.device]:
        there = ", ".join(kind for kind, yes in found.items() if yes)
        if machine.device == "cuda" and (fault := cuda_fault()):
            raise UserError(f"machine.device: torch does not use this machine's GPU: {fault}")
        raise UserError(
            f"machine.device: {machine.device!r} is not on this machine; there is: {there}"
        )
    return machine.device


def pick_compute(machine: Machine, device: str, trains: bool = False) -> torch.dtype:
    """Type of the matrix products: as asked, or bfloat16 where the hardware multiplies it.

    A GPU that does not takes float16 to train, whose steps are skipped where its range is too
    small; a text would end there, so what draws one takes float32.
    """
    if machine.dtype != "auto":
        if machine.dtype == "float16" and device == "cpu":
            raise UserError("machine.dtype: float16 needs a GPU; a CPU takes float32 or bfloat16")
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            machine.dtype
        ]
    if device == "cuda":
        # emulated it would be slower than float32
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if trains else torch.float32
    if device == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16"):
        return torch.bfloat16
    return torch.float32


def process_count(machine: Machine, batch_size: int) -> int:
    """Training processes on this machine: as asked; or one a GPU, as long as that gains; or one.

    A batch of 12 windows takes two at a time on 8 GPUs, and on 6 of them as well.

    Raises:
        UserError: more than there are devices for.
    """
    kind, there = pick_device(machine), torch.cuda.device_count()
    if machine.processes == "auto":
        if kind != "cuda":
            return 1
        most = machine.machines[1]
        windows = math.ceil(batch_size / (most * min(there, batch_size // most)))
        return math.ceil(batch_size / (most * windows))
    if machine.processes > 1 and (kind == "mps" or (kind == "cuda" and machine.processes > there)):
        raise UserError(
            f"machine.processes: {machine.processes} is more than there are {kind} devices here:"
            f" {there if kind == 'cuda' else 1}"
        )
    return machine.processes


def prepare(machine: Machine) -> torch.device:
    """Have this process compute as `machine` says; returns its device.

    Raises:
        UserError: what `machine` asks for is not there.
    """
    kind = pick_device(machine)
    use_threads(thread_count(machine.threads, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if kind == "cpu":
        keep_freed_memory()
    if kind != "cuda":
        first = os.environ.get("RANK", "0") == "0"
        if first and machine.device == "auto" and (fault := cuda_fault()):
            said = f"torch does not use this machine's GPU, so this runs on its {kind}: {fault}"
            print(said, file=sys.stderr, flush=True)
        return torch.device(kind)
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def lost_peer(error: BaseException) -> bool:
    """Whether this error means that another process is gone, and not a mistake."""
    gloo = type(error) is RuntimeError and "/gloo/transport/" in str(error)
    return gloo or isinstance(error, dist.DistError)


def _compiles(machine: Machine, device: torch.device) -> bool:
    """Whether to use `torch.compile`: as asked, or on CUDA where it works.

    Raises:
        UserError: it is asked for, and does not work here.
    """
    if machine.compile is False or (machine.compile == "auto" and device.type != "cuda"):
        return False
    if not (fault := compile_fault(device)):
        return True
    said = f"torch.compile does not work here ({fault})"
    help = "it needs a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)"
    if machine.compile is True:
        raise UserError(f"machine.compile: {said}; {help}, or say auto or false")
    if os.environ.get("LOCAL_RANK", "0") == "0":  # it is so for all processes of this machine
        print(f"train: {said}, so the training goes without and is slower; {help}", file=sys.stderr)
    return False


def join(machine: Machine, trains: bool = False) -> World:
    """Join the processes that torchrun started, or be the only one.

    Raises:
        UserError: what `machine` asks for is not there; `torch.compile` is for who `trains`.
    """
    device = prepare(machine)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    in_order = trains and machine.deterministic and device.type == "cuda"
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = machine.dtype != "float32"
    if in_order:
        sum_in_order()
    # before the processes meet: who refuses is not waited for
    compiled = trains and _compiles(machine, device)
    control = saving = None
    memory = 0
    if size > 1:
        memory = memory_of(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        control, saving = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    world = World(
        rank=rank,
        size=size,
        device=device,
        compute=pick_compute(machine, device.type, trains=True),
        compile=compiled,
        memory=memory,
        deterministic=in_order or device.type == "cpu",  # of MPS nothing is known
        parallel=machine.parallel,
        parent=os.getppid(),
        control=control,
        saving=saving,
    )
    # processors of several kinds: what one of them cannot do, none does
    last, less = world.largest(TYPES.index(world.compute), -world.memory)
    return replace(world, compute=TYPES[int(last)], memory=-int(less))
