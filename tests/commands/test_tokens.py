"""`nanogpt tokens`: what a person sees of a recipe's tokens, and what programs get."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer
from nanogpt.text.words.library import EOT, open_library
from nanogpt.text.words.spelling import Spelling
from nanogpt.text.words.vocabulary import char_json
from tests.kit.brought import SPECIAL, base_json, llama2, unigram
from tests.kit.recipes import Run
from tests.text.test_tokenizer import any_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte level")
    (folder / "tokenizer.json").write_text(base_json([EOT, *SPECIAL]))
    return folder


@settings(deadline=None, max_examples=50)
@given(text=any_text)
def test_the_bytes_of_tokens_are_their_text(folder: Path, text: str) -> None:
    spelling = Spelling(open_library(folder))
    ids = tokenizer.load(folder).encode(text)
    assert b"".join(map(spelling.bytes, ids)) == text.encode()


@pytest.mark.parametrize(
    ("made", "text", "before"),
    [
        (llama2().to_str(), "To be,  or not\n💡", " "),
        (unigram().to_str(), "To be or not", " "),
        (char_json("ab▁Ġ ", eot=True), "b▁ Ġa", ""),
    ],
    ids=["llama 2", "unigram", "char"],
)
def test_blanks_of_other_kinds_of_vocabulary(
    tmp_path: Path, made: str, text: str, before: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(made)
    spelling = Spelling(open_library(tmp_path))
    found = b"".join(map(spelling.bytes, tokenizer.load(tmp_path).encode(text)))
    assert found.decode() == before + text


def test_what_is_no_character_is_shown_as_what_it_is(tmp_path: Path, folder: Path) -> None:
    spelling = Spelling(open_library(folder))
    ids = tokenizer.load(folder).encode("\N{ELECTRIC LIGHT BULB}")
    assert [spelling.shown(token) for token in ids] == ["\\xf0", "\\x9f", "\\x92", "\\xa1"]
    assert spelling.shown(0) == EOT
    letters = ["\n", "\t", "\x1b", "\\", "'", '"', "\u200d", "\u0301", "א", "\u00a0", "é"]
    (tmp_path / "tokenizer.json").write_text(char_json(letters, eot=False))
    spelling, ids = (
        Spelling(open_library(tmp_path)),
        tokenizer.load(tmp_path).encode("".join(letters)),
    )
    assert [spelling.shown(token) for token in ids] == [
        *["\\n", "\\t", "\\x1b", "\\\\", "'", '"', "\\u200d", "◌\u0301", "א", "\\xa0", "é"]
    ]


def test_figures_are_those_of_the_files(tokenized: Path, run: Run) -> None:
    tokens = open_tokens(tokenized / "data" / "test" / "tokens")
    code, said = run("tokens", tokenized, "--json")
    assert code == 0
    found = json.loads(said)
    train, text = tokens.split("train"), tokens.text("val").data.decode()
    assert found["splits"]["train"]["tokens"] == len(train)
    assert found["profile"] == tokens.manifest.profile.model_dump(mode="json")
    assert sum(found["profile"]["sizes"]) == sum(s["documents"] for s in found["splits"].values())
    (first, *_), ids = found["commonest"], train.tolist()
    assert first["text"] == " "
    assert first["count"] == ids.count(first["id"])
    assert first["share"] == pytest.approx(first["count"] / len(ids))
    shown = "".join(found["paragraph"]).replace("\\n", "\n")
    assert len(shown) == 400
    assert text.startswith(shown)


def test_a_page_shows_sizes_and_borders(tokenized: Path, run: Run) -> None:
    code, said = run("tokens", tokenized)
    assert code == 0
    manifest = open_tokens(tokenized / "data" / "test" / "tokens").manifest
    for split in manifest.splits.values():
        assert f"{split.tokens:,}" in said
    assert "Latin" in said
    assert "█" in said
    assert re.search(r"(\w│){4}\w", said)  # whichever text comes first


def test_what_is_not_there_or_damaged_is_said(
    tokenized: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run("tokens", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere is not the folder of a recipe" in said
    (tmp_path / "params.yaml").write_bytes((tokenized / "params.yaml").read_bytes())
    code, said = run("tokens", tmp_path)
    assert code == 2
    assert "the recipe test has no tokens yet: `make run` makes them" in said
    folder = tmp_path / "data" / "test" / "tokens"
    folder.mkdir(parents=True)
    for file in (tokenized / "data" / "test" / "tokens").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    ids = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(b"\xff\xff" + ids[2:])
    code, said = run("tokens", tmp_path)
    assert code == 2
    assert "train.bin has the id 65,535, and its tokenizer has" in said
    (folder / "train.bin").write_bytes(ids[2:])
    code, said = run("tokens", tmp_path)
    assert code == 2
    assert "run the tokenize stage again" in said
