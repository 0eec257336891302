"""Whether a model directory holds the model that its config.json says.

    check_model(Path("data/shakespeare/base"))

This refuses, and decides no byte of what a stage writes.
"""

from pathlib import Path

import torch

from nanogpt.formats.hub.config import read_config
from nanogpt.formats.weights import hub_slots, read_tensors
from nanogpt.model import GPT


def check_model(folder: Path) -> None:
    """Read all tensors, one in memory at a time.

    Raises:
        UserError: what `weights.load_model` would refuse.
    """
    config = read_config(folder)
    with torch.device("meta"):
        slots = hub_slots(GPT(config))
    for _ in read_tensors(folder, config, {name: tuple(s.shape) for name, s in slots.items()}):
        pass
