"""Resumable state: one safetensors file, written whole or not at all, never a pickle.

A training keeps two files in its folder: `last.safetensors` (weights, optimizers, progress) and
`best.safetensors` (the weights with the lowest validation loss).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.files import whole_file


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: trainings with the same one are the same training."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write `tensors` and the plain data `about` to `path`, atomically and durably.

    Raises:
        OSError: the disk is full or read-only; what `path` held before is still there.
    """
    # one key: safetensors writes several in an order that changes from run to run
    metadata = {"about": json.dumps(about, sort_keys=True)}
    kept = "the save before it is untouched" if path.exists() else "nothing was saved before"
    try:
        with whole_file(path) as partial:
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata)
    except (OSError, SafetensorError) as error:
        why = f"cannot save: {error}; {kept}"
        raise OSError(getattr(error, "errno", None), why, path) from None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote.

    Raises:
        UserError: the file is truncated, damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole checkpoint of this project ({error}); remove it to train anew"
            " from the start, which ends with the same weights"
        ) from None
