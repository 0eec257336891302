"""The tokenize stage proves its work: what a tokenizer loses is named, or stops the stage."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from nanogpt.common.errors import UserError
from nanogpt.text.checks import proof
from nanogpt.text.checks.proof import Proof
from nanogpt.text.tokens import SPLITS, open_tokens
from nanogpt.text.words.library import EOT
from nanogpt.text.words.tokenizer import load
from nanogpt.text.writer import tokenize
from tests.kit.brought import PADDING, TRUNCATION, base_json, llama2
from tests.text.test_documents import jsonl, make_raw, settings
from tests.text.test_tokenizer import PLAY, train_vocabulary

STORIES = [f"{i}. {line}" for i, line in enumerate(PLAY.splitlines()) if line]
LETTERS = sorted({*PLAY} - {"T"})
Change = Callable[[tokenizers.Tokenizer], tokenizers.Tokenizer]


def unknown(_: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(
        models.WordLevel({text: i for i, text in enumerate(["?", "</s>", *LETTERS])}, unk_token="?")
    )
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return made


def dropping(letters: str) -> Change:
    """All letters but these vanish without a trace."""
    vocabulary = {text: i for i, text in enumerate(["</s>", *letters])}
    return lambda _: tokenizers.Tokenizer(models.BPE(vocabulary, []))


def lowering(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def starting(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def same(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    return tokenizer


def corpus(folder: Path, texts: list[str], change: Change, **values: Any) -> Path:
    """A raw folder with a base's tokenizer, changed, whose file says `values`."""
    raw = make_raw(folder / "raw", {"a.jsonl": jsonl(texts)})
    (raw / "vocabulary").mkdir()
    special = ["<s>", "</s>", "<|im_end|>"]
    made = change(tokenizers.Tokenizer.from_str(base_json(special))).to_str()
    text = json.dumps(json.loads(made) | values)
    (raw / "vocabulary" / "tokenizer.json").write_text(text)
    (raw / "vocabulary" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return raw


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (same, {}),
        (same, {"truncation": TRUNCATION, "padding": PADDING}),
        (starting, {}),
        (lambda _: llama2(), {}),
        (lambda _: starting(llama2()), {"truncation": TRUNCATION}),
    ],
)
def test_documents_are_what_the_library_makes_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, values: dict[str, Any]
) -> None:
    raw = corpus(tmp_path, STORIES, change, **values)
    library = tokenizers.Tokenizer.from_file(str(raw / "vocabulary" / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    manifest = tokenize(raw, tmp_path / "tokens", settings("base"))
    tokens, end = open_tokens(tmp_path / "tokens"), library.token_to_id("</s>")
    found = []
    for name in SPLITS:
        found += [ids.tolist() for ids in np.split(tokens.split(name), tokens.starts(name)[1:])]
    assert sorted(found) == sorted([*library.encode(text).ids, end] for text in STORIES)
    assert manifest.begin == tuple(library.encode(STORIES[0]).ids[: len(manifest.begin)])
    assert manifest.eot == end
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("texts", [STORIES, ["".join(STORIES)]])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lowering,
            "the tokenizer changes texts: {} .*, such as .*'0. HAMLET:.*' comes back as '0. h",
        ),
        (unknown, "tokens stand for what the vocabulary does not have"),
    ],
)
def test_what_is_lost_is_named_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[str],
    change: Change,
    said: str,
) -> None:
    tokenize(corpus(tmp_path, texts, change), tmp_path / "tokens", settings("base"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len([line for line in lines if re.search(said.format(".*"), line)]) == 1, lines


@pytest.mark.parametrize(
    ("letters", "said"),
    [
        (
            "T",
            r"of [\d,]+ bytes of text, which is not plausible, such as '0\. HAM.*' comes back as",
        ),
        ("Theo", r"of [\d,]+ characters [\d,]+ come back from their tokens, such as '0\. HAMLET:"),
    ],
)
def test_a_text_that_does_not_come_back_stops_the_stage(
    tmp_path: Path, letters: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        tokenize(
            corpus(tmp_path, STORIES, dropping(letters)), tmp_path / "tokens", settings("base")
        )
    assert not (tmp_path / "tokens").exists()


def test_the_middle_of_a_long_text_counts_by_its_number_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "ENDS", 50)
    raw = corpus(tmp_path, STORIES, same)
    tokenizer, text = load(raw / "vocabulary"), PLAY * 40
    ids = tokenizer.encode_array(text)
    whole = Proof()
    whole.look(tokenizer, text, ids)
    whole.check()
    for lost in (ids[:-1], ids[1:]):
        cut = Proof()
        cut.look(tokenizer, text, lost)
        assert cut.changed == 1
    middle = Proof()
    middle.look(tokenizer, text, np.concatenate([ids[:60], ids[-60:]]))
    with pytest.raises(UserError, match="is not plausible; take another base"):
        middle.check()


def test_blanks_and_dots_are_no_fault(tmp_path: Path) -> None:
    """Long tokens make few of a text, and all of it comes back."""
    raw = make_raw(tmp_path / "raw", {"a.jsonl": jsonl(["a" + " " * 4096] * 20)})
    train_vocabulary(raw / "vocabulary")
    manifest = tokenize(raw, tmp_path / "tokens", settings("gpt2"))
    assert manifest.splits["train"].tokens < manifest.splits["train"].bytes / 32


SPELLED = ["a", "<s>b</s>\nc<s>", f"one{EOT}two", "d <|im_end|>", "{<s>}"]


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (
            "base",
            [
                ("2 of 5", "line 2", "'<s>' written in them (2 times there, first in line 1)"),
                ("1 of 5", "line 2", "'</s>' written in them (1 times there, first in line 1)"),
                ("1 of 5", "line 3", f"'{EOT}' written in them (1 times there"),
                ("1 of 5", "line 4", "'<|im_end|>' written in them"),
            ],
        ),
        ("char", [("1 of 5", "line 3", f"'{EOT}' written in them (1 times there")]),
        ("gpt2", [("1 of 5", "line 3", f"'{EOT}' written in them (1 times there")]),
    ],
)
def test_special_tokens_in_a_plain_text_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tokenizer: str,
    expected: list[tuple[str, str, str]],
) -> None:
    raw = corpus(tmp_path, SPELLED, same)
    if tokenizer == "gpt2":
        for path in train_vocabulary(tmp_path / "gpt2").iterdir():
            path.rename(raw / "vocabulary" / path.name)
    tokenize(raw, tmp_path / "tokens", settings(tokenizer))
    lines = [line for line in capsys.readouterr().err.splitlines() if "written in" in line]
    assert len(lines) == len(expected)
    for line, parts in zip(lines, expected, strict=True):
        assert all(part in line for part in parts), line
        assert ("download.separator" in line) == (EOT in line)


def test_stories_in_one_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_raw(tmp_path / "raw", {"stories.txt": f"\n{EOT}\n".join(STORIES)})
    tokenize(raw, tmp_path / "tokens", settings())
    count = len(STORIES) - 1
    said = f"stories.txt) has '{EOT}' written in them ({count} times there, first in line 2)"
    assert said in capsys.readouterr().err


def test_documents_without_an_end_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = corpus(tmp_path, STORIES, same)
    (raw / "vocabulary" / "tokenizer_config.json").unlink()
    assert tokenize(raw, tmp_path / "tokens", settings("base")).eot is None
    assert "nothing says which token of the base ends a document" in capsys.readouterr().err
