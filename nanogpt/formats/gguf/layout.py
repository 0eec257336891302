"""What GGUF and Hugging Face call the same things: keys, names of tensors, orders of rows.

    names(config)["blk.0.attn_q.weight"] == "model.layers.0.self_attn.q_proj.weight"

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names of tensors come
from the package gguf.
"""

import gguf
import numpy as np
from numpy.typing import NDArray

from nanogpt.architecture import GPTConfig, RopeScaling

# keys after "<architecture>." → keys of a config.json
GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "block_count": "n_layer",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
KEYS = {
    "gpt2": GPT2_KEYS,
    **dict.fromkeys(("llama", "qwen2", "qwen3", "smollm3", "olmo2"), LLAMA_KEYS),
}
# llama.cpp's values of those that are left out; null: as many as heads, and what is left for each
OPTIONAL = {
    "attention.head_count_kv": None,
    "attention.key_length": None,
    "rope.freq_base": 10000.0,
}
HEAD_WIDTHS = ("attention.value_length", "rope.dimension_count")  # of all with LLAMA_KEYS

# Hugging Face's names of tensors, without ".weight" and ".bias"; {} is the layer
GPT2_NAMES = """
    transformer.wte transformer.wpe transformer.ln_f lm_head
    transformer.h.{}.ln_1 transformer.h.{}.attn.c_attn transformer.h.{}.attn.c_proj
    transformer.h.{}.ln_2 transformer.h.{}.mlp.c_fc transformer.h.{}.mlp.c_proj
"""
LLAMA_NAMES = """
    model.embed_tokens model.norm lm_head
    model.layers.{}.input_layernorm model.layers.{}.self_attn.q_proj
    model.layers.{}.self_attn.k_proj model.layers.{}.self_attn.v_proj
    model.layers.{}.self_attn.o_proj model.layers.{}.post_attention_layernorm
    model.layers.{}.mlp.gate_proj model.layers.{}.mlp.up_proj model.layers.{}.mlp.down_proj
"""
QK_NORMS = "model.layers.{}.self_attn.q_norm model.layers.{}.self_attn.k_norm"
NAMES = {
    "gpt2": GPT2_NAMES,
    **dict.fromkeys(("llama", "qwen2", "smollm3"), LLAMA_NAMES),
    "qwen3": LLAMA_NAMES + QK_NORMS,
    "olmo2": LLAMA_NAMES.replace("input_layernorm", "post_feedforward_layernorm") + QK_NORMS,
}
BIASED = {"gpt2": ("ln_", ".c_"), "qwen2": (".q_proj", ".k_proj", ".v_proj")}
PAIRED = "llama", "smollm3"  # whose rotary positions turn rows (2i, 2i + 1) of a head in GGUF
NO_ROPE = slice(3, None, 4)  # llama.cpp's: layers of a smollm3 without rotary positions
ROPE_FACTORS = "rope_freqs.weight"  # beside those; Hugging Face has it in the config.json
SCALING = "nanogpt.rope_scaling."  # keys of our own: what made those factors; llama.cpp skips them


def architecture(config: GPTConfig) -> str:
    """What GGUF calls it: a Mistral is a Llama there."""
    return "llama" if config.architecture == "mistral" else config.architecture


def names(config: GPTConfig) -> dict[str, str]:
    """GGUF's names of all tensors of such a model → Hugging Face's."""
    kind = architecture(config)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.n_layer)
    found = {}
    for name in NAMES[kind].split():
        if name == "lm_head" and config.tied:
            continue
        for layer in range(config.n_layer) if "{}" in name else [0]:
            theirs = name.format(layer)
            found[f"{known[theirs]}.weight"] = f"{theirs}.weight"
            if any(part in theirs for part in BIASED.get(kind, ())):
                found[f"{known[theirs]}.bias"] = f"{theirs}.bias"
    return found


def arrange(
    config: GPTConfig, name: str, array: NDArray[np.float32], into_gguf: bool
) -> NDArray[np.float32]:
    """Turn a tensor from Hugging Face's order of rows and columns into GGUF's, or back.

    Args:
        name: in GGUF.

    Raises:
        ValueError: the shape is not that of such a tensor.
    """
    part = name.split(".")[-2]
    if config.architecture == "gpt2" and name.startswith("blk.") and array.ndim == 2:
        return array.T  # GPT-2's checkpoints keep its matrices transposed
    if architecture(config) in PAIRED and part in ("attn_q", "attn_k"):
        # from rows (i, i + D/2) of a head, or to them
        heads = config.n_head if part == "attn_q" else config.n_kv_head
        pairs = (2, -1) if into_gguf else (-1, 2)
        turned = array.reshape(heads, *pairs, array.shape[-1]).swapaxes(1, 2)
        return turned.reshape(array.shape)
    return array


def rope_factors(config: GPTConfig, scaling: RopeScaling) -> NDArray[np.float32]:
    """By how much Llama 3 stretches each wavelength, (D/2); `model.rotary_table` explains it."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    theta = float(np.float32(config.rope_theta))  # as a file keeps it
    turns = scaling.original_max_position_embeddings * theta**-exponents / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)
