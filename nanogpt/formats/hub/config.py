"""How a `config.json` of Hugging Face says the shape of a model.

config = read_config(Path("data/shakespeare/model"))
text = json.dumps(to_hub(config))
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.formats.hub.keys import (
    ACTIVATIONS,
    FILES,
    Llama3Rope,
    Mistral,
    Rope,
    SmolLM3,
    parse,
)

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}
THETAS = {"smollm3": 2e6}  # rope_theta where it is left out, other than the usual 10,000


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
    """Understand a `config.json` as transformers does, both 4 and 5.

    Attention within a window of the last tokens, as the first Mistrals have it, is that to all of
    them in a text that is no longer: such a model is read as one whose context is its window.

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
        rope = _take_rope(values, kind, where)
    file = parse(FILES[kind], values, where)
    known = FILES[kind].model_fields
    ours = {f.name: getattr(file, f.name) for f in fields(GPTConfig) if f.name in known}
    n_embd, n_head = ours["n_embd"], ours["n_head"]
    ours["n_inner"] = ours["n_inner"] or 4 * n_embd
    ours["n_kv_head"] = ours.get("n_kv_head") or n_head
    ours["head_dim"] = ours.get("head_dim") or n_embd // n_head
    ours |= _special_ids(ours)
    if isinstance(file, Mistral):
        ours["context"] = min(file.context, file.sliding_window or file.context)
    if isinstance(file, SmolLM3):
        ours["no_rope"] = _no_rope(file, where)
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


def _no_rope(file: SmolLM3, where: str) -> tuple[int, ...]:
    """The layers without rotary positions."""
    every = range(file.n_layer)
    said = file.no_rope_layers
    if said is None:
        return tuple(i for i in every if (i + 1) % file.no_rope_layer_interval == 0)
    if len(said) < file.n_layer:
        raise UserError(
            f"{where}: no_rope_layers speaks of {len(said)} layers, and there are {file.n_layer}"
        )
    return tuple(i for i in every if not said[i])


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
    name = CLASSES[config.architecture]
    ours |= {"model_type": config.architecture, "architectures": [name], "torch_dtype": "float32"}
    if config.architecture == "gpt2":
        return ours | {"attn_pdrop": config.dropout, "embd_pdrop": config.dropout}
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        rope = {"rope_type": "llama3"} | asdict(config.rope_scaling)
        ours["rope_scaling"] = rope  # transformers 4
    ours["rope_theta"] = config.rope_theta
    ours["rope_parameters"] = rope | {"rope_theta": config.rope_theta}
    ours["hidden_act"] = "silu"
    if config.architecture == "mistral":
        return ours | {"sliding_window": None}
    if config.architecture == "smollm3":
        ours["no_rope_layers"] = [int(i not in config.no_rope) for i in range(config.n_layer)]
    return ours if config.qkv_bias else ours | {"attention_bias": False}


def _take_rope(values: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
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
    if kind in THETAS:
        said.setdefault("rope_theta", THETAS[kind])
    rope = parse(Llama3Rope if said.get("rope_type") == "llama3" else Rope, said, where)
    scaling = None
    if isinstance(rope, Llama3Rope):
        if rope.high_freq_factor <= rope.low_freq_factor:
            raise UserError(f"{where}: high_freq_factor must be above low_freq_factor")
        scaling = RopeScaling(**{f.name: getattr(rope, f.name) for f in fields(RopeScaling)})
    return {"rope_theta": rope.rope_theta, "rope_scaling": scaling}
