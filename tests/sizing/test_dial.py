"""Counts against published figures; the dial: fixed where it was measured, sound elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.settings import FromScratch, Lora, parse
from nanogpt.sizing.count import config_of, count
from nanogpt.sizing.dial import RULES, once, tokens_of, turn
from nanogpt.text.tokens import Extent, TokensPart, open_tokens
from tests.kit.recipes import ROOT, values

GPT2 = {"architecture": "gpt2", "vocab_size": 50257, "context": 1024, "tied": True, "bias": True}
# layers, heads, width → parameters (Radford et al. 2019, as counted in Hugging Face's checkpoints)
GPT2_SIZES = {
    (12, 12, 768): 124_439_808,
    (24, 16, 1024): 354_823_168,
    (36, 20, 1280): 774_030_080,
    (48, 25, 1600): 1_557_611_200,
}
LLAMAS: dict[str, tuple[dict[str, Any], int]] = {
    "SmolLM2-135M": (
        {
            "architecture": "llama",
            "vocab_size": 49152,
            "context": 8192,
            "n_layer": 30,
            "n_head": 9,
            "n_kv_head": 3,
            "n_embd": 576,
            "n_inner": 1536,
            "head_dim": 64,
            "tied": True,
        },
        134_515_008,
    ),
    "TinyLlama-1.1B": (
        {
            "architecture": "llama",
            "vocab_size": 32000,
            "context": 2048,
            "n_layer": 22,
            "n_head": 32,
            "n_kv_head": 4,
            "n_embd": 2048,
            "n_inner": 5632,
            "head_dim": 64,
            "tied": False,
        },
        1_100_048_384,
    ),
    "Qwen3-0.6B": (
        {
            "architecture": "qwen3",
            "vocab_size": 151936,
            "context": 40960,
            "n_layer": 28,
            "n_head": 16,
            "n_kv_head": 8,
            "n_embd": 1024,
            "n_inner": 3072,
            "head_dim": 128,
            "tied": True,
        },
        596_049_920,
    ),
}


def gpt2(layers: int, heads: int, width: int, **changes: Any) -> GPTConfig:
    shape = {"n_layer": layers, "n_head": heads, "n_kv_head": heads, "n_embd": width}
    return GPTConfig(**GPT2 | shape | {"n_inner": 4 * width, "head_dim": width // heads} | changes)


def recipe(path: str = ".") -> FromScratch:
    found = parse(yaml.safe_load((ROOT / path / "params.yaml").read_text()))
    assert isinstance(found, FromScratch)
    return found


@pytest.mark.parametrize("shape", GPT2_SIZES)
def test_parameters_of_gpt2_are_the_published_ones(shape: tuple[int, int, int]) -> None:
    assert count(gpt2(*shape), 1024).parameters == GPT2_SIZES[shape]


@pytest.mark.parametrize("name", LLAMAS)
def test_parameters_of_others_are_the_published_ones(name: str) -> None:
    shape, parameters = LLAMAS[name]
    found = count(GPTConfig(**shape), 1024)
    assert found.parameters == parameters
    assert ("head" in found.parts) != shape["tied"]


def test_parts_and_operations_of_gpt2_are_those_of_nanogpt() -> None:
    # its transformer_sizing.ipynb, without biases: a block's parts, and a step's operations
    found = count(gpt2(12, 12, 768, bias=False), 1024)
    assert found.parts == {
        "token embedding": 38_597_376,
        "positions": 786_432,
        "attention": 12 * (1_769_472 + 589_824),
        "MLP": 12 * (2_359_296 + 2_359_296),
        "norms of blocks": 12 * (768 + 768),
        "last norm": 768,
    }
    assert found.parameters == 124_337_664
    assert found.flops_per_token * 1024 == 874_944_921_600
    # PaLM's formula, with N as that notebook has it: all parameters but positions
    palm = 6 * (found.parameters - 786_432) + 12 * 12 * 12 * 64 * 1024
    assert palm * 1024 == 875_062_886_400
    assert found.flops_per_token == pytest.approx(palm, rel=2e-4)


def test_adapters_spare_the_gradients_of_what_is_frozen() -> None:
    rank, full = 8, count(gpt2(12, 12, 768), 1024)
    found = count(gpt2(12, 12, 768), 1024, Lora(rank=rank, alpha=16.0, targets=["c_attn"]))
    adapters = 12 * rank * (768 + 3 * 768)
    assert found.parts == full.parts | {"adapters": adapters}
    assert (found.trained, full.trained) == (adapters, full.parameters)
    assert found.matrices == full.matrices
    # a third less for each frozen weight that multiplies, and all three products of an adapter
    spared = full.flops_per_token - found.flops_per_token
    assert spared == 2 * full.matrices - 6 * adapters


@pytest.mark.parametrize(
    "path",
    [
        ".",
        "pipelines/shakespeare_gpu",
        "pipelines/gpt2_openwebtext",
        "pipelines/tiny_shakespeare_nanogpt",
    ],
)
def test_a_recipe_at_its_own_depth_and_tokens_is_itself(path: str) -> None:
    own = recipe(path)
    turned = turn(own, 2048, own.model.n_layer, tokens=tokens_of(own))
    assert turned.settings == own


def test_twice_the_depth_of_the_default_recipe() -> None:
    own = recipe()
    turned = turn(own, 2048, 8, ratio=20)
    model, train = turned.settings.model, turned.settings.train
    assert (model.n_embd, model.n_head, model.n_inner) == (256, 8, 768)
    matrices = count(config_of(turned.settings, 2048), model.context).matrices
    assert matrices == 8 * (4 * 256**2 + 3 * 256 * 768) + 2048 * 256
    longer = 20 * matrices / tokens_of(own)
    before = own.train
    assert train.batch_size == pytest.approx(before.batch_size * longer**0.383, rel=0.1)
    pace = (train.batch_size / before.batch_size) ** 0.5 * longer**-0.32
    for rate, share in (("muon", pace), ("embedding", pace / 2)):
        key = f"{rate}_learning_rate"
        assert getattr(train, key) == pytest.approx(getattr(before, key) * share, rel=0.01)
    assert train.learning_rate == pytest.approx(before.learning_rate * pace / 2, rel=0.01)
    assert tokens_of(turned.settings) == pytest.approx(20 * matrices, rel=0.001)
    share = before.decay_steps / before.steps
    assert train.decay_steps / train.steps == pytest.approx(share, rel=0.01)
    assert "Hoffmann" not in turned.rule("train.steps")
    assert "Hoffmann et al. 2022" in turn(own, 2048, 8).rule("train.steps")


def test_adamw_goes_by_the_width_and_its_weights_remember_by_the_tokens() -> None:
    own = recipe("pipelines/gpt2_openwebtext")
    tokens = tokens_of(own)
    wider = turn(own, 50257, 12, aspect=128, tokens=tokens)
    assert wider.settings.train.batch_size == own.train.batch_size  # which the tokens decide
    assert wider.settings.train.learning_rate == pytest.approx(0.0006 / 2)
    assert "train.muon_learning_rate" not in wider.changes
    assert "train.embedding_learning_rate" not in wider.changes
    matrices = [count(config_of(s, 50257), 1024).matrices for s in (own, wider.settings)]
    # B / (rate x decay x D) goes with (D/N)^-0.527
    remembered = 0.1 * 2 * (matrices[0] / matrices[1]) ** 0.527
    assert wider.settings.train.weight_decay == pytest.approx(remembered, rel=0.01)


def test_a_short_text_is_read_four_times_unless_one_asks_for_more() -> None:
    own = recipe()
    short = turn(own, 2048, 8, corpus=100_000)
    assert tokens_of(short.settings) == pytest.approx(400_000, rel=0.01)
    assert "Muennighoff" in short.rule("train.steps")
    asked = turn(own, 2048, 8, ratio=20, corpus=100_000)
    assert asked.settings == turn(own, 2048, 8, ratio=20).settings


def test_of_a_mixture_the_corpus_that_ends_first_is_read_once(tokenized: Path) -> None:
    made = open_tokens(tokenized / "data" / "test" / "tokens").manifest
    whole = made.splits["train"]
    assert once(made, None) == whole.tokens
    parts = [
        TokensPart(
            name=name,
            conversations=False,
            splits={"train": Extent(tokens=tokens, counted=tokens, documents=1, bytes=tokens)},
        )
        for name, tokens in (("large", 9000), ("small", 1000))
    ]
    mixture = made.model_copy(update={"parts": tuple(parts)})
    assert once(mixture, [9.0, 1.0]) == 10_000
    assert once(mixture, [1.0, 1.0]) == 2000


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(1, 64),
    ratio=st.floats(0.5, 100),
    path=st.sampled_from([".", "pipelines/gpt2_openwebtext", "pipelines/tiny_shakespeare_nanogpt"]),
    kv=st.sampled_from([1, 2, 4]),
)
def test_any_turn_gives_settings_that_hold(depth: int, ratio: float, path: str, kv: int) -> None:
    own = recipe(path)
    if own.model.architecture != "gpt2":
        own = own.model_copy(update={"model": own.model.model_copy(update={"n_kv_head": kv})})
    turned = turn(own, 2048, depth, ratio=ratio)
    model, train = turned.settings.model, turned.settings.train
    assert model.n_embd // model.n_head == own.model.n_embd // own.model.n_head
    assert model.n_head / model.n_kv_head == own.model.n_head / own.model.n_kv_head
    # as many tokens as a whole number of steps comes to
    matrices = count(config_of(turned.settings, 2048), model.context).matrices
    step = train.batch_size * model.context
    assert abs(tokens_of(turned.settings) - ratio * matrices) <= max(step, 1)
    assert set(turned.changes) <= set(RULES)
    for key in turned.changes:
        assert turned.rule(key)


def test_too_far_a_turn_is_refused_by_the_key() -> None:
    with pytest.raises(UserError, match=r"model\.n_layer: 1001"):
        turn(recipe(), 2048, 1001)
    with pytest.raises(UserError, match=r"model\.n_layer: 1000000000(.|\n)*n_embd: 32000000000"):
        turn(recipe(), 2048, 10**9)


def test_each_key_that_the_dial_sets_is_a_setting_and_on_the_page() -> None:
    known, page = values(), (ROOT / "docs" / "sizing.md").read_text()
    for key in RULES:
        section, name = key.split(".")
        assert name in known[section]
        assert f"`{name}`" in page
