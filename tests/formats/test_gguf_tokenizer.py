"""Tokenizers in GGUF files: the same ids before and after, and in transformers and llama.cpp."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.formats.gguf.tokenizer import add_tokenizer, tokenizer_config, tokenizer_json
from nanogpt.text.words.library import EOT
from nanogpt.text.words.vocabulary import char_json
from tests.kit.brought import learn
from tests.text.test_tokenizer import EDGES, PLAY, any_text

CUT = r"[^\r\n\p{L}\p{N}]?\p{L}+"
WORDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    return pre_tokenizers.Sequence([split, letters])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# how the makers of these models write it in their tokenizer.json, by llama.cpp's names
PRE_TOKENIZERS = {
    "gpt-2": GPT2,
    "smollm": pre_tokenizers.Sequence([DIGITS, GPT2]),
    "llama-bpe": by_pattern(rf"{SHORT}|{CUT}|\p{{N}}{{1,3}}|{WORDS}"),
    "qwen2": by_pattern(rf"{SHORT}|{CUT}|\p{{N}}|{WORDS}"),
}


@cache
def bpe(split: str) -> str:
    """The tokenizer.json of a small byte-level BPE, learned from a play and numbers."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[split]
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    learn(tokenizer, 400, [EOT, "<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    return str(tokenizer.to_str())


def config_of(vocab_size: int, **ids: Any) -> GPTConfig:
    shape = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 8, "n_inner": 8, "head_dim": 8}
    return GPTConfig("llama", vocab_size, context=32, tied=True, **shape, **ids)


def through_gguf(folder: Path, text: str, config: GPTConfig, template: str | None = None) -> Any:
    """The keys of a GGUF file that holds this tokenizer and nothing else."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add_tokenizer(writer, config, text, template)
    writer.add_tensor("none", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@cache
def both(split: str, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer before and after a GGUF file."""
    before = Tokenizer.from_str(bpe(split))
    keys = through_gguf(folder, bpe(split), config_of(before.get_vocab_size(), bos=0, eos=0))
    assert keys["tokenizer.ggml.pre"] == split
    return before, Tokenizer.from_str(tokenizer_json(folder, keys))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.mark.parametrize("split", PRE_TOKENIZERS)
@settings(deadline=None, max_examples=100)
@given(text=any_text)
def test_ids_are_the_same_after_a_gguf_file(folder: Path, split: str, text: str) -> None:
    before, after = both(split, folder)
    text = before.normalizer.normalize_str(text) if before.normalizer else text
    assert after.encode(text).ids == before.encode(text).ids
    assert after.decode(after.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("split", PRE_TOKENIZERS)
def test_ids_of_edges_are_the_same(folder: Path, split: str, edge: str) -> None:
    before, after = both(split, folder)
    text = f"{EDGES[edge]} 1234567 <|im_start|><think>\n  12   3"
    text = before.normalizer.normalize_str(text) if before.normalizer else text
    assert after.encode(text).ids == before.encode(text).ids


@pytest.mark.parametrize("split", ["gpt-2", "llama-bpe", "qwen2"])  # it knows no smollm
def test_transformers_reads_the_same_ids(split: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = config_of(401, bos=0, eos=0)
    keys = through_gguf(tmp_path, bpe(split), config)
    ours = Tokenizer.from_str(tokenizer_json(tmp_path, keys))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (PLAY, *EDGES.values(), "<|im_start|>1234567 <think>"):
        assert theirs(text)["input_ids"] == ours.encode(text).ids


def test_special_tokens_and_the_template_come_along(tmp_path: Path) -> None:
    config = config_of(410, bos=1, eos=(0, 1), pad=0)
    keys = through_gguf(tmp_path, bpe("smollm"), config, "{{ messages }}")
    types = keys["tokenizer.ggml.token_type"]
    assert types[:3] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL]
    assert types[400:402] == [TokenType.USER_DEFINED, TokenType.UNUSED]
    assert keys["tokenizer.ggml.tokens"][409] == "[PAD409]"  # the model has more rows
    after = json.loads(tokenizer_json(tmp_path, keys))
    added = [(token["content"], token["special"]) for token in after["added_tokens"]]
    assert added == [(EOT, True), ("<|im_start|>", True), ("<think>", False)]
    assert max(after["model"]["vocab"].values()) == 400
    assert tokenizer_config(keys) == {
        "bos_token": "<|im_start|>",
        "eos_token": EOT,
        "pad_token": EOT,
        "chat_template": "{{ messages }}",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
    }


def test_a_first_token_that_texts_are_given_stays(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.from_str(bpe("llama-bpe"))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    keys = through_gguf(tmp_path, tokenizer.to_str(), config_of(401, bos=1, eos=0))
    assert tokenizer_config(keys)["add_bos_token"]
    again = tokenizer_json(tmp_path, keys)
    (tmp_path / "tokenizer.json").write_text(again)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(keys)))
    expected = tokenizer.encode("To be").ids
    assert expected[0] == 1
    assert Tokenizer.from_str(again).encode("To be").ids == expected
    assert AutoTokenizer.from_pretrained(tmp_path)("To be")["input_ids"] == expected


def as_llama_cpp(keys: dict[str, Any], text: str) -> list[int]:
    """The ids that llama.cpp gives a text by a vocabulary of characters."""
    tokens = keys["tokenizer.ggml.tokens"]
    if keys["tokenizer.ggml.model"] == "rwkv":  # the longest token that fits
        plain = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}
        ids = {plain.get(token, token): i for i, token in enumerate(tokens)}
        assert all(len(token) == 1 for token in ids)
        return [ids[character] for character in text]
    # its merges may make what is no token, which those of the tokenizers library may not
    merges = [
        tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"] if EOT not in merge
    ]
    letters = [*tokens, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {letter: i for i, letter in enumerate(dict.fromkeys(letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["gpt-2"]
    return list(tokenizer.encode(text).ids)


@pytest.mark.parametrize("eot", [False, True])
@settings(deadline=None)
@given(text=st.one_of(any_text, st.sampled_from([PLAY, *EDGES.values()])).filter(bool))
def test_characters_are_the_same_ids(folder: Path, eot: bool, text: str) -> None:
    if not eot:  # of one document, which llama.cpp has in ASCII alone
        text = "".join(filter(str.isascii, text)) or "a"
    text_json = char_json(set(text), eot)
    ids = json.loads(text_json)["model"]["vocab"]
    config = config_of(len(ids), eos=ids.get(EOT), bos=ids.get(EOT))
    keys = through_gguf(folder, text_json, config)
    assert as_llama_cpp(keys, text) == [ids[character] for character in text]
    assert keys.get("tokenizer.ggml.eos_token_id") == ids.get(EOT)
    assert eot == (TokenType.CONTROL in keys["tokenizer.ggml.token_type"])
    # without merges llama.cpp does not load a BPE
    assert keys["tokenizer.ggml.model"] == "rwkv" or keys["tokenizer.ggml.merges"]


def changed(**parts: Any) -> str:
    """The tokenizer.json of GPT-2's kind with parts that are others."""
    tokenizer = Tokenizer.from_str(bpe("gpt-2"))
    for key, part in parts.items():
        if key != "model":
            setattr(tokenizer, key, part)
    values = json.loads(tokenizer.to_str())
    values["model"] |= parts.get("model", {})
    return json.dumps(values)


def words() -> str:
    tokenizer = Tokenizer(models.WordLevel({EOT: 0, "to": 1, "be": 2}, unk_token=EOT))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([EOT])
    return str(tokenizer.to_str())


def around(*ids: str) -> processors.TemplateProcessing:
    pairs = [(text, Tokenizer.from_str(bpe("gpt-2")).token_to_id(text)) for text in ids]
    return processors.TemplateProcessing(
        f"{ids[0]} $A {' '.join(ids[1:])}".strip(), special_tokens=pairs
    )


UNKNOWN = "neither one of characters nor a BPE that cuts texts as one of gpt-2, smollm,"
NOT_LLAMA_CPPS = {
    "of another length": (bpe("gpt-2"), 300, r"has id \d+, and the model 300 tokens"),
    "cut otherwise": (changed(pre_tokenizer=pre_tokenizers.Whitespace()), 401, UNKNOWN),
    "in lower case": (changed(normalizer=normalizers.Lowercase()), 401, UNKNOWN),
    "unigram": (Tokenizer(models.Unigram()).to_str(), 401, UNKNOWN),
    "words": (words(), 401, UNKNOWN),
    "bytes where it falls back": (changed(model={"byte_fallback": True}), 401, UNKNOWN),
    "whole words first": (changed(model={"ignore_merges": True}), 401, UNKNOWN),
    "two tokens around": (
        changed(post_processor=around("<|im_start|>", EOT)),
        401,
        r"puts the tokens \[1, 0\] around a text",
    ),
    "a first token that is no bos": (
        changed(post_processor=around(EOT)),
        401,
        r"puts the tokens \[0\] around a text, where bos_token_id is 1",
    ),
    "no end": (char_json("aé", eot=False), 2, r"never end on some texts.* two doc.* --format hf"),
}


@pytest.mark.parametrize("name", NOT_LLAMA_CPPS)
def test_what_llama_cpp_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    text, size, message = NOT_LLAMA_CPPS[name]
    with pytest.raises(UserError, match=message):
        through_gguf(tmp_path, text, config_of(size, bos=1))


def test_padding_of_the_last_text_is_no_first_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(bpe("gpt-2"))
    tokenizer.enable_padding(length=8, pad_id=0, pad_token=EOT)
    keys = through_gguf(tmp_path, tokenizer.to_str(), config_of(401, bos=0, eos=0))
    assert not tokenizer_config(keys)["add_bos_token"]


BAD_KEYS = {
    "the tokenizer is of kind 'llama'; only 'gpt2'": {"tokenizer.ggml.model": "llama"},
    "the tokenizer is of kind None": {"tokenizer.ggml.model": None},
    "'tekken' is not known; known: gpt-2, smollm, llama-bpe, qwen2": {
        "tokenizer.ggml.pre": "tekken"
    },
    r"\['qwen2'\] is not known; known: gpt-2, ": {"tokenizer.ggml.pre": ["qwen2"]},
    "the tokenizer is damaged: .*out of vocabulary": {"tokenizer.ggml.merges": ["Ġ qqq"]},
    "the tokenizer is damaged: KeyError.*merges": {"tokenizer.ggml.merges": None},
    "the tokenizer is damaged: ValueError": {"tokenizer.ggml.token_type": [1, 1]},
}


@pytest.mark.parametrize("message", BAD_KEYS)
def test_a_tokenizer_that_is_not_read_is_named(message: str, tmp_path: Path) -> None:
    keys = through_gguf(tmp_path, bpe("gpt-2"), config_of(401, eos=0)) | BAD_KEYS[message]
    keys = {key: value for key, value in keys.items() if value is not None}
    with pytest.raises(UserError, match=message) as error:
        tokenizer_json(tmp_path / "model.gguf", keys)
    assert str(tmp_path / "model.gguf") in str(error.value)
