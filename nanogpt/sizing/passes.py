"""How many windows a pass takes on a GPU, where `machine.micro_batch` is auto.

settings = fit(config, settings, world)         # from then on it is a number
"""

import math
import sys
from functools import cache
from itertools import count
from typing import TypeVar

import torch

from nanogpt.architecture import GPTConfig
from nanogpt.machine.distributed import World
from nanogpt.settings import Settings
from nanogpt.sizing.memory import available, estimate

GAINS = 32768  # tokens, from which on a larger pass is hardly faster
ROOM = 0.9  # of the memory: the rest is for CUDA's context, libraries' buffers and holes

S = TypeVar("S", bound=Settings)


def fit(config: GPTConfig, settings: S, world: World) -> S:
    """Settings with a number of windows in a pass that gains, fits, and makes equal passes.

    By the memory of the whole device, not by what is free at the moment: so that the same machine
    rounds sums in the same way each time. If others use so much of it that this does not fit, the
    passes are smaller, and a line says so. A CPU's `auto` is no matter of memory.
    """
    if settings.machine.micro_batch != "auto" or world.device.type != "cuda":
        return settings
    share = math.ceil(settings.train.batch_size / world.size)

    def cut(passes: int) -> S:
        machine = settings.machine.model_copy(update={"micro_batch": math.ceil(share / passes)})
        return settings.model_copy(update={"machine": machine})

    @cache  # a count takes a second
    def need(passes: int) -> int:
        return estimate(config, cut(passes), world)

    def fitting(room: float) -> int:
        """The fewest passes that the processes can agree on."""
        windows = max(1, min(share, GAINS // settings.model.context))
        passes = equal(share, math.ceil(share / windows))
        if need(passes) > room and passes < share:
            # between one window and these the need is convex: a line lies above it
            windows = math.ceil(share / passes)
            more = (room - need(share)) * (windows - 1) / max(1, need(passes) - need(share))
            passes = equal(share, math.ceil(share / max(1, 1 + math.floor(more))))
        return int(world.largest(passes)[0])

    memory = torch.cuda.get_device_properties(world.device).total_memory
    passes = fitting(ROOM * memory)
    free = available(world.device)
    # the same question for all processes, since they ask each other
    if world.largest(need(passes) - free)[0] > 0:
        usual, passes = passes, fitting(ROOM * free)
        if passes != usual and world.rank == 0:
            print(
                f"train: others use this GPU's memory, so a step takes {passes} passes instead of"
                f" {usual}, and rounds its sums in another way",
                file=sys.stderr,
                flush=True,
            )
    return cut(passes)


def equal(share: int, passes: int) -> int:
    """At least so many passes that so many windows are cut into evenly, if under twice as many do.

    Each number of windows is a shape of its own, which torch.compile compiles anew.
    """
    found = next(n for n in count(passes) if share % n == 0)
    return found if found < 2 * passes else passes
