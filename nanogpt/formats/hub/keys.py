"""The keys of each architecture's `config.json`, and what transformers takes where one is left out.

    file = parse(FILES["llama"], values, "config.json")

A key is read, or known to change nothing that is computed, or off (null, false or empty); else it
is refused by name. A feature that this project lacks is never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt.common.errors import UserError
from nanogpt.settings import Rate, Share

# what is larger is no model, and would stop a later step for want of memory
Size = Annotated[int, Field(gt=0, lt=1 << 24)]
Layers = Annotated[int, Field(gt=0, lt=1 << 12)]


class Keys(BaseModel):
    """Keys that matter, under our names, and what transformers takes where one is left out."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class GPT2(Keys):
    vocab_size: Size = 50257
    context: Size = Field(1024, alias="n_positions")
    n_layer: Layers = 12
    n_head: Size = 12
    n_embd: Size = 768
    n_inner: Size | None = None
    tied: bool = Field(True, alias="tie_word_embeddings")
    bias: bool = True  # a key of our own, for nanoGPT's models without biases
    dropout: Share = Field(0.1, alias="resid_pdrop")
    norm_eps: Rate = Field(1e-5, alias="layer_norm_epsilon")
    activation: str = Field("gelu_new", alias="activation_function")
    bos: int | None = Field(50256, alias="bos_token_id")
    eos: int | list[int] | None = Field(50256, alias="eos_token_id")
    pad: int | None = Field(None, alias="pad_token_id")
    scale_attn_weights: Literal[True] = True
    is_causal: Literal[True] = True


class Llama(Keys):
    vocab_size: Size = 32000
    context: Size = Field(2048, alias="max_position_embeddings")
    n_layer: Layers = Field(32, alias="num_hidden_layers")
    n_head: Size = Field(32, alias="num_attention_heads")
    n_kv_head: Size | None = Field(None, alias="num_key_value_heads")
    n_embd: Size = Field(4096, alias="hidden_size")
    n_inner: Size = Field(11008, alias="intermediate_size")
    head_dim: Size | None = None
    tied: bool = Field(False, alias="tie_word_embeddings")
    dropout: Share = Field(0.0, alias="attention_dropout")
    norm_eps: Rate = Field(1e-6, alias="rms_norm_eps")
    bos: int | None = Field(1, alias="bos_token_id")
    eos: int | list[int] | None = Field(2, alias="eos_token_id")
    pad: int | None = Field(None, alias="pad_token_id")
    hidden_act: Literal["silu", "swish"] = "silu"
    is_causal: Literal[True] = True
    layer_types: list[Literal["full_attention"]] | None = None


class Mistral(Llama):
    context: Size = Field(131072, alias="max_position_embeddings")
    n_inner: Size = Field(14336, alias="intermediate_size")
    n_kv_head: Size | None = Field(8, alias="num_key_value_heads")
    sliding_window: Size | None = 4096  # see `config.from_hub`


class Qwen2(Llama):
    vocab_size: Size = 151936
    context: Size = Field(32768, alias="max_position_embeddings")
    n_inner: Size = Field(22016, alias="intermediate_size")
    n_kv_head: Size | None = Field(32, alias="num_key_value_heads")
    bos: int | None = Field(None, alias="bos_token_id")
    eos: int | list[int] | None = Field(None, alias="eos_token_id")
    sliding_window: int | None = None  # these two say nothing without use_sliding_window
    max_window_layers: int | None = None


class Qwen3(Qwen2):
    head_dim: Size | None = 128


class SmolLM3(Llama):
    vocab_size: Size = 128256
    context: Size = Field(32768, alias="max_position_embeddings")
    n_layer: Layers = Field(36, alias="num_hidden_layers")
    n_head: Size = Field(16, alias="num_attention_heads")
    n_kv_head: Size | None = Field(4, alias="num_key_value_heads")
    n_embd: Size = Field(2048, alias="hidden_size")
    tied: bool = Field(True, alias="tie_word_embeddings")
    bos: int | None = Field(128000, alias="bos_token_id")
    eos: int | list[int] | None = Field(128001, alias="eos_token_id")
    pad: int | None = Field(128004, alias="pad_token_id")
    no_rope_layers: list[Literal[0, 1]] | None = None  # 0: a layer without rotary positions
    no_rope_layer_interval: Size = 4  # which those are, where the list is left out
    sliding_window: int | None = None
    max_window_layers: int | None = None


class Olmo2(Llama):
    vocab_size: Size = 50304
    norm_eps: Rate = Field(1e-5, alias="rms_norm_eps")
    bos: int | None = Field(None, alias="bos_token_id")
    eos: int | list[int] | None = Field(50279, alias="eos_token_id")
    pad: int | None = Field(1, alias="pad_token_id")


class Rope(Keys):
    rope_type: Literal["default", "llama3"] = "default"
    rope_theta: Rate = 10000.0
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)


class Llama3Rope(Rope):
    factor: Rate
    low_freq_factor: Rate
    high_freq_factor: Rate
    original_max_position_embeddings: Size


FILES: dict[Any, type[Keys]] = {
    "gpt2": GPT2,
    "llama": Llama,
    "mistral": Mistral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "smollm3": SmolLM3,
    "olmo2": Olmo2,
}
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate"), "gelu_new"),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_new"),
}
# Keys that change nothing in the distribution of the next token: where a file comes from, types,
# orders of rounding, first weights, dropouts beside the one that is read, heads for other tasks,
# how a text is drawn. Keys that begin with _ are transformers' own notes.
INERT = """
    model_type architectures torch_dtype dtype transformers_version transformers.js_config
    tokenizer_class model_max_length n_ctx n_special is_llama_config unsloth_fixed unsloth_version
    attn_implementation cache_implementation output_past predict_special_tokens
    use_cache torchscript gradient_checkpointing chunk_size_feed_forward return_dict
    output_attentions output_hidden_states pretraining_tp reorder_and_upcast_attn
    initializer_range attn_pdrop embd_pdrop neftune_noise_alpha is_decoder
    id2label label2id num_labels problem_type finetuning_task task_specific_params
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    prefix sep_token_id decoder_start_token_id max_length min_length do_sample early_stopping
    num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_return_sequences output_scores return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty
"""


def parse(kind: type[Keys], values: dict[str, Any], where: str) -> Any:
    """Check `values`; refuse what is impossible, or unknown and not off."""
    try:
        keys = kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        place = f"{where}: {detail['loc'][0]}"
        if detail["type"] == "missing":
            raise UserError(f"{place} is missing") from None
        said = detail["msg"].replace("Input should", "it should", 1)
        raise UserError(f"{place}: {detail['input']!r} is not supported; {said}") from None
    for key, value in (keys.model_extra or {}).items():
        off = value is None or value is False or value in ("", [], {})
        if not (off or key in INERT.split() or key.startswith("_")):
            raise UserError(
                f"{where}: {key}: {value!r} is not supported, and the model would be another"
                " without it; take another model"
            )
    return keys
