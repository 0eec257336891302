"""Models in Hugging Face's form: `config.json`, `generation_config.json`, `model.safetensors`.

Inside, a model has one fused matrix for queries, keys and values and names of its own; outside it
has the tensors that `transformers` expects of a GPT2LMHeadModel, LlamaForCausalLM or
Qwen3ForCausalLM. Nothing is ever pickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.model import GPT, GPTConfig

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
QKV = "blocks.{}.attention.qkv.weight"
SPLIT = [f"model.layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"]


def save_model(
    folder: Path, config: GPTConfig, parameters: Mapping[str, Tensor], eot: int | None
) -> None:
    """Write a model's three files into `folder`; the same weights always give the same bytes.

    Args:
        parameters: our names → tensors, on any device.
        eot: id of the token that ends a document, if there is one.
    """
    tensors = {}
    for ours, tensor in parameters.items():
        if ours == "head.weight" and config.tied:
            continue
        for name, part in _to_hub(config, ours, tensor.detach().cpu().float()):
            tensors[name] = part.contiguous()
    if config.architecture == "gpt2" and not config.bias:
        # GPT-2 elsewhere always has biases: nanoGPT's bias-free model is the one with zeros
        for name in [n for n in tensors if n.endswith(".weight") and (".h." in n or ".ln_f." in n)]:
            width = tensors[name].shape[-1]
            tensors[name.removesuffix("weight") + "bias"] = torch.zeros(width)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", _hub_config(config, eot))
    ids = {} if eot is None else {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot}
    _write_json(folder / "generation_config.json", {"do_sample": True, **ids})


def load_model(
    folder: Path, device: torch.device | str = "cpu", compute: torch.dtype = torch.float32
) -> GPT:
    """Read a model directory; the model is in evaluation mode.

    Raises:
        UserError: a file is missing or damaged, or a tensor is missing, unknown or misshapen.
    """
    config = read_config(folder)
    try:
        theirs = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}/model.safetensors cannot be read: {error}") from None
    model = GPT(config, compute)
    with torch.no_grad():
        for ours, parameter in model.named_parameters():
            names = [name for name, _ in _to_hub(config, ours, parameter)]
            missing = [name for name in names if name not in theirs]
            if missing:
                raise UserError(f"{folder}/model.safetensors lacks the tensor {missing[0]}")
            parts = [theirs.pop(name).float() for name in names]
            if config.architecture == "gpt2" and _is_conv1d(ours):
                parts = [part.t() for part in parts]
            tensor = torch.cat(parts)
            if tensor.shape != parameter.shape:
                raise UserError(
                    f"{folder}/model.safetensors: {' + '.join(names)} is {tuple(tensor.shape)},"
                    f" config.json says {tuple(parameter.shape)}"
                )
            parameter.copy_(tensor)
    left = [n for n, t in theirs.items() if not (n.endswith("bias") and not t.any())]
    if left:
        raise UserError(f"{folder}/model.safetensors has an unknown tensor {left[0]}")
    return model.to(device).eval()


def read_config(folder: Path) -> GPTConfig:
    """The shape in a model directory's `config.json`."""
    try:
        values = json.loads((folder / "config.json").read_text())
        return _from_hub_config(values)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder} is not a model directory of this project: {error!r}") from None


def weights_sha256(folder: Path) -> str:
    """SHA-256 of `model.safetensors`: what a trained model is known by."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_hub(config: GPTConfig, ours: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    layer = ours.split(".")[1] if ours.startswith("blocks.") else ""
    name = ours.replace(f"blocks.{layer}.", "blocks.{}.") if layer else ours
    if config.architecture == "gpt2":
        stem, _, kind = name.rpartition(".")
        theirs = GPT2_NAMES.get(name) or f"{GPT2_NAMES[stem]}.{kind}"
        return [(theirs.format(layer), tensor.t() if _is_conv1d(ours) else tensor)]
    if name == QKV:
        widths = [n * config.head_dim for n in (config.n_head, *[config.n_kv_head] * 2)]
        return [
            (n.format(layer), t) for n, t in zip(SPLIT, torch.split(tensor, widths), strict=True)
        ]
    return [(LLAMA_NAMES[name].format(layer), tensor)]


def _is_conv1d(ours: str) -> bool:
    """GPT-2 keeps its linear layers transposed."""
    return ours.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))


def _hub_config(config: GPTConfig, eot: int | None) -> dict[str, Any]:
    common = {
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": eot,
    }
    if config.architecture == "gpt2":
        return common | {
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": config.context,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_inner": config.n_inner,
            "activation_function": config.activation,
            "layer_norm_epsilon": config.norm_eps,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "bias": config.bias,
        }
    name = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config.architecture]
    return common | {
        "architectures": [name],
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "hidden_size": config.n_embd,
        "intermediate_size": config.n_inner,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": config.dropout,
    }


def _from_hub_config(values: dict[str, Any]) -> GPTConfig:
    architecture = values["model_type"]
    if architecture == "gpt2":
        return GPTConfig(
            architecture="gpt2",
            vocab_size=values["vocab_size"],
            context=values["n_positions"],
            n_layer=values["n_layer"],
            n_head=values["n_head"],
            n_kv_head=values["n_head"],
            n_embd=values["n_embd"],
            n_inner=values["n_inner"] or 4 * values["n_embd"],
            head_dim=values["n_embd"] // values["n_head"],
            tied=values["tie_word_embeddings"],
            bias=values["bias"],
            dropout=values["resid_pdrop"],
            norm_eps=values["layer_norm_epsilon"],
            activation=values["activation_function"],
        )
    if architecture in ("llama", "qwen3"):
        return GPTConfig(
            architecture=architecture,
            vocab_size=values["vocab_size"],
            context=values["max_position_embeddings"],
            n_layer=values["num_hidden_layers"],
            n_head=values["num_attention_heads"],
            n_kv_head=values["num_key_value_heads"],
            n_embd=values["hidden_size"],
            n_inner=values["intermediate_size"],
            head_dim=values["head_dim"],
            tied=values["tie_word_embeddings"],
            dropout=values["attention_dropout"],
            norm_eps=values["rms_norm_eps"],
            rope_theta=values["rope_theta"],
        )
    raise ValueError(f"unknown model_type {architecture!r}; known: gpt2, llama, qwen3")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
