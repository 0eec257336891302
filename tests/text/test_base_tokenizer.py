"""A base model's own tokenizer: the library's ids, what stands around a text, ordinary text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import (
    models,
    pre_tokenizers,
)

from nanogpt.common.errors import UserError
from nanogpt.text.words.byte_pairs import BPETokenizer
from nanogpt.text.words.library import EOT
from nanogpt.text.words.tokenizer import load
from tests.kit.brought import SPECIAL, base_json, put, template
from tests.text.test_tokenizer import EDGES, any_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "tokenizer.json").write_text(base_json([EOT, *SPECIAL]))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    return folder


@pytest.mark.parametrize("text", EDGES.values(), ids=EDGES.keys())
def test_ids_are_the_librarys_and_texts_come_back(folder: Path, text: str) -> None:
    ours, theirs = load(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert isinstance(ours, BPETokenizer)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(text=any_text)
def test_every_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_text_are_ordinary_text(folder: Path) -> None:
    tokenizer = load(folder)
    assert not set(tokenizer.encode(f"a{EOT}b<|im_end|>")) & set(range(1 + len(SPECIAL)))


@pytest.mark.parametrize(
    ("special", "eos", "end"),
    [
        ([EOT, *SPECIAL], "<|im_end|>", EOT),  # not the end of a turn of talk
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>"),
        (["<s>", "</s>"], "</s>", "</s>"),
        (["<s>", "</s>"], {"content": "</s>"}, "</s>"),
        (["<s>", "</s>"], None, None),
    ],
)
def test_what_ends_a_document(
    tmp_path: Path, special: list[str], eos: object, end: str | None
) -> None:
    (tmp_path / "tokenizer.json").write_text(base_json(special))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert load(tmp_path).eot == (None if end is None else special.index(end))


def test_half_a_character(folder: Path) -> None:
    with pytest.raises(UserError, match=r"U\+D83D.* is half a character"):
        load(folder).encode("a\ud83d")


NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("post_processor", [None, ("<s>", "$A"), ("<s>", "$A", "</s>")])
@pytest.mark.parametrize(
    "about",
    [
        NAMES,
        {},
        NAMES | {"add_bos_token": True},
        NAMES
        | {"add_bos_token": False, "add_eos_token": True, "tokenizer_class": "LlamaTokenizer"},
    ],
)
def test_what_stands_around_a_text_is_as_transformers_puts_it(
    tmp_path: Path, post_processor: tuple[str, ...] | None, about: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizers.Tokenizer.from_str(base_json(["<s>", "</s>"]))
    if post_processor:
        tokenizer.post_processor = template(*post_processor)
    put(tmp_path, json.loads(tokenizer.to_str()), **about)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)("To be").input_ids
    ours = load(tmp_path)
    ids = [*ours.begin, *ours.encode("To be")]
    assert theirs in (ids, [*ids, ours.eot])


@pytest.mark.parametrize(
    ("special", "parts", "about", "said"),
    [
        (["<s>", "</s>"], ("$A", "</s>", "</s>"), {}, "ends a text with 2 tokens, and one ends a"),
        (
            ["<s>"],
            (),
            {"eos_token": "<|im_end|>"},
            "has no token '<|im_end|>', which a file beside",
        ),
    ],
)
def test_a_tokenizer_whose_files_disagree(
    tmp_path: Path, special: list[str], parts: tuple[str, ...], about: dict[str, Any], said: str
) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(base_json(special))
    if parts:
        tokenizer.post_processor = template(*parts)
    put(tmp_path, json.loads(tokenizer.to_str()), **about)
    with pytest.raises(UserError, match=re.escape(said)):
        load(tmp_path)


def test_a_word_that_it_cannot_encode(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"to": 0, "be": 1}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    put(tmp_path, json.loads(words.to_str()))
    assert load(tmp_path).encode("to be") == [0, 1]
    with pytest.raises(UserError, match="the base's tokenizer cannot encode 'or not'"):
        load(tmp_path).encode("or not")
