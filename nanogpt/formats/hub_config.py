"""How a `config.json` of Hugging Face says the shape of a model.

    config = read_config(Path("data/shakespeare/model"))
    text = json.dumps(to_hub(config))

A key of a `config.json` is read here, or known to change nothing that is computed, or off (null,
false or empty); else it is refused by name. A feature that this project lacks is never ignored.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.settings import Rate, Share

# what is larger is no model, and would stop a later step for want of memory
Size = Annotated[int, Field(gt=0, lt=1 << 24)]
Layers = Annotated[int, Field(gt=0, lt=1 << 12)]


class _Keys(BaseModel):
    """Keys that matter, under our names, and what transformers takes where one is left out."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _GPT2(_Keys):
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


class _Llama(_Keys):
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


class _Qwen3(_Llama):
    vocab_size: Size = 151936
    context: Size = Field(32768, alias="max_position_embeddings")
    n_inner: Size = Field(22016, alias="intermediate_size")
    n_kv_head: Size | None = Field(32, alias="num_key_value_heads")
    head_dim: Size | None = 128
    bos: int | None = Field(None, alias="bos_token_id")
    eos: int | list[int] | None = Field(None, alias="eos_token_id")
    sliding_window: int | None = None  # these two say nothing without use_sliding_window
    max_window_layers: int | None = None


class _Rope(_Keys):
    rope_type: Literal["default", "llama3"] = "default"
    rope_theta: Rate = 10000.0
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)


class _Llama3Rope(_Rope):
    factor: Rate
    low_freq_factor: Rate
    high_freq_factor: Rate
    original_max_position_embeddings: Size


FILES: dict[Any, type[_Keys]] = {"gpt2": _GPT2, "llama": _Llama, "qwen3": _Qwen3}
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


def read_config(folder: Path) -> GPTConfig:
    """The shape in a model directory's `config.json`; `generation_config.json` may add ends.

    Raises:
        UserError: there is none, it is not JSON, or `from_hub` refuses it.
    """
    path = folder / "config.json"
    try:
        values = _object(path)
    except OSError as error:
        raise UserError(f"{folder} is not a model directory: {error}") from None
    more = folder / "generation_config.json"
    ends = _object(more).get("eos_token_id") if more.exists() else None
    if ends is not None:  # an instruction-tuned model's end of a turn often stands there alone
        values["eos_token_id"] = [*_list(values.get("eos_token_id")), *_list(ends)]
    return from_hub(values, str(path))


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not an object of keys and values")
    return values


def _list(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def from_hub(values: dict[str, Any], where: str) -> GPTConfig:
    """Understand a `config.json` of gpt2, llama or qwen3 as transformers does, both 4 and 5.

    Of its dropouts one is read, that of the residual stream (gpt2) or of attention: they matter in
    training alone, and a recipe says its own.

    Args:
        where: what messages call the file.

    Raises:
        UserError: a model or a feature that is not implemented, or an impossible value.
    """
    kind: Any = values.get("model_type")
    if kind not in list(FILES):  # it may be of any type
        raise UserError(
            f"{where}: model_type: {kind!r} is not supported; known: {', '.join(FILES)}"
        )
    values, rope = dict(values), {}
    if kind != "gpt2":
        rope = _take_rope(values, where)
    file = _parse(FILES[kind], values, where)
    known = FILES[kind].model_fields
    ours = {f.name: getattr(file, f.name) for f in fields(GPTConfig) if f.name in known}
    n_embd, n_head = ours["n_embd"], ours["n_head"]
    ours["n_inner"] = ours["n_inner"] or 4 * n_embd
    ours["n_kv_head"] = ours.get("n_kv_head") or n_head
    ours["head_dim"] = ours.get("head_dim") or n_embd // n_head
    ours |= _special_ids(ours)
    if kind == "gpt2":
        if n_embd % n_head:
            raise UserError(f"{where}: n_embd {n_embd} is not a multiple of n_head {n_head}")
        if ours["activation"] not in ACTIVATIONS:
            raise UserError(
                f"{where}: activation_function: {ours['activation']!r} is not supported;"
                f" known: {', '.join(ACTIVATIONS)}"
            )
        ours["activation"] = ACTIVATIONS[ours["activation"]]
    elif n_head % ours["n_kv_head"]:
        raise UserError(
            f"{where}: num_attention_heads {n_head} is not a multiple of num_key_value_heads"
            f" {ours['n_kv_head']}"
        )
    elif not ours["head_dim"] or ours["head_dim"] % 2:
        raise UserError(
            f"{where}: head_dim {ours['head_dim']} is no even number; rotary positions need pairs"
        )
    return GPTConfig(architecture=kind, **ours, **rope)


def _special_ids(ours: dict[str, Any]) -> dict[str, Any]:
    """The ids of tokens that there are: in a file -1, an empty list and others stand for none.

    An end that is no token is left for who compares with the tokenizer, and refused: a text would
    never end.
    """
    size, eos = ours["vocab_size"], ours["eos"]
    ids = {key: ours[key] for key in ("bos", "pad")}
    ids = {key: i if i is not None and 0 <= i < size else None for key, i in ids.items()}
    ends = [i for i in dict.fromkeys(eos if isinstance(eos, list) else [eos]) if (i or 0) >= 0]
    return ids | {"eos": tuple(ends) if len(ends) > 1 else next(iter(ends), None)}


def to_hub(config: GPTConfig) -> dict[str, Any]:
    """The `config.json` that transformers, 4 and 5, reads as `config`."""
    keys = FILES[config.architecture].model_fields.items()
    ours = {f.alias or name: getattr(config, name) for name, f in keys if hasattr(config, name)}
    common = {"model_type": config.architecture, "torch_dtype": "float32"}
    if config.architecture == "gpt2":
        dropouts = {"attn_pdrop": config.dropout, "embd_pdrop": config.dropout}
        return ours | common | dropouts | {"architectures": ["GPT2LMHeadModel"]}
    name = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config.architecture]
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        rope = {"rope_type": "llama3"} | asdict(config.rope_scaling)
        ours["rope_scaling"] = rope  # transformers 4
    ours["rope_theta"] = config.rope_theta
    ours["rope_parameters"] = rope | {"rope_theta": config.rope_theta}
    features = {"hidden_act": "silu", "attention_bias": False}
    return ours | common | features | {"architectures": [name]}


def _take_rope(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the rotary keys out of `values`, wherever transformers 4 or 5 puts them."""
    said = {k: values.pop(k, None) for k in ("rope_theta", "partial_rotary_factor")}
    said = {k: value for k, value in said.items() if value is not None}
    for place in ("rope_scaling", "rope_parameters"):
        part = values.pop(place, None) or {}
        if not isinstance(part, dict):
            raise UserError(f"{where}: {place}: {part!r} is not an object of keys and values")
        for key, value in part.items():
            key = "rope_type" if key == "type" else key
            if value is not None and said.setdefault(key, value) != value:
                raise UserError(f"{where}: {key} is both {said[key]!r} and {value!r}")
    kind = _Llama3Rope if said.get("rope_type") == "llama3" else _Rope
    rope = _parse(kind, said, where)
    scaling = None
    if isinstance(rope, _Llama3Rope):
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise UserError(f"{where}: high_freq_factor must be above low_freq_factor")
        scaling = RopeScaling(**{f.name: getattr(rope, f.name) for f in fields(RopeScaling)})
    return {"rope_theta": rope.rope_theta, "rope_scaling": scaling}


def _parse(kind: type[_Keys], values: dict[str, Any], where: str) -> Any:
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
