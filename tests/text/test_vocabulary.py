"""A vocabulary that is learned from texts: always the same bytes, for any text, read by others."""

import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nanogpt.common.errors import UserError
from nanogpt.formats.gguf.tokenizer import tokenizer_json
from nanogpt.text.words import tokenizer, vocabulary
from nanogpt.text.words.cuts import cut
from nanogpt.text.words.tokenizer import load
from nanogpt.text.words.vocabulary import train_bpe, write
from tests.formats.test_gguf_tokenizer import config_of, through_gguf
from tests.kit.brought import NUMBERS
from tests.kit.recipes import ROOT
from tests.text.test_tokenizer import EDGES, PLAY, any_text

TEXTS = [PLAY, NUMBERS, *EDGES.values()]
SIZE = 390


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    write(folder, train_bpe(TEXTS, SIZE, 0))
    return folder


@cache
def both(folder: Path) -> tuple[tokenizer.Tokenizer, Tokenizer]:
    """What was learned, and what a GGUF file makes of it."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    keys = through_gguf(folder, text, config_of(SIZE, bos=SIZE - 1, eos=SIZE - 1))
    assert keys["tokenizer.ggml.pre"] == "qwen2"
    after = Tokenizer.from_str(tokenizer_json(folder, keys))
    after.encode_special_tokens = True
    return load(folder), after


@settings(deadline=None, max_examples=100)
@given(text=any_text)
def test_no_text_is_lost(folder: Path, text: str) -> None:
    ours, _ = both(folder)
    assert ours.decode(ours.encode(text)) == text


def test_it_has_its_size_and_an_end(folder: Path) -> None:
    ours = load(folder)
    assert (ours.vocab_size, ours.eot) == (SIZE, SIZE - 1)
    assert ours.ids == frozenset(range(SIZE))


def test_it_does_not_depend_on_threads_order_or_blocks(folder: Path) -> None:
    middle = cut(PLAY, len(PLAY) // 2)
    cut_up = [*reversed(TEXTS), PLAY[:middle], PLAY[middle:]]
    cut_up.remove(PLAY)
    code = "import json, sys; from nanogpt.text.words.vocabulary import train_bpe as t"
    code += f"; print(t(json.load(sys.stdin), {SIZE}, 0), end='')"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            input=json.dumps(texts).encode(),
            capture_output=True,
            check=True,
        ).stdout
        for threads, texts in (("1", TEXTS), ("4", TEXTS), ("4", cut_up))
    }
    assert found == {(folder / "tokenizer.json").read_bytes()}


def test_of_much_text_it_learns_from_a_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vocabulary, "BLOCK", 50)
    monkeypatch.setattr(vocabulary, "SAMPLE", 2000)
    texts = [f"{text} {i}" for i in range(20) for text in PLAY.splitlines()]
    total = sum(len(text.encode()) for text in texts)
    made = [train_bpe(some, 300, total) for some in (texts, texts[::-1])]
    assert made[0] == made[1]
    said = capsys.readouterr().err.splitlines()
    assert len(set(said)) == 1
    taken = int(said[0].split(": ")[-1].split(" of ")[0].replace(",", ""))
    assert 500 < taken < 4000
    assert f"of {total:,} bytes of the train split" in said[0]
    assert train_bpe(texts, 300, 1999) != made[0]
    assert not capsys.readouterr().err


def test_what_has_no_place_to_cut_is_taken_in_short_words() -> None:
    text = "".join(random.Random(1).choices("abcdefgh", k=40_000))
    words = [text[i : i + vocabulary.WORD] for i in range(0, len(text), vocabulary.WORD)]
    assert train_bpe([text], 400, 0) == train_bpe(words, 400, 0)


@pytest.mark.parametrize(
    ("texts", "size", "yields"),
    [
        (["a"], 258, 257),
        (["abc"], 258, 257),  # no pair occurs twice
        (["a" * 100], 300, 263),
        ([], 257, 257),
    ],
)
def test_a_size_above_what_the_text_yields(texts: list[str], size: int, yields: int) -> None:
    if size > yields:
        with pytest.raises(UserError, match=rf"vocab_size: {size} are more entries.* {yields};"):
            train_bpe(texts, size, 0)
    values = json.loads(train_bpe(texts, yields, 0))
    assert len(values["model"]["vocab"]) == yields


def test_one_character(tmp_path: Path) -> None:
    write(tmp_path, train_bpe(["a"], 257, 0))
    assert load(tmp_path).encode("aé") == [64, 127, 102]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_transformers_reads_the_same_ids(folder: Path, architecture: str) -> None:
    from transformers import AutoTokenizer

    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    assert (len(theirs), theirs.eos_token_id) == (ours.vocab_size, ours.eot)
    for name, text in EDGES.items():
        if name != "end of a document":
            assert theirs.encode(text) == ours.encode(text)
            assert theirs.decode(ours.encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(text=any_text | st.sampled_from([PLAY, "'\u017f 'S'LL", *EDGES.values()]))
def test_llama_cpp_is_told_what_gives_the_same_ids(folder: Path, text: str) -> None:
    ours, after = both(folder)
    # read here, a file's "qwen2" is Qwen's own, which knows the s of 1700; llama.cpp's does not
    text = text.replace("\u017f", "")
    assert after.encode(text).ids == ours.encode(text)
