"""What decides the bytes of a training on this machine, as its record would have it."""

from typing import Any

import torch

from nanogpt.commands.differ import HERE
from nanogpt.common.groups import cores
from nanogpt.machine.distributed import pick_device
from nanogpt.tracking import surroundings


def about() -> dict[str, Any]:
    """The machine's part of a record, without what a recipe asks for; and what there is.

    `devices` are the kinds that can be had, `gpus` the number of them, `cores` those of the CPU.
    """
    asked = {"dtype", "threads", "processes", "compile", "parallel", "deterministic"}
    kind = pick_device(HERE)
    facts = HERE.model_dump(include=asked) | {"device": kind, "threads": 1}
    found = surroundings.look(facts).machine.model_dump(mode="json", exclude=asked)
    devices = sorted({"cpu", kind})
    return found | {"devices": devices, "gpus": torch.cuda.device_count(), "cores": cores()}
