"""Models of `transformers` load here and ours load there, with the same logits and bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from safetensors.torch import save_model as save_model_of_safetensors
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nanogpt.common.errors import UserError
from nanogpt.formats.check import check_model
from nanogpt.formats.hub.config import from_hub
from nanogpt.formats.weights import load_model, save_model
from nanogpt.model import rotary_table

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
STRETCH = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def theirs(kind: str, **values: Any) -> Any:
    """A small random model of transformers; the keys are named as llama's."""
    shape = {
        "vocab_size": 85,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "max_position_embeddings": 24,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind != "gpt2":
        shape |= {"intermediate_size": 48, "num_key_value_heads": 4, "head_dim": 8}
        shape |= {"pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | values)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a wrong name
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def check(model: Any, folder: Path, tolerance: float = 1e-5) -> None:
    """`folder` holds `model`: read it, and let them read what we write."""
    ours = load_model(folder)
    check_model(folder)
    torch.manual_seed(0)
    ids = torch.randint(ours.config.vocab_size, (2, ours.config.context))
    expected = model(ids).logits.float()
    torch.testing.assert_close(ours(ids), expected, atol=tolerance, rtol=0)
    written = folder / "written"
    written.mkdir(exist_ok=True)
    save_model(written, ours.config, dict(ours.named_parameters()))
    again = AutoModelForCausalLM.from_pretrained(written).eval()
    torch.testing.assert_close(again(ids).logits, expected, atol=tolerance, rtol=0)
    assert load_model(written).config == ours.config


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, untied, exact gelu": (
        "gpt2",
        {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 50},
    ),
    "llama": ("llama", {}),
    "llama, tied, grouped heads": (
        "llama",
        {"tie_word_embeddings": True, "num_key_value_heads": 2},
    ),
    "llama, one kv head, stretched": (
        "llama",
        {"num_key_value_heads": 1, "rope_parameters": STRETCH},
    ),
    "qwen3, tied, wide heads": ("qwen3", {"tie_word_embeddings": True, "head_dim": 24}),
    "qwen3, grouped heads, stretched": (
        "qwen3",
        {"num_key_value_heads": 2, "rope_parameters": STRETCH},
    ),
    "qwen2, tied, grouped heads": (
        "qwen2",
        {"tie_word_embeddings": True, "num_key_value_heads": 2},
    ),
    "qwen2, wide heads": ("qwen2", {"head_dim": 24}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral, window wider than its context": ("mistral", {"sliding_window": 24}),
    "smollm3": ("smollm3", {"num_key_value_heads": 2, "num_hidden_layers": 5}),
    "smollm3, every second layer, untied": (
        "smollm3",
        {"no_rope_layer_interval": 2, "tie_word_embeddings": False},
    ),
    "smollm3, layers of its own": ("smollm3", {"no_rope_layers": [0, 1, 1]}),
    "olmo2": ("olmo2", {}),
    "olmo2, tied, grouped heads, stretched": (
        "olmo2",
        {"tie_word_embeddings": True, "num_key_value_heads": 2, "rope_parameters": STRETCH},
    ),
}
KINDS = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2"]


@pytest.mark.parametrize(("kind", "values"), CASES.values(), ids=CASES.keys())
def test_whole_or_in_shards_it_is_the_same_model(
    kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    model = theirs(kind, **values)
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    model.save_pretrained(whole)
    model.save_pretrained(shards, max_shard_size="10KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    for folder in (whole, shards):
        check(model, folder)
        assert (folder / "written" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_half_precision(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs(kind).to(dtype).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    check(model, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "written" / WEIGHTS).values()} == {torch.float32}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_shape(tmp_path: Path, data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(KINDS))
    kv, group, width = draw(st.tuples(*[st.integers(1, 3)] * 3))
    values = {
        "vocab_size": draw(st.integers(3, 99)),
        "num_hidden_layers": draw(st.integers(1, 2)),
        "num_attention_heads": kv * group,
        "hidden_size": kv * group * draw(st.integers(1, 5)),
        "tie_word_embeddings": draw(st.booleans()),
        "initializer_range": 0.1,
    }
    if kind != "gpt2":
        values |= {"num_key_value_heads": kv, "head_dim": 2 * width}
        values["intermediate_size"] = draw(st.integers(1, 40))
        values["rope_parameters"] = draw(st.sampled_from([None, STRETCH]))
    model = theirs(kind, **values)
    model.save_pretrained(tmp_path)
    check(model, tmp_path, tolerance=1e-4)
    assert (tmp_path / "written" / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("stretched", [False, True])
def test_rotary_positions_are_the_same_up_to_the_last(stretched: bool) -> None:
    stretch = STRETCH | {"rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(
        max_position_embeddings=131072,
        head_dim=64,
        rope_parameters=stretch if stretched else {"rope_theta": 500000.0},
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.ones(1), torch.arange(131072)[None])
    ours = rotary_table(from_hub(config.to_dict(), "there"))
    torch.testing.assert_close(ours[0], cos[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours[1].abs(), sin[0].abs(), atol=1e-6, rtol=0)


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def rewrite(folder: Path, change: Change) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


@torch.no_grad()
def test_within_its_window_a_mistral_is_what_it_was(tmp_path: Path) -> None:
    model = theirs("mistral", sliding_window=9)  # of 24 tokens
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.context == 9
    ids = torch.randint(85, (2, 10))
    expected = model(ids).logits
    torch.testing.assert_close(ours(ids[:, :9]), expected[:, :9], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"model\.context: 10 is more than the 9 tokens"):
        load_model(tmp_path, context=10)
    save_model(tmp_path, ours.config, dict(ours.named_parameters()))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.max_position_embeddings == 9
    assert again.config.sliding_window is None
    torch.testing.assert_close(again(ids[:, :9]).logits, expected[:, :9], atol=1e-5, rtol=0)
    assert not torch.allclose(again(ids).logits[:, 9], expected[:, 9], atol=1e-3)


def test_gpt2_as_it_was_published(tmp_path: Path) -> None:
    model = theirs("gpt2")
    model.save_pretrained(tmp_path)

    def old(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        masks = {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.ones(())}
        return masks | {name.removeprefix("transformer."): t for name, t in tensors.items()}

    rewrite(tmp_path, old)
    check(model, tmp_path)


def test_old_llamas_store_their_frequencies(tmp_path: Path) -> None:
    model = theirs("llama")
    model.save_pretrained(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(tmp_path, lambda tensors: tensors | {name: torch.ones(4)})
    check(model, tmp_path)


def test_a_tied_head_that_is_stored_is_the_embedding(tmp_path: Path) -> None:
    model = theirs("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    embedding = load_file(tmp_path / WEIGHTS)["model.embed_tokens.weight"]
    rewrite(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding.clone()})
    check(model, tmp_path)
    rewrite(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding + 1})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from the embedding"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_tied_model_may_be_stored_by_its_head_alone(kind: str, tmp_path: Path) -> None:
    model = theirs(kind, tie_word_embeddings=True)
    model.config.save_pretrained(tmp_path)
    save_model_of_safetensors(model, str(tmp_path / WEIGHTS))
    stored = load_file(tmp_path / WEIGHTS)
    assert "lm_head.weight" in stored
    assert not any("embed" in name or "wte" in name for name in stored)
    check(model, tmp_path)


NORM = "model.norm.weight"
WRONG_TENSORS: dict[str, Change] = {
    rf"lacks the tensor {NORM}$": lambda t: {n: x for n, x in t.items() if n != NORM},
    r"lacks the tensor lm_head\.weight$": lambda t: {n: x for n, x in t.items() if n[0] != "l"},
    r"model\.safetensors has an unknown tensor model\.stray$": lambda t: (
        t | {"model.stray": torch.ones(3)}
    ),
    rf"{NORM} is \(31,\), config\.json says \(32,\)$": lambda t: t | {NORM: torch.ones(31)},
    r"q_proj\.weight is \(8, 32\), config\.json says \(32, 32\)$": lambda t: (
        t | {"model.layers.1.self_attn.q_proj.weight": torch.ones(8, 32)}
    ),
    rf"{NORM} is stored as torch\.int8, which is not read": lambda t: (
        t | {NORM: torch.ones(32, dtype=torch.int8)}
    ),
    rf"{NORM} has values that are NaN or infinite": lambda t: t | {NORM: t[NORM] / 0},
}


@pytest.mark.parametrize(("message", "change"), WRONG_TENSORS.items(), ids=range(7))
def test_a_wrong_tensor_is_named(message: str, change: Change, tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    for read in (load_model, check_model):
        with pytest.raises(UserError, match=message):
            read(tmp_path)


def test_learned_positions_must_be_as_many_as_config_json_says(tmp_path: Path) -> None:
    theirs("gpt2").save_pretrained(tmp_path)
    name = "transformer.wpe.weight"
    rewrite(tmp_path, lambda tensors: tensors | {name: torch.ones(30, 32)})
    with pytest.raises(UserError, match=r"wpe\.weight is \(30, 32\), config\.json says \(24, 32\)"):
        load_model(tmp_path, context=10)


def index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(change(values)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


SHARD = "model-00002-of-"
WRONG_FILES: dict[str, Callable[[Path], Any]] = {
    rf"index\.json names {SHARD}\d+\.safetensors, which is not there": lambda f: next(
        f.glob(f"{SHARD}*")
    ).unlink(),
    rf"{SHARD}\d+\.safetensors cannot be read": lambda f: cut(next(f.glob(f"{SHARD}*"))),
    r"index\.json is not an index of shards: JSONDecodeError": lambda f: cut(f / INDEX),
    r"index\.json is not an index of shards: KeyError": lambda f: index(f, lambda _: {}),
    r"is not an index of shards: AttributeError": lambda f: index(f, lambda _: {"weight_map": [1]}),
    rf"disagree on {NORM}; fetch both again": lambda f: index(
        f,
        lambda v: v | {"weight_map": {n: s for n, s in v["weight_map"].items() if n != NORM}},
    ),
    r"has no weights that can be read: .* \(there are 0\)": lambda f: (f / INDEX).unlink(),
}


@pytest.mark.parametrize(("message", "harm"), WRONG_FILES.items(), ids=range(7))
def test_a_wrong_file_is_named(message: str, harm: Callable[[Path], Any], tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    harm(tmp_path)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    cut(tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)
