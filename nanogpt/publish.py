"""The best weights of a training → a model directory, which is a Hugging Face repository."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt import lora
from nanogpt.card import write_card
from nanogpt.config import Settings
from nanogpt.files import whole_folder
from nanogpt.initial import initial_model
from nanogpt.tokens import Tokens
from nanogpt.trainer import Progress
from nanogpt.weights import save_model


def publish(
    out: Path,
    settings: Settings,
    tokens: Tokens,
    base: Mapping[str, Any],
    base_folder: Path,
    best: Mapping[str, Tensor],
    progress: Progress,
) -> None:
    """Write `out`, whole or not at all: weights, tokenizer, card, and the adapters beside them.

    Adapters are folded into the weights, and kept in `adapter/` as `peft` reads them.

    Args:
        base: manifest of the base model.
        best: the parameters that were trained, by our names.
    """
    model = initial_model(settings, tokens, base_folder)
    with torch.no_grad():
        for name, tensor in best.items():
            model.get_parameter(name).copy_(tensor)
    with whole_folder(out) as folder:
        if settings.train.lora:
            (folder / "adapter").mkdir()
            lora.write_adapter(
                folder / "adapter", model.config, settings.train.lora, best, base["base"]
            )
            lora.merge(model)
        save_model(folder, model.config, dict(model.named_parameters()))
        for path in tokens.tokenizer_files():
            shutil.copyfile(path, folder / path.name)
        write_card(folder, settings, tokens, base, model, progress)
