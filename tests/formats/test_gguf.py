"""GGUF files: what we write, transformers, llama.cpp and we read as the same model."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.formats.gguf.file import read, write
from nanogpt.formats.gguf.layout import rope_factors
from nanogpt.formats.hub.config import to_hub
from nanogpt.text.words.library import EOT
from nanogpt.text.words.vocabulary import char_json
from tests.kit.ggufs import SHAPES, UNREAD, bpe, config_of, edited, model_of, tensors_of
from tests.text.test_tokenizer import EDGES, PLAY


@pytest.fixture(params=(SHAPES | UNREAD).values(), ids=(SHAPES | UNREAD).keys())
def config(request: pytest.FixtureRequest) -> GPTConfig:
    return config_of(request.param)


def test_what_is_written_is_read_bit_for_bit(config: GPTConfig, tmp_path: Path) -> None:
    tensors = tensors_of(config)
    write(tmp_path / "model.gguf", config, tensors, bpe(), "F32")
    again = read(tmp_path / "model.gguf")
    assert again.config == config
    found = dict(again.tensors())
    assert found.keys() == tensors.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensors[name], name)


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_the_same_logits(shape: str, dtype: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = config_of(SHAPES[shape])
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), dtype)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    expected = AutoModelForCausalLM.from_config(model_of(config).config).eval()
    stored = {n: torch.from_numpy(a) for n, a in read(tmp_path / "model.gguf").tensors()}
    expected.load_state_dict(stored, strict=not config.tied)
    ids = torch.randint(config.vocab_size, (2, 40))
    with torch.no_grad():
        logits, known = theirs(ids).logits, expected(ids).logits
        original = model_of(config)(ids).logits
    torch.testing.assert_close(logits, known, atol=1e-5, rtol=0)
    off = {"F32": 1e-5, "F16": 1e-2, "Q8_0": 1e-1}[dtype]
    assert (logits - original).abs().max() < off * original.abs().max()


def test_a_mistral_is_a_llama(tmp_path: Path) -> None:
    config = config_of(SHAPES["llama"])
    for number, architecture in enumerate(("llama", "mistral")):
        there = replace(config, architecture=architecture)  # type: ignore[arg-type]
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / "model.gguf", there, tensors_of(config), bpe(), "F32")
    first, second = (tmp_path / number / "model.gguf" for number in "01")
    assert first.read_bytes() == second.read_bytes()


def stored(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def test_rows_are_where_llama_cpp_turns_them(tmp_path: Path) -> None:
    """Source: `llama_model_rope_type` in llama.cpp's src/llama-model.cpp."""
    config = config_of(UNREAD["smollm3"])
    tensors, path = tensors_of(config), tmp_path / "model.gguf"
    write(path, config, tensors, bpe(), "F32")
    smollm3 = stored(path)
    write(path, replace(config, architecture="llama"), tensors, bpe(), "F32")
    llama = stored(path)
    assert smollm3.keys() == llama.keys()
    for name, array in llama.items():
        np.testing.assert_array_equal(smollm3[name], array, name)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert not np.array_equal(llama["blk.1.attn_k.weight"], tensors[name])
    for shape in (SHAPES["qwen2"], UNREAD["olmo2"]):
        config = config_of(shape)
        write(path, config, tensors_of(config), bpe(), "F32")
        np.testing.assert_array_equal(stored(path)["blk.1.attn_k.weight"], tensors_of(config)[name])


def test_layers_without_rotary_positions_that_llama_cpp_has_not(tmp_path: Path) -> None:
    config = config_of(UNREAD["smollm3"] | {"no_rope": (1, 3)})
    with pytest.raises(UserError, match=r"out of every fourth layer, and this model out of \[1, 3"):
        write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def llama_cpp() -> Any:
    reason = "builds from source for many minutes: pip install llama-cpp-python"
    return pytest.importorskip("llama_cpp", reason=reason)


@pytest.mark.parametrize("eot", [False, True])
def test_llama_cpp_reads_characters(eot: bool, llama_cpp: Any, tmp_path: Path) -> None:
    text = PLAY + EDGES["newlines"] + EDGES["scripts"] + EDGES["emoji"] + "\\n\\t\\\\"
    text = text if eot else "".join(filter(str.isascii, text))
    tokenizer = char_json(set(text), eot)
    ids = json.loads(tokenizer)["model"]["vocab"]
    config = config_of({"architecture": "llama", "vocab_size": len(ids)})
    config = replace(config, bos=ids.get(EOT), eos=ids.get(EOT), pad=None)
    write(tmp_path / "model.gguf", config, tensors_of(config), tokenizer, "F32")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    expected = [ids[character] for character in text]
    assert theirs.tokenize(text.encode()) == expected
    assert theirs.detokenize(expected).decode() == text
    assert theirs.token_eos() == ids.get(EOT, -1)


def test_llama_cpp_continues_in_the_same_way(
    config: GPTConfig, llama_cpp: Any, tmp_path: Path
) -> None:
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, verbose=False)
    start = Tokenizer.from_str(bpe()).encode("To be, or not").ids
    assert theirs.tokenize(b"To be, or not") == start
    ids = torch.tensor([start])
    with torch.no_grad():
        for _ in range(20):
            ids = torch.cat((ids, model_of(config)(ids).logits[:, -1:].argmax(-1)), dim=1)
    found = [token for token, _ in zip(theirs.generate(start, temp=0.0), range(20), strict=False)]
    assert found == ids[0, len(start) :].tolist()


def test_q8_0_is_off_by_half_a_step(config: GPTConfig, tmp_path: Path) -> None:
    tensors = tensors_of(config)
    write(tmp_path / "model.gguf", config, tensors, bpe(), "Q8_0")
    path = tmp_path / "model.gguf"
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}
    assert kinds["token_embd.weight"] == Kind.Q8_0
    assert kinds["output_norm.weight"] == kinds.get("position_embd.weight", Kind.F32) == Kind.F32
    for name, array in read(path).tensors():
        largest = np.abs(tensors[name]).max()
        assert np.abs(array - tensors[name]).max() <= largest * (0.5 / 127 + 2**-11)


def test_rows_that_are_no_whole_blocks_become_f16(tmp_path: Path) -> None:
    config = config_of({"architecture": "llama", "n_embd": 80, "head_dim": 20})
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "Q8_0")
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == Kind.F16  # rows of 80
    assert kinds["blk.0.ffn_down.weight"] == Kind.Q8_0  # rows of 256
    assert len(dict(read(tmp_path / "model.gguf").tensors())) == len(tensors_of(config))


def test_the_same_model_gives_the_same_bytes(config: GPTConfig, tmp_path: Path) -> None:
    tensors, path = tensors_of(config), tmp_path / "model.gguf"
    write(path, config, tensors, bpe(), "F16")
    first = path.read_bytes()
    write(path, config, dict(reversed(tensors.items())), bpe(), "F16")
    assert path.read_bytes() == first


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    config = config_of(SHAPES["gpt2"])
    (tmp_path / "model.gguf").write_text("older")

    class FullDisk(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if name == "transformer.ln_f.bias":
                raise OSError("no space left on device")
            return super().__getitem__(name)

    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "model.gguf", config, FullDisk(tensors_of(config)), bpe(), "F32")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert (tmp_path / "model.gguf").read_text() == "older"


def lose_constants(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
    for key in [key for key in keys if key.startswith("nanogpt.")]:
        del keys[key]


def test_the_rotary_scaling_of_llama_3_comes_back(tmp_path: Path) -> None:
    config = replace(
        config_of(SHAPES["llama, untied"]), rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192)
    )
    write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")
    assert read(tmp_path / "model.gguf").config == config
    other = replace(config, rope_scaling=RopeScaling(8.0, 1.0, 2.0, 8192))
    for scaled in (config, other):
        write(tmp_path / "ours.gguf", scaled, tensors_of(scaled), bpe(), "F32")
        theirs = edited(tmp_path / "ours.gguf", tmp_path / "theirs.gguf", lose_constants)
        if scaled is config:  # those of Meta are known
            assert read(theirs).config == config
    with pytest.raises(UserError, match=r"rope_freqs.weight is not the rotary scaling of a Llama"):
        read(theirs)
    for shape in (SHAPES["qwen3"], UNREAD["smollm3"]):
        scaled = replace(config_of(shape), rope_scaling=config.rope_scaling)
        with pytest.raises(
            UserError, match=f"rope_scaling in llama, not in {shape['architecture']}"
        ):
            write(tmp_path / "scaled.gguf", scaled, tensors_of(scaled), bpe(), "F32")


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_factors_are_those_of_transformers(theta: float) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = RopeScaling(8.0, 1.0, 4.0, 256)
    config = replace(config_of(SHAPES["llama"]), rope_scaling=scaling, rope_theta=theta)
    theirs = AutoConfig.for_model(**to_hub(config))
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    plain = theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    factors = rope_factors(config, scaling)
    assert factors.min() == 1 < factors.max()
    np.testing.assert_allclose(plain / factors, frequencies.numpy(), rtol=1e-5)


LARGEST = {"F32": 3e38, "F16": 65519.0, "Q8_0": 127 * 65519.0}


@pytest.mark.parametrize("dtype", LARGEST)
def test_a_value_that_a_type_has_not_is_refused(dtype: Any, tmp_path: Path) -> None:
    config = config_of(SHAPES["llama"])
    name = "model.layers.1.mlp.up_proj.weight"
    tensors, path = tensors_of(config), tmp_path / "model.gguf"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 4] = -LARGEST[dtype]
    write(path, config, tensors, bpe(), dtype)
    assert all(np.isfinite(array).all() for _, array in read(path).tensors())
    path.unlink()
    tensors[name][3, 4] *= 1.01
    if dtype == "F32":
        return  # it has them all
    with pytest.raises(UserError, match=rf"^{name} has a value of [\d,]+, too large for {dtype}; "):
        write(path, config, tensors, bpe(), dtype)
    assert not list(tmp_path.iterdir())


def test_gelu_that_llama_cpp_lacks_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(SHAPES["gpt2"] | {"activation": "gelu"})
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "model.gguf", config, tensors_of(config), bpe(), "F32")
    assert "tanh formula" in caplog.text
