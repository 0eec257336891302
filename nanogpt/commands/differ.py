"""How far two models are apart: their files, their weights, their score on the same text.

nanogpt differ models:/nanogpt-shakespeare/3 data/shakespeare/model --tokens data/shakespeare/tokens
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from nanogpt.commands.export import open_model
from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files
from nanogpt.evaluation import total_loss
from nanogpt.formats.weights import load_model, weights_sha256
from nanogpt.machine.distributed import join
from nanogpt.model import GPT
from nanogpt.settings import Machine
from nanogpt.text.tokens import open_tokens
from nanogpt.training.publish import made
from nanogpt.training.texts import bits, held_out

# all that is there, one process, and float32: as scores are made everywhere
HERE = Machine(
    device="auto",
    dtype="float32",
    deterministic=True,
    compile=False,
    processes=1,
    parallel="auto",
    nodes=1,
    rendezvous=None,
    micro_batch="auto",
    activation_checkpointing=False,
    threads="auto",
    tokenize_executor="auto",
)


def compare(one: str, other: str, tokens: Path | None, context: int | None) -> dict[str, Any]:
    """Compare two models, each a directory or `models:/…`.

    Args:
        tokens: a folder that `tokenize` made; both are scored on its split `val`.
        context: tokens in a window, if it is not the model's own.

    Returns:
        weights, model: of each its digest (SHA-256). files: names of those that differ.
        max_abs, relative: of the weights the largest difference, and the norm of the difference in
        shares of the norm of the first; `tensor` has the largest. bits_per_byte: of each.

    Raises:
        UserError: a model is not there or damaged, or the two are of different shapes.
    """
    with open_model(one) as (_, first), open_model(other) as (_, second):
        listed = [list_files(folder) for folder in (first, second)]
        digests = [{file.name: file.sha256 for file in files} for files in listed]
        names = sorted(digests[0].keys() | digests[1].keys())
        found: dict[str, Any] = {
            "weights": [weights_sha256(folder) for folder in (first, second)],
            "model": [digest_files(files) for files in listed],
            "files": [name for name in names if digests[0].get(name) != digests[1].get(name)],
        }
        models = [load_model(folder) for folder in (first, second)]
        found |= _distance(*models)
        if tokens:
            found["bits_per_byte"] = [
                _score(model, folder, tokens, context)
                for model, folder in zip(models, (first, second), strict=True)
            ]
    return found


def _distance(one: GPT, other: GPT) -> dict[str, Any]:
    """How far the weights are apart."""
    first, second = dict(one.named_parameters()), dict(other.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in each.items()} for each in (first, second)]
    if shapes[0] != shapes[1]:
        odd = next(
            name for name in [*shapes[0], *shapes[1]] if shapes[0].get(name) != shapes[1].get(name)
        )
        of = [each.get(odd, "not there") for each in shapes]
        raise UserError(f"the two models are of different shapes: {odd} is {of[0]} and {of[1]}")
    largest, tensor, squares, norm = 0.0, None, 0.0, 0.0
    with torch.no_grad():
        for name, weights in first.items():
            difference = (weights.double() - second[name].double()).abs()
            most = difference.max().item() if difference.numel() else 0.0
            if most > largest:
                largest, tensor = most, name
            squares += difference.square().sum().item()
            norm += weights.double().square().sum().item()
    relative = (squares / norm) ** 0.5 if norm else float(squares > 0)
    return {"max_abs": largest, "tensor": tensor, "relative": relative}


def _score(model: GPT, folder: Path, tokens: Path, context: int | None) -> float:
    opened = open_tokens(tokens)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    if digest != opened.manifest.tokenizer_sha256:
        raise UserError(f"{folder} has another tokenizer than {tokens}")
    world = join(HERE)
    window = context or model.config.context
    card = made(folder)
    apart = bool(card and card.apart)
    text = held_out(opened, apart)
    nats, count = total_loss(model.to(world.device), text, window, world)
    return bits(opened, apart, nats / count)


def as_text(found: dict[str, Any]) -> str:
    """What `compare` returns, for a person."""
    if not found["files"]:
        lines = ["identical: all files have the same bytes"]
    else:
        lines = [f"{len(found['files'])} files differ: {', '.join(found['files'])}"]
        if found["weights"][0] == found["weights"][1]:
            lines.append("the weights are the same bytes")
        else:
            lines.append(
                f"weights: at most {found['max_abs']:.3g} apart ({found['tensor']}), by norm"
                f" {100 * found['relative']:.3g} %"
            )
    if scores := found.get("bits_per_byte"):
        lines.append(
            f"validation: {scores[0]:.4f} and {scores[1]:.4f} bits per byte,"
            f" {abs(scores[0] - scores[1]):.2g} apart"
        )
    return "\n".join(lines)
