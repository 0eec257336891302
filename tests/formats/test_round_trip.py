"""What is accepted comes back from each format as it was, or is refused before it is written."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.formats.gguf.file import read, write
from nanogpt.formats.hub.config import from_hub, to_hub
from nanogpt.formats.hub.keys import FILES
from nanogpt.formats.weights import hub_tensors, load_model, save_model
from nanogpt.model import GPT
from tests.kit.ggufs import bpe

SIZE = 300  # tokens
ID = st.sampled_from([None, -1, 0, 7, SIZE - 1, SIZE, 50256])
IDS = ID | st.lists(st.sampled_from([-1, 0, 1, 2, 3, 7, 299]), max_size=4)
LIKELY = st.floats(1.5, 1e7, width=64)


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.floats(0.1, 10))
    return {
        "rope_type": "llama3",
        "factor": draw(st.floats(1, 64)),
        "low_freq_factor": low,
        "high_freq_factor": low + draw(st.floats(0.01, 10)),
        "original_max_position_embeddings": draw(st.integers(1, 10**5)),
    }


@st.composite
def published(draw: st.DrawFn) -> dict[str, Any]:
    """A config.json as somebody may have written it."""
    kind = draw(st.sampled_from(list(FILES)))
    values = {
        "model_type": kind,
        "vocab_size": SIZE,
        "tie_word_embeddings": draw(st.booleans()),
        **{"bos_token_id": draw(ID), "eos_token_id": draw(IDS), "pad_token_id": draw(ID)},
    }
    if kind == "gpt2":
        shape = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 16}
        return values | shape | {"layer_norm_epsilon": draw(st.floats(1e-12, 0.1))}
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    shape |= {"intermediate_size": 8, "num_key_value_heads": 1, "max_position_embeddings": 16}
    rope = {"rope_theta": draw(LIKELY), "rope_scaling": draw(st.none() | scalings())}
    if kind == "mistral":
        rope["sliding_window"] = draw(st.none() | st.integers(1, 40))
    return values | shape | rope | {"rms_norm_eps": draw(st.floats(1e-12, 0.1))}


def close(config: GPTConfig) -> GPTConfig:
    """As precise as GGUF is, which knows no dropout and no Mistral."""
    few = {key: float(np.float32(getattr(config, key))) for key in ("norm_eps", "rope_theta")}
    known = "llama" if config.architecture == "mistral" else config.architecture
    return replace(config, architecture=known, dropout=0.0, **few)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round")


@settings(deadline=None, max_examples=60)
@given(published())
def test_a_config_comes_back_equal_or_is_refused(folder: Path, values: dict[str, Any]) -> None:
    config = from_hub(values, "there")
    assert from_hub(json.loads(json.dumps(to_hub(config))), "again") == config
    parameters = dict(GPT(config).named_parameters())
    save_model(folder, config, parameters)
    assert load_model(folder).config == config
    slots = {name: slot.numpy() for name, slot in hub_tensors(config, parameters).items()}
    path = folder / "model.gguf"
    path.unlink(missing_ok=True)
    ends = config.eos if isinstance(config.eos, tuple) else (config.eos,)
    beyond = any(end is not None and end >= SIZE for end in ends)
    scaled = config.rope_scaling and config.architecture not in ("llama", "mistral")
    if beyond or len(ends) > 3 or scaled:
        with pytest.raises(UserError):
            write(path, config, slots, bpe(), "F32")
        assert not list(folder.glob("*gguf*"))
    else:
        write(path, config, slots, bpe(), "F32")
        assert close(read(path).config) == close(config)


KEYS = sorted(
    {field.alias or name for file in FILES.values() for name, field in file.model_fields.items()}
    | {"rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor", "model_type"}
    | {"n_embd", "bias", "activation", "context", "another"}
)
ODD = st.sampled_from([-1, 0, 3, 2**31, 10**30, 1e39, 1e-50]) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "llama3"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=3,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(FILES)), st.dictionaries(st.sampled_from(KEYS), ODD))
def test_any_value_is_understood_or_refused(kind: str, values: dict[str, Any]) -> None:
    try:
        config = from_hub({"model_type": kind} | values, "there")
    except UserError:
        return
    assert from_hub(json.loads(json.dumps(to_hub(config))), "again") == config
    assert max(config.n_layer, config.n_head * config.head_dim) < 2**32
    assert all(value is None or math.isfinite(value) for value in (config.bos, config.norm_eps))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("key", ["rope_theta", "rope_scaling", "rope_parameters"])
def test_a_rotary_key_that_is_null_is_as_one_left_out(kind: str, key: str) -> None:
    values = {"model_type": kind}
    assert from_hub(values | {key: None}, "there") == from_hub(values, "there")


def test_what_stands_for_no_token_is_none() -> None:
    for value in (-1, [], [-1], None, [-1, -100]):
        config = from_hub({"model_type": "llama", "eos_token_id": value}, "there")
        assert config.eos is None
    config = from_hub({"model_type": "llama", "bos_token_id": -1, "pad_token_id": 32000}, "there")
    assert (config.bos, config.pad) == (None, None)
    assert from_hub({"model_type": "llama", "eos_token_id": [2, 2]}, "there").eos == 2
