"""Tokens, training, samples and exports agree on what begins and ends a text, whatever the base."""

import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from nanogpt.architecture import GPTConfig
from nanogpt.commands.export import write_gguf
from nanogpt.formats.hub_config import read_config
from nanogpt.formats.weights import save_model
from nanogpt.model import GPT
from nanogpt.text.tokenizer import load
from nanogpt.text.tokens import open_tokens
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


def test_a_base_keeps_its_end_where_its_tokenizer_names_none(tmp_path: Path) -> None:
    raw = corpus(tmp_path, STORIES, same)
    (raw / "vocabulary" / "tokenizer_config.json").unlink()
    base = tmp_path / "base"
    base.mkdir()
    put_model(base, SHAPE)
    assert tokenize(raw, tmp_path / "tokens", settings("base")).eot is None
    assert initial_config(RECIPE, open_tokens(tmp_path / "tokens"), base).eos == 2
