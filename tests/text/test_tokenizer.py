"""Ours, tokenizers and transformers agree on every id, and every text comes back as it was."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from nanogpt.common.errors import UserError
from nanogpt.sources.corpora import VOCABULARIES
from nanogpt.sources.fetch import fetch
from nanogpt.text.words.library import EOT
from nanogpt.text.words.tokenizer import Tokenizer, load
from nanogpt.text.words.vocabulary import char_json, gpt2_json, write

ROOT = Path(__file__).parents[2]
TINY_SHAKESPEARE = ROOT.parent / "shared" / "data" / "tiny_shakespeare.txt"

PLAY = """\
HAMLET:
To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them. To die—to sleep,
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to: 'tis a consummation
Devoutly to be wish'd.

OPHELIA:
Good my lord, how does your honour for this many a day?
I've 1602 letters; you'll say they're not Yorick's, I'd say we've 12.
"""

EDGES = {
    "empty": "",
    "newlines": "a\nb\n\nc\r\nd\re\n\n\n",
    "blanks": "a b  c   d\t\te \t f \n g    ",
    "long run of blanks": "a" + " " * 5000 + "b" + "\n" * 5000,
    "other blanks": "a\u00a0b\u2003c\u3000\u3000d\u2028e\u0085f\u1680g\ufeffh\u200bi\x1cj\x0bk",
    "control": "\0a\0\0\x01\x7f\x9f",
    "contractions": "I'm you're he's we'll they've I'd 's'S 'T 're'' 've it\u2019s rock'n'roll",
    "combining": "e\u0301 \u0301 \u0301\u0301a a\u20dd \u0915\u094d\u0937\u093f \u0e01\u0e33",
    "emoji": "😀👩\u200d👩\u200d👧\u200d👦 🇬🇧 👍🏽 ☹️ ❤\ufe0f\u200d🔥",
    "scripts": "привет мир 你好\uff0c世界 こんにちは مرحبا ١٢٣ ² ½ Ⅷ ǅ שלום नमस्ते",
    "private use and last": "\ue000\uf8ff\U000f0000\U0010ffff\uffff\ufdd0",
    "BPE's own letters": "Ġthe Ċ ĉ ▁the Ā ÿ",
    "end of a document": f"a{EOT}b {EOT}\n<|endoftext|",
    "replacement": "\ufffd",
    "no blanks": "x" * 3000 + "1" * 3000 + "!" * 3000,
}

any_text = st.text(st.characters(exclude_categories=["Cs"]))  # of all planes, but no surrogates


def train_vocabulary(folder: Path) -> Path:
    """A BPE of a few hundred merges, in the two files of GPT-2's format."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([PLAY, *EDGES.values()], trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    # the bytes in GPT-2's order: first those that can be printed, by letters of their own
    letters = sorted(alphabet, key=lambda letter: (ord(letter) > 255, ord(letter)))
    texts = [*letters, *("".join(merge) for merge in merges), EOT]
    folder.mkdir()
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "encoder.json").write_text(json.dumps({text: i for i, text in enumerate(texts)}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write(folder, gpt2_json(train_vocabulary(folder / "vocabulary")))
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    here = [path.parent for path in ROOT.glob("data/*/raw/vocabulary/encoder.json")]
    if not here and not os.environ.get("NANOGPT_TEST_NETWORK"):
        pytest.skip(
            "no recipe has downloaded GPT-2's vocabulary, and NANOGPT_TEST_NETWORK is unset"
        )
    if not here:
        here = [folder / "vocabulary"]
        fetch("vocabulary gpt2", VOCABULARIES["gpt2"], here[0])
    write(folder, gpt2_json(here[0]))
    return folder


def chars(folder: Path, text: str, eot: bool = False) -> Path:
    write(folder, char_json(set(text), eot))
    return folder


def reference(folder: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # as ours: nothing in a text is special
    return tokenizer


def check(text: str, ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.encode_array(text).tolist() == ids
    assert ours.decode(ids) == text == theirs.decode(ids, skip_special_tokens=False)


@given(any_text)
@settings(max_examples=100, deadline=None)
def test_characters_agree_with_tokenizers(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = chars(tmp_path_factory.mktemp("chars"), text or "a", eot=True)
    check(text, load(folder), reference(folder))


@pytest.mark.parametrize("text", EDGES.values(), ids=EDGES)
def test_characters_at_the_edges(tmp_path: Path, text: str) -> None:
    folder = chars(tmp_path, "".join(EDGES.values()))
    check(text, load(folder), reference(folder))


def test_characters_are_ordered_as_in_nanogpt(tmp_path: Path) -> None:
    tokenizer = load(chars(tmp_path, PLAY))
    assert tokenizer.encode(PLAY) == [sorted(set(PLAY)).index(character) for character in PLAY]
    assert (tokenizer.vocab_size, tokenizer.eot) == (len(set(PLAY)), None)


def test_the_end_of_a_document_comes_last(tmp_path: Path) -> None:
    tokenizer = load(chars(tmp_path, PLAY, eot=True))
    assert tokenizer.vocab_size == len(set(PLAY)) + 1
    assert tokenizer.eot == tokenizer.vocab_size - 1
    assert tokenizer.decode([0, tokenizer.eot]) == "\n" + EOT


def test_an_unknown_character_is_named_with_its_position(tmp_path: Path) -> None:
    folder = chars(tmp_path, PLAY, eot=True)
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 6 \(line 2\) is not in the"):
        load(folder).encode("To be\né")
    with pytest.raises(Exception, match="UNK"):  # nor do others drop it in silence
        reference(folder).encode("é")


def test_a_surrogate_is_refused(tmp_path: Path, trained: Path) -> None:
    for folder in (trained, chars(tmp_path, PLAY)):
        with pytest.raises(UserError, match=r"'\\ud83d' \(U\+D83D\) at position 2 \(line 1\)"):
            load(folder).encode("To\ud83d be")


@given(st.text(st.sampled_from("aehtos'TS12 \n\té😀\u0301\u00a0.")) | any_text)
@settings(max_examples=300, deadline=None)
def test_bpe_agrees_with_tokenizers(trained: Path, text: str) -> None:
    check(text, *_both(trained))


@pytest.mark.parametrize("text", [PLAY, *EDGES.values()], ids=["play", *EDGES])
def test_bpe_at_the_edges(trained: Path, text: str) -> None:
    check(text, *_both(trained))


def test_bpe_on_every_character(trained: Path) -> None:
    for text in every_character(0x20000):
        check(text, *_both(trained))


def test_bpe_survives_what_exhausts_tiktoken(trained: Path) -> None:
    check("a" + "\n" * 1_000_000 + f"b{EOT}", *_both(trained))


@pytest.mark.parametrize("text", [PLAY, *EDGES.values()], ids=["play", *EDGES])
def test_gpt2_at_the_edges(gpt2: Path, text: str) -> None:
    check(text, *_both(gpt2))


@pytest.mark.slow
def test_gpt2_on_every_character(gpt2: Path) -> None:
    for text in every_character(0x110000):
        check(text, *_both(gpt2))


def test_gpt2_has_its_ids(gpt2: Path) -> None:
    tokenizer = load(gpt2)
    assert tokenizer.encode("hello world") == [31373, 995]
    assert (tokenizer.vocab_size, tokenizer.eot) == (50257, 50256)


@pytest.mark.skipif(not TINY_SHAKESPEARE.exists(), reason=f"{TINY_SHAKESPEARE} is not here")
@pytest.mark.parametrize("kind", ["char", "trained", "gpt2"])
def test_on_the_whole_of_tiny_shakespeare(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = TINY_SHAKESPEARE.read_text(encoding="utf-8")
    folder = chars(tmp_path, text) if kind == "char" else request.getfixturevalue(kind)
    ours, theirs = _both(folder)
    check(text, ours, theirs)
    if kind == "char":
        assert ours.vocab_size == 65


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("kind", ["char", "char of many", "bpe"])
def test_transformers_loads_it_beside_a_model(
    kind: str, architecture: str, tmp_path: Path, trained: Path
) -> None:
    from transformers import AutoTokenizer

    text = "".join(value for value in EDGES.values() if EOT not in value)
    source = chars(tmp_path, text, eot=kind == "char of many") if kind != "bpe" else trained
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": architecture}))
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode(text)
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text
    assert theirs.is_fast
    assert (len(theirs), theirs.eos_token_id) == (ours.vocab_size, ours.eot)


def test_the_file_is_the_same_in_every_process() -> None:
    called = "char_json(set('To be, or not to be'), True)"
    code = f"from nanogpt.text.words.vocabulary import char_json; print({called})"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"model": null}', "\udcff", tokenizers.Tokenizer(models.BPE()).to_str()],
)
def test_a_foreign_or_damaged_tokenizer(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="is damaged, or not a tokenizer"):
        load(tmp_path)


def test_a_missing_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.json does not exist; run the download stage"):
        gpt2_json(tmp_path)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    folder = train_vocabulary(tmp_path / "vocabulary")
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    (folder / "vocab.bpe").write_text("\n".join(merges[:-9]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="do not belong together"):
        gpt2_json(folder)
    (folder / "encoder.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        gpt2_json(folder)


def every_character(stop: int) -> Iterator[str]:
    """Each character below `stop` after a letter and after a blank, a thousand to a text."""
    for first in range(0, stop, 1024):
        if not 0xD800 <= first < 0xE000:
            yield "".join(f"a{chr(point)} {chr(point)}" for point in range(first, first + 1024))


@cache
def _both(folder: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    return load(folder), reference(folder)
