"""Small random models of transformers, and GGUF files that are changed by hand."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from nanogpt.architecture import GPTConfig
from nanogpt.formats.hub.config import to_hub
from nanogpt.text.words.library import EOT
from tests.kit.brought import learn

SHAPES = {
    "gpt2": {"architecture": "gpt2", "n_embd": 64, "bias": True, "activation": "gelu_new"},
    "gpt2, untied": {
        **{"architecture": "gpt2", "n_embd": 64, "bias": True, "activation": "gelu_new"},
        "tied": False,
    },
    "llama": {"architecture": "llama", "n_kv_head": 2, "norm_eps": 1e-6},
    "llama, untied": {"architecture": "llama", "tied": False, "rope_theta": 500000.0},
    # transformers' reader takes every Qwen3's heads to be 128 wide
    "qwen3": {"architecture": "qwen3", "n_kv_head": 1, "head_dim": 128},
    "qwen3, untied": {"architecture": "qwen3", "head_dim": 128, "tied": False},
    "qwen2": {"architecture": "qwen2", "n_kv_head": 2},
}
# transformers' reader knows neither
UNREAD = {
    "smollm3": {"architecture": "smollm3", "n_layer": 5, "n_kv_head": 2, "no_rope": (3,)},
    "olmo2": {"architecture": "olmo2", "n_kv_head": 2, "tied": False},
}
Tensors = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@cache
def bpe() -> str:
    """The tokenizer.json of a small byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return learn(tokenizer, 300, [EOT, "<|im_start|>"])


def config_of(shape: dict[str, Any]) -> GPTConfig:
    # transformers' reader takes every GPT-2 to have 1,024 positions
    common = {"n_layer": 2, "n_head": 4, "n_embd": 96, "n_inner": 256, "tied": True}
    common |= {"vocab_size": 300, "context": 1024, "bos": 0, "eos": 0, "pad": 0}
    values = common | shape
    values["n_kv_head"] = shape.get("n_kv_head", 4)
    values["head_dim"] = shape.get("head_dim", values["n_embd"] // 4)
    return GPTConfig(**values)


@cache
def model_of(config: GPTConfig) -> Any:
    """A random model of transformers; none of its weights are zeros or ones."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**to_hub(config))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tensors_of(config: GPTConfig) -> Tensors:
    state = model_of(config).state_dict()
    if config.tied:
        del state["lm_head.weight"]
    return {name: tensor.numpy() for name, tensor in state.items()}


def edited(path: Path, out: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A copy of a GGUF file whose keys (value, type, type of items) and tensors (array, kind) are
    edited."""
    reader = gguf.GGUFReader(path)
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    keys = {k: (f.contents(), f.types[0], f.types[-1]) for k, f in fields.items()}
    tensors = {t.name: (t.data, t.tensor_type) for t in reader.tensors}
    edit(keys, tensors)
    writer = gguf.GGUFWriter(out, "")
    for key, (value, kind, items) in keys.items():
        writer.add_key_value(key, value, kind, items)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
