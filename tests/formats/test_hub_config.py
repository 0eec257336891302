"""`config.json` of each architecture: what transformers understands, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.formats.hub.config import from_hub, read_config, to_hub
from nanogpt.formats.hub.keys import FILES

STRETCH = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# as their authors published them
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers.js_config": {"dtype": "q4"},
        "transformers_version": "4.40.1",
        "use_cache": True,
        "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"rope_type": "llama3", **STRETCH},
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "Mistral-7B-v0.3": {
        "architectures": ["MistralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.0.dev0",
        "use_cache": True,
        "vocab_size": 32768,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "SmolLM3-3B": {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128012,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 4,
        "pad_token_id": 128004,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.54.0.dev0",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "OLMo-2-0425-1B": {
        "architectures": ["Olmo2ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 100257,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "model_type": "olmo2",
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.47.0",
        "use_cache": False,
        "vocab_size": 100352,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_understood_as_transformers_does(name: str) -> None:
    values = PUBLISHED[name]
    theirs = AutoConfig.for_model(**values).to_dict()  # in the spelling of transformers 5
    assert from_hub(values, "there") == from_hub(theirs, "there")


def test_llama_3_is_read_in_full() -> None:
    config = from_hub(PUBLISHED["Llama-3.2-1B"], "there")
    assert config.rope_theta == 500000
    assert config.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    assert config.eos == (128001, 128008, 128009)


def test_layers_without_rotary_positions() -> None:
    assert from_hub(PUBLISHED["SmolLM3-3B"], "there").no_rope == (*range(3, 36, 4),)
    values = {"model_type": "smollm3", "num_hidden_layers": 3}
    assert from_hub(values | {"no_rope_layer_interval": 2}, "there").no_rope == (1,)
    assert from_hub(values | {"no_rope_layers": [0, 1, 1, 0]}, "there").no_rope == (0,)


def test_the_context_of_a_mistral_is_at_most_its_window() -> None:
    values = PUBLISHED["Mistral-7B-v0.3"]
    assert from_hub(values, "there").context == 32768
    first = values | {"sliding_window": 4096}  # as version 0.1 has it
    assert from_hub(first, "there").context == 4096
    del first["sliding_window"]
    assert from_hub(first, "there").context == 4096, "transformers' own default"


@pytest.mark.parametrize("kind", FILES)
def test_a_key_left_out_is_what_transformers_takes(kind: str) -> None:
    theirs = AutoConfig.for_model(kind).to_dict()
    assert from_hub({"model_type": kind}, "there") == from_hub(theirs, "there")


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    whole = st.integers(1, 9)
    kind = draw(st.sampled_from(list(FILES)))
    kv, heads = draw(whole), draw(whole)
    gpt2 = kind == "gpt2"
    width = 2 * draw(whole)
    ids = st.none() | st.integers(0, 8)
    layers = draw(whole)
    no_rope = st.sets(st.integers(0, layers - 1)) if kind == "smollm3" else st.just(set())
    scaling = st.builds(RopeScaling, st.just(8.0), st.just(1.0), st.just(4.0), whole)
    return GPTConfig(
        architecture=kind,
        vocab_size=9,
        context=draw(whole),
        n_layer=layers,
        n_head=kv * heads,
        n_kv_head=kv * heads if gpt2 else kv,
        n_embd=kv * heads * width * (1 if gpt2 else draw(whole)),
        n_inner=draw(whole),
        head_dim=width,
        tied=draw(st.booleans()),
        bias=gpt2 and draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.25])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        rope_theta=10000.0 if gpt2 else draw(st.sampled_from([10000.0, 1e6])),
        rope_scaling=None if gpt2 else draw(st.none() | scaling),
        no_rope=tuple(sorted(draw(no_rope))),
        activation=draw(st.sampled_from(["gelu", "gelu_new"])) if gpt2 else "gelu",
        bos=draw(ids),
        eos=draw(ids | st.sampled_from([(0, 1), (3, 2, 8)])),
        pad=draw(ids),
    )


@given(configs())
def test_writing_and_reading_is_the_same_shape(config: GPTConfig) -> None:
    values = json.loads(json.dumps(to_hub(config)))
    assert from_hub(values, "there") == config
    for new in ("rope_parameters",), ("rope_theta", "rope_scaling"):  # transformers 4, and 5
        rest = {k: v for k, v in values.items() if k not in new}
        assert from_hub(rest, "there") == config


@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "gelu_fast", "gelu_python"])
def test_other_names_of_an_activation(name: str) -> None:
    config = from_hub({"model_type": "gpt2", "activation_function": name}, "there")
    assert config.activation == ("gelu" if name == "gelu_python" else "gelu_new")


REFUSED = [
    ("bert", {}, "model_type: 'bert' is not supported; known: gpt2, llama, mistral, qwen2, "),
    ("mistral", {"layer_types": ["sliding_attention"]}, "layer_types: 'sliding_attention'"),
    ("mistral", {"sliding_window": 0}, "sliding_window: 0 is not supported"),
    ("mistral", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type: 'yarn'"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window: True"),
    ("qwen2", {"use_mrope": True}, "use_mrope: True"),
    ("smollm3", {"use_sliding_window": True}, "use_sliding_window: True"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers speaks of 2 layers, and there are 36"),
    ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers: 2 is not supported; it should be 0"),
    ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval: 0"),
    ("smollm3", {"attention_bias": True}, "attention_bias: True"),
    ("olmo2", {"attention_bias": True}, "attention_bias: True"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv: 8.0"),
    ("llama", {"sliding_window": 4096}, "sliding_window: 4096 is not supported"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window: True"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: 'sliding_"),
    ("llama", {"attention_bias": True}, "attention_bias: True"),
    ("llama", {"mlp_bias": True}, "mlp_bias: True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported; it should be 'silu'"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved: True"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4}"),
    ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    ("llama", {"residual_multiplier": 0.22}, "residual_multiplier: 0.22"),
    ("llama", {"is_causal": False}, "is_causal: False"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type: 'linear'"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type: 'dynamic'"),
    ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type: 'yarn'"),
    ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type: 'longrope'"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"rope_parameters": {"mrope_section": [1, 2]}}, "mrope_section"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "full_attention"),
    ("llama", {"rope_parameters": "yarn"}, "rope_parameters: 'yarn' is not an object"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "freq_factor is missing"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", **STRETCH, "high_freq_factor": 0.5}},
        "high_freq_factor must be above low_freq_factor",
    ),
    (
        "llama",
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
        "rope_theta is both 500000.0 and 10000.0",
    ),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights: False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention: True"),
    ("gpt2", {"activation_function": "relu"}, "activation_function: 'relu' is not supported"),
    ("gpt2", {"activation_function": "quick_gelu"}, "activation_function: 'quick_gelu'"),
    ("gpt2", {"rotary_dim": 64}, "rotary_dim: 64"),
    ("gpt2", {"n_embd": 100}, "n_embd 100 is not a multiple of n_head 12"),
    ("llama", {"num_key_value_heads": 5}, "32 is not a multiple of num_key_value_heads 5"),
    ("llama", {"head_dim": 7}, "head_dim 7 is no even number"),
    ("llama", {"hidden_size": 16}, "head_dim 0 is no even number"),
    (["llama"], {}, "model_type: ['llama'] is not supported"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers: 0"),
    ("llama", {"vocab_size": "many"}, "vocab_size: 'many'"),
    ("llama", {"eos_token_id": "</s>"}, "eos_token_id: '</s>'"),
]


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED)
def test_what_is_not_implemented_is_refused_by_name(
    kind: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=r"^base/config\.json: ") as caught:
        from_hub({"model_type": kind, **values}, "base/config.json")
    assert message in str(caught.value)


def test_dropouts_that_differ_change_no_shape() -> None:
    config = from_hub({"model_type": "gpt2", "attn_pdrop": 0.3, "resid_pdrop": 0.2}, "there")
    assert config == dataclasses.replace(from_hub({"model_type": "gpt2"}, "there"), dropout=0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a model directory"),
        ("{", "is not JSON"),
        ("[1]", "is not an object of keys and values"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (2, None, 2),
        (2, 2, 2),
        (2, [2, 5, 7], (2, 5, 7)),
        ([2, 5], [7, 5], (2, 5, 7)),
        (None, [5, 7], (5, 7)),
        ([], 5, 5),
        (-1, [5], 5),
        (2, [], 2),
    ],
)
def test_every_end_that_a_file_names_is_an_end(
    tmp_path: Path, config: object, generation: object, ends: object
) -> None:
    shape = {"model_type": "llama", "vocab_size": 10, "eos_token_id": config}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    if generation is not None:
        said = {"eos_token_id": generation, "do_sample": True}
        (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert read_config(tmp_path).eos == ends
