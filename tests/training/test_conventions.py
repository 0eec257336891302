"""Tokens, training, samples and exports agree on what begins and ends a text, whatever the base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from nanogpt.architecture import GPTConfig
from nanogpt.commands.export import write_gguf
from nanogpt.common.errors import UserError
from nanogpt.formats.hub.config import read_config
from nanogpt.formats.weights import save_model
from nanogpt.model import GPT
from nanogpt.sources.bases import download_base
from nanogpt.text.prompt import prompt_ids
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words.tokenizer import load
from nanogpt.text.writer import tokenize
from nanogpt.training.start import initial_config
from tests.kit.recipes import quick
from tests.text.test_documents import settings
from tests.text.test_proof import STORIES, Change, corpus, same, starting

SHAPE = GPTConfig("llama", 500, 64, 1, 2, 2, 16, 32, 8, tied=True, eos=2)
WINDOW = {"context": 16, "dropout": 0.0}
RECIPE = quick(download__base="base", tokenize__tokenizer="base", model=WINDOW)


def put_model(folder: Path, config: GPTConfig) -> None:
    save_model(folder, config, dict(GPT(config).named_parameters()))


@pytest.mark.parametrize("rows", [500, 512])
@pytest.mark.parametrize(
    ("change", "bos"), [(starting, None), (starting, 0), (starting, 2), (same, None), (same, 0)]
)
def test_all_agree(tmp_path: Path, change: Change, bos: int | None, rows: int) -> None:
    raw = corpus(tmp_path, STORIES, change)
    base = tmp_path / "base"
    shutil.copytree(raw / "vocabulary", base)
    put_model(base, replace(SHAPE, vocab_size=rows, bos=bos))
    tokenize(raw, tmp_path / "tokens", settings("base"))
    tokens = open_tokens(tmp_path / "tokens")
    config = initial_config(RECIPE, tokens, base)

    model = tmp_path / "model"
    model.mkdir()
    for path in tokens.tokenizer_files():
        shutil.copyfile(path, model / path.name)
    put_model(model, config)
    begins, ids = load(model).begin, tokens.split("train")
    if begins:
        assert set(ids[tokens.starts("train")].tolist()) == set(begins)
    assert read_config(model).bos == (begins[0] if begins else bos)
    assert read_config(model).eos == (1, 2), "what ends a document here, and what ended one before"

    write_gguf(model, tmp_path / "model.gguf", "F32")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    found = {key.rpartition(".")[2]: field.contents() for key, field in fields.items()}
    assert found["add_bos_token"] == bool(begins)
    assert found.get("bos_token_id") == config.bos


def bytes_alone(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def nothing_around(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1")
    return tokenizer


@pytest.mark.parametrize(
    ("change", "about", "begins"),
    [
        (same, {"add_bos_token": True}, True),
        (bytes_alone, {"add_bos_token": True}, True),
        (nothing_around, {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer"}, True),
        (same, {"add_bos_token": False}, False),
        (same, {"tokenizer_class": "LlamaTokenizerFast"}, False),
        (starting, {}, True),
        (starting, {"add_bos_token": False}, True),
        (starting, {"add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"}, True),
    ],
)
def test_what_began_texts_in_training_begins_them_everywhere(
    tmp_path: Path, change: Change, about: dict[str, Any], begins: bool
) -> None:
    raw, brought = corpus(tmp_path, STORIES, change), tmp_path / "brought"
    said = {"bos_token": "<s>", "eos_token": "</s>"} | about
    (raw / "vocabulary" / "tokenizer_config.json").write_text(json.dumps(said))
    shutil.copytree(raw / "vocabulary", brought)
    put_model(brought, SHAPE)
    base = tmp_path / "base"
    download_base([str(brought)], base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, raw / "vocabulary" / name)
    expected = [0] if begins else []

    manifest = tokenize(raw, tmp_path / "tokens", settings("base"))
    assert manifest.begin == tuple(expected)
    tokens, model = open_tokens(tmp_path / "tokens"), tmp_path / "model"
    model.mkdir()
    for path in tokens.tokenizer_files():
        shutil.copyfile(path, model / path.name)
    put_model(model, initial_config(RECIPE, tokens, base))
    write_gguf(model, tmp_path / "model.gguf", "F32")
    download_base([str(tmp_path / "model.gguf")], tmp_path / "again")

    text = STORIES[3]
    theirs = Tokenizer.from_file(str(brought / "tokenizer.json"))
    ids = expected + theirs.encode(text, add_special_tokens=False).ids
    assert prompt_ids(load(model), text) == ids
    assert AutoTokenizer.from_pretrained(model)(text).input_ids == ids
    assert prompt_ids(load(tmp_path / "again"), text) == ids
    kept = json.loads((model / "tokenizer_config.json").read_text())
    assert kept.get("add_bos_token", begins) is begins
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is begins
    if begins:
        assert fields["tokenizer.ggml.bos_token_id"].contents() == 0
    assert (base / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"add_bos_token": "yes"}, "add_bos_token: 'yes' is neither true nor false"),
        ({"add_bos_token": True}, r"says add_bos_token, and tokenizer\.json has no token None"),
        ({"add_bos_token": True, "bos_token": "<b>"}, r"tokenizer\.json has no token '<b>'"),
        ([], r"tokenizer_config\.json is not an object of keys and values"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(tmp_path: Path, about: Any, said: str) -> None:
    folder = corpus(tmp_path, STORIES, same) / "vocabulary"
    put_model(folder, SHAPE)
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=f"^download.base: {folder}: .*{said}"):
        download_base([str(folder)], tmp_path / "base")


def test_a_base_keeps_its_end_where_its_tokenizer_names_none(tmp_path: Path) -> None:
    raw = corpus(tmp_path, STORIES, same)
    (raw / "vocabulary" / "tokenizer_config.json").unlink()
    base = tmp_path / "base"
    base.mkdir()
    put_model(base, SHAPE)
    assert tokenize(raw, tmp_path / "tokens", settings("base")).eot is None
    assert initial_config(RECIPE, open_tokens(tmp_path / "tokens"), base).eos == 2
