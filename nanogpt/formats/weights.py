"""Models in Hugging Face's form: `config.json`, `generation_config.json`, `model.safetensors`.

    model = load_model(Path("data/shakespeare/model"))
    save_model(folder, model.config, dict(model.named_parameters()))

Inside, a model has one fused matrix for queries, keys and values and names of its own; outside it
has the tensors that `transformers` expects of a GPT2LMHeadModel, LlamaForCausalLM and so on. A
pretrained model may also come in shards, or in GGUF. Nothing is ever pickled.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.formats.hub.config import read_config, to_hub
from nanogpt.model import GPT

# ours → theirs; {} is the layer
GPT2_NAMES = {
    "embedding.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "norm": "transformer.ln_f",
    "head.weight": "lm_head.weight",
    "blocks.{}.attention_norm": "transformer.h.{}.ln_1",
    "blocks.{}.attention.qkv": "transformer.h.{}.attn.c_attn",
    "blocks.{}.attention.out": "transformer.h.{}.attn.c_proj",
    "blocks.{}.mlp_norm": "transformer.h.{}.ln_2",
    "blocks.{}.mlp.up": "transformer.h.{}.mlp.c_fc",
    "blocks.{}.mlp.down": "transformer.h.{}.mlp.c_proj",
}
LLAMA_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "blocks.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.{}.attention.out.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.{}.attention.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.{}.mlp_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.mlp.gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.{}.mlp.up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blocks.{}.mlp.down.weight": "model.layers.{}.mlp.down_proj.weight",
}
OLMO2_NAMES = LLAMA_NAMES | {
    "blocks.{}.attention_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.mlp_norm.weight": "model.layers.{}.post_feedforward_layernorm.weight",
}
QKV = "blocks.{}.attention.qkv"
QKV_SPLIT = [f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"]

HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
STORED_TYPES = torch.float32, torch.float16, torch.bfloat16
# what old files store beside the weights: masks, and the frequencies of rotary positions
BUFFERS = ".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"


def save_model(folder: Path, config: GPTConfig, parameters: Mapping[str, Tensor]) -> None:
    """Write a model's three files into `folder`; the same weights always give the same bytes.

    Args:
        parameters: our names → tensors, on any device.
    """
    tensors = {n: tensor.contiguous() for n, tensor in hub_tensors(config, parameters).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shape = to_hub(config)
    ids = {k: v for k, v in shape.items() if k.endswith("_token_id") and v is not None}
    _write_json(folder / "config.json", shape)
    _write_json(folder / "generation_config.json", {"do_sample": True, **ids})


def hub_tensors(config: GPTConfig, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors under Hugging Face's names and in its shapes, on the CPU in float32.

    Args:
        parameters: our names → tensors, on any device.
    """
    tensors: dict[str, Tensor] = {}
    for ours, tensor in parameters.items():
        if ours == "head.weight" and config.tied:
            continue
        tensors |= dict(_theirs(config, ours, tensor.detach().cpu().float()))
    if config.architecture == "gpt2" and not config.bias:
        # GPT-2 elsewhere always has biases: nanoGPT's bias-free model is the one with zeros
        for name in [n for n in tensors if n.endswith(".weight") and (".h." in n or ".ln_f." in n)]:
            width = tensors[name].shape[-1]
            tensors[name.removesuffix("weight") + "bias"] = torch.zeros(width)
    return tensors


def load_model(
    folder: Path,
    device: torch.device | str = "cpu",
    compute: torch.dtype = torch.float32,
    *,
    context: int | None = None,
    dropout: float | None = None,
) -> GPT:
    """Read a model directory; the model is in evaluation mode, its parameters in float32.

    Args:
        context: that a training will use; learned positions past it are cut off, rotary ones cost
            nothing and stay.
        dropout: of a training that follows, in place of what config.json says.

    Raises:
        UserError: a file is missing or damaged, config.json has a feature that is not implemented
            or less than `context`, or a tensor is missing, unknown or misshapen.
    """
    stored = read_config(folder)
    if context is not None and context > stored.context:
        raise UserError(
            f"model.context: {context:,} is more than the {stored.context:,} tokens of the model"
            f" in {folder}; lower it"
        )
    config = stored if dropout is None else replace(stored, dropout=dropout)
    if context is not None and config.architecture == "gpt2":
        config = replace(config, context=context)
    model = GPT(config, compute)
    slots = hub_slots(model)
    shapes = {name: tuple(slot.shape) for name, slot in slots.items()}
    if config.architecture == "gpt2":
        shapes["transformer.wpe.weight"] = (stored.context, stored.n_embd)
    for name, tensor in read_tensors(folder, stored, shapes):
        slots[name].copy_(tensor[: len(slots[name])])
    return model.to(device).eval()


def hub_slots(model: GPT) -> dict[str, Tensor]:
    """Hugging Face's names of all of a model's tensors → views of the parameters, in its shapes."""
    return {
        name: slot
        for ours, parameter in model.named_parameters()
        for name, slot in _theirs(model.config, ours, parameter.detach())
    }


def read_tensors(
    folder: Path, config: GPTConfig, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a model directory once, under its name in `shapes`; one in memory at a time.

    Of a tied head and the embedding either may be stored: safetensors' own `save_model` keeps the
    head alone.

    Raises:
        UserError: a tensor is missing, unknown, misshapen, or has values that are NaN or infinite.
    """
    names = GPT2_NAMES if config.architecture == "gpt2" else LLAMA_NAMES
    embedding = names["embedding.weight"]
    stem = embedding.partition(".")[0] + "."
    missing, tied = dict(shapes), None
    for path, name, tensor in _stored(folder):
        if name != HEAD and not name.startswith(stem):
            name = stem + name  # of a file saved without the head
        if config.tied and name in (HEAD, embedding):
            name = embedding
            if tied is not None:
                if not torch.equal(tied.float(), tensor.float()):
                    raise UserError(
                        f"{path}: {HEAD} differs from the embedding, with which config.json ties"
                        " it; one of the two is wrong"
                    )
                continue
            tied = tensor
        if name not in missing:
            if name.endswith("bias") and not tensor.any():
                continue  # it adds nothing
            raise UserError(f"{path} has an unknown tensor {name}")
        if tuple(tensor.shape) != (expected := missing.pop(name)):
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)}, config.json says {expected}")
        if not tensor.isfinite().all():
            raise UserError(
                f"{path}: {name} has values that are NaN or infinite, and a model with those says"
                " nothing; take another copy of it"
            )
        yield name, tensor
    if missing:
        raise UserError(f"{folder} lacks the tensor {next(iter(missing))}")


def weights_sha256(folder: Path) -> str:
    """SHA-256 of `model.safetensors`: what a trained model is known by."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """A model directory's tensors, one in memory at a time, each with its file."""
    ggufs = sorted(folder.glob("*.gguf"))
    if (folder / "model.safetensors").exists():
        yield from _read_safetensors(folder / "model.safetensors", None)
    elif (folder / INDEX).exists():
        for shard, names in _read_index(folder / INDEX).items():
            yield from _read_safetensors(folder / shard, names)
    elif len(ggufs) == 1:
        # its package is slow to import, and seldom needed
        from nanogpt.formats.gguf.file import read as read_gguf

        for name, array in read_gguf(ggufs[0]).tensors():
            yield ggufs[0], name, torch.from_numpy(array)
    else:
        raise UserError(
            f"{folder} has no weights that can be read: model.safetensors, {INDEX} with its shards,"
            f" or one .gguf file (there are {len(ggufs)})"
        )


def _read_safetensors(path: Path, names: set[str] | None) -> Iterator[tuple[Path, str, Tensor]]:
    """The tensors of a file, which are those that an index says."""
    try:
        with safe_open(path, framework="pt") as file:
            there = set(file.keys())
            if names is not None and there != names:
                raise UserError(
                    f"{path} and {INDEX} disagree on {min(there ^ names)}; fetch both again"
                )
            for name in sorted(there):
                if not name.endswith(BUFFERS):
                    tensor = file.get_tensor(name)
                    if tensor.dtype not in STORED_TYPES:
                        raise UserError(
                            f"{path}: {name} is stored as {tensor.dtype}, which is not read;"
                            f" known: {', '.join(map(str, STORED_TYPES))}"
                        )
                    yield path, name, tensor
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _read_index(path: Path) -> dict[str, set[str]]:
    """The names of the tensors in each shard."""
    try:
        shards: dict[str, set[str]] = {}
        for name, shard in json.loads(path.read_text(encoding="utf-8"))["weight_map"].items():
            shards.setdefault(Path(shard).name, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of shards: {error!r}") from None
    for shard in shards:
        if not (path.parent / shard).exists():
            raise UserError(f"{path} names {shard}, which is not there; fetch it again")
    return shards


def _theirs(config: GPTConfig, ours: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One of our tensors under their names, in their shapes: views of it."""
    layer = ours.split(".")[1] if ours.startswith("blocks.") else ""
    name = ours.replace(f"blocks.{layer}.", "blocks.{}.") if layer else ours
    if config.architecture == "gpt2":
        stem, _, kind = name.rpartition(".")
        theirs = GPT2_NAMES.get(name) or f"{GPT2_NAMES[stem]}.{kind}"
        # GPT-2 keeps its linear layers transposed
        conv1d = ours.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
        yield theirs.format(layer), tensor.t() if conv1d else tensor
    elif name.startswith(QKV):
        kind = name.removeprefix(QKV)  # .weight or .bias
        widths = [n * config.head_dim for n in (config.n_head, *[config.n_kv_head] * 2)]
        for part, theirs in zip(torch.split(tensor, widths), QKV_SPLIT, strict=True):
            yield theirs.format(layer) + kind, part
    else:
        names = OLMO2_NAMES if config.post_norm else LLAMA_NAMES
        yield names[name].format(layer), tensor


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
