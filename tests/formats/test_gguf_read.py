"""GGUF files that others wrote: each quantisation, keys that are left out, and what is refused."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.formats.gguf.file import read, write
from tests.kit.ggufs import SHAPES, bpe, config_of, edited, tensors_of


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_of(SHAPES["llama"])
    path = tmp_path_factory.mktemp("gguf") / "llama.gguf"
    write(path, config, tensors_of(config), bpe(), "F32")
    return path


def test_each_quantisation_of_the_package_is_read(llama: Path, tmp_path: Path) -> None:
    original = dict(read(llama).tensors())["model.layers.0.mlp.up_proj.weight"]
    for kind in (Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0):

        def quantise(keys: dict[str, Any], tensors: dict[str, Any], kind: Kind = kind) -> None:
            up = tensors["blk.0.ffn_up.weight"][0]
            tensors["blk.0.ffn_up.weight"] = gguf.quantize(up, kind), kind

        path = edited(llama, tmp_path / f"{kind.name}.gguf", quantise)
        array = dict(read(path).tensors())["model.layers.0.mlp.up_proj.weight"]
        assert 0 < np.abs(array - original).max() < np.abs(original).max() / 6


def test_keys_that_are_left_out_are_llama_cpps(llama: Path, tmp_path: Path) -> None:
    config = config_of(SHAPES["llama, untied"] | {"n_kv_head": 4, "rope_theta": 10000.0})
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")

    def edit(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        for key in ("attention.head_count_kv", "attention.key_length", "rope.freq_base"):
            del keys[f"llama.{key}"]

    assert read(edited(tmp_path / "model.gguf", tmp_path / "few.gguf", edit)).config == config


INT = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.UINT32
TEXT = gguf.GGUFValueType.STRING, gguf.GGUFValueType.STRING
INTS = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32
BAD_KEYS = {
    "general.architecture": ("mamba", *TEXT, r"'mamba' is not known; known: gpt2, llama, qwen2"),
    "llama.expert_count": (8, *INT, r"llama\.expert_count: 8 is not implemented"),
    "llama.attention.sliding_window": (4096, *INT, r"sliding_window: 4096 is not implemented"),
    "llama.rope.scaling.type": ("yarn", *TEXT, r"rope\.scaling\.type: 'yarn' is not implemented"),
    "llama.rope.dimension_count": (8, *INT, r"rope\.dimension_count: 8 is not implemented"),
    "llama.attention.value_length": (8, *INT, r"attention\.value_length: 8 is not implemented"),
    "llama.attention.head_count_kv": ([4, 2], *INTS, r"num_key_value_heads: \[4, 2\]"),
    "llama.attention.head_count": (3, *INT, r"num_attention_heads 3 is not a multiple"),
    "llama.block_count": (None, *INT, r"lacks llama\.block_count"),
    "tokenizer.ggml.eot_token_id": ("x", *TEXT, r"eot_token_id is 'x', and there are 300 tokens"),
    "tokenizer.ggml.bos_token_id": ("x", *TEXT, r"bos_token_id: 'x' is not supported"),
    "tokenizer.ggml.eos_token_id": (300, *INT, r"eos_token_id is 300, and there are 300 tokens"),
}


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_feature_that_is_not_implemented_is_named(key: str, llama: Path, tmp_path: Path) -> None:
    value, *types, message = BAD_KEYS[key]

    def edit(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        keys[key] = value, *types
        if value is None:
            del keys[key]

    path = edited(llama, tmp_path / "bad.gguf", edit)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_an_id_that_stands_for_none_is_none(llama: Path, tmp_path: Path) -> None:
    def edit(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in ("bos", "padding", "unknown"):
            keys[f"tokenizer.ggml.{name}_token_id"] = 2**32 - 1, *INT

    file = read(edited(llama, tmp_path / "none.gguf", edit))
    assert (file.config.bos, file.config.pad, file.config.eos) == (None, None, 0)
    assert not {"bos_token", "pad_token", "unk_token"} & file.tokenizer_config().keys()


def lose(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def lose_embedding(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["token_embd.weight"]


def add_bias(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.attn_q.bias"] = np.ones(96, np.float32), Kind.F32


def lose_bias(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["blk.1.attn_k.bias"]


def test_a_qwen2_without_its_biases_is_refused(tmp_path: Path) -> None:
    config = config_of(SHAPES["qwen2"])
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")
    with pytest.raises(UserError, match=r"lacks the tensor blk\.1\.attn_k\.bias"):
        read(edited(tmp_path / "model.gguf", tmp_path / "few.gguf", lose_bias))


def quantise_strangely(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = np.zeros((256, 120), np.uint8), Kind.Q8_1


BAD_TENSORS = {
    "lacks the tensor blk.1.ffn_up.weight": lose,
    "lacks token_embd.weight": lose_embedding,
    "no llama here has the tensor blk.0.attn_q.bias": add_bias,
    r"blk.0.ffn_up.weight is quantised as Q8_1; read are F32, F16, Q4_0, .*Q6_K.*BF16": (
        quantise_strangely
    ),
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_tensors_that_are_wrong_are_named(message: str, llama: Path, tmp_path: Path) -> None:
    path = edited(llama, tmp_path / "bad.gguf", BAD_TENSORS[message])
    with pytest.raises(UserError, match=message):
        read(path)


def test_a_quantisation_that_the_package_does_not_know_is_told(llama: Path, tmp_path: Path) -> None:
    content = bytearray(llama.read_bytes())
    name = b"blk.0.ffn_up.weight"  # then the number of sizes, the sizes, the type
    content[content.index(name) + len(name) + 4 + 2 * 8] = 99
    (tmp_path / "new.gguf").write_bytes(content)
    with pytest.raises(
        UserError, match=r"newer than the package gguf knows: .*99.* is not a valid"
    ):
        read(tmp_path / "new.gguf")


def test_a_matrix_that_does_not_fit_its_heads_is_named(llama: Path, tmp_path: Path) -> None:
    def edit(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.attn_q.weight"] = np.zeros((97, 96), np.float32), Kind.F32

    file = read(edited(llama, tmp_path / "bad.gguf", edit))
    with pytest.raises(UserError, match=r"blk\.0\.attn_q\.weight does not fit"):
        list(file.tensors())


@settings(deadline=None, max_examples=50)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_one_message(llama: Path, part: float) -> None:
    path = llama.with_name("cut.gguf")
    content = llama.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match="is no GGUF file, damaged, or newer"):
        read(path)


def test_a_file_of_another_kind_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("<html>Not Found</html>" * 100)
    with pytest.raises(UserError, match=r"is no GGUF file, .*: GGUF magic invalid"):
        read(tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"none\.gguf cannot be read: No such file"):
        read(tmp_path / "none.gguf")
