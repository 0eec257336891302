"""Conversations become tokens, a mask of what the assistant says, and JSON to score others on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nanogpt.commands.tokens import Page
from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File, write_manifest
from nanogpt.scoring.reading import read
from nanogpt.settings import Expect, Tokenize
from nanogpt.stages.tokenize import main
from nanogpt.text.raw import open_raw
from nanogpt.text.talks.chat import Conversation, parse
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import SPLITS, HeldOut, open_tokens
from nanogpt.text.words.tokenizer import load
from nanogpt.text.writer import tokenize
from tests.kit.brought import base_json
from tests.kit.recipes import quick
from tests.kit.talks import talks
from tests.text.test_documents import make_raw, reading
from tests.text.test_template import CHATML

TALKS = talks(60)


def recipe(tokenizer: str) -> Tokenize:
    given = {"val": 0.1, "test": 0.1, "seed": 1, "near_duplicates": "count", "expect": None}
    size = 300 if tokenizer == "bpe" else None
    return Tokenize.model_validate(given | {"tokenizer": tokenizer, "vocab_size": size})


def of_talks(folder: Path, found: list[Any]) -> Path:
    lines = [json.dumps({"messages": talk}) for talk in found]
    return make_raw(folder, {"talks.jsonl": "\n".join(lines)}, "messages")


def bring(raw: Path, template: str | None) -> None:
    """What a base would: a tokenizer, and perhaps a template."""
    (raw / "vocabulary").mkdir()
    text = base_json(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    (raw / "vocabulary" / "tokenizer.json").write_text(text)
    if template:
        (raw / "vocabulary" / "chat_template.jinja").write_text(template)


def test_bytes_that_are_shown_are_those_of_the_tokens_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = quick(tokenize__tokenizer="char")
    settings.path("raw").parent.mkdir(parents=True)
    of_talks(settings.path("raw"), TALKS)
    main(settings)
    tokens = open_tokens(settings.path("tokens"))
    train = tokens.manifest.splits["train"]
    said = f"all but prompts: {train.counted:,} tokens of {train.bytes:,} bytes"
    assert said in capsys.readouterr().out
    Page(Console(width=120), tokens, "talks").print()
    shown = capsys.readouterr().out
    figures = [train.documents, train.tokens, train.counted, train.bytes]
    line = next(line for line in shown.splitlines() if line.split()[:1] == ["train"])
    assert line.split()[1:5] == [f"{figure:,}" for figure in figures]


@pytest.mark.parametrize("kind", ["char", "bpe", "base", "base without a template"])
def test_conversations_become_tokens(tmp_path: Path, kind: str) -> None:
    raw = of_talks(tmp_path / "raw", [*TALKS, TALKS[0]])
    name = kind.partition(" ")[0]
    if name == "base":
        bring(raw, CHATML if kind == "base" else None)
    tokenize(raw, tmp_path / "tokens", recipe(name), processes=1)

    tokens = open_tokens(tmp_path / "tokens")
    encoder = load(tokens.folder)
    template = open_template(tokens.folder, encoder)
    end = "<|im_end|>" if kind == "base" else "<|endoftext|>"
    assert tokens.manifest.turn_end == template.end == encoder.special[end]
    assert tokens.manifest.masked
    assert tokens.manifest.profile.copies == 1
    texts = []
    for split in SPLITS:
        ids, counted, starts = tokens.split(split), tokens.counted(split), tokens.starts(split)
        assert counted is not None
        whole, answers = encoder.decode(ids.tolist()), encoder.decode(ids[counted > 0].tolist())
        extent = tokens.manifest.splits[split]
        assert (extent.counted, extent.documents) == (int(counted.sum()), len(starts))
        assert extent.bytes == len(answers.replace(end, "").encode())
        texts += np.split(ids, starts[1:])
        assert whole.count("assistant\n") == answers.count(end)
        assert all(answer.startswith(("It is ", "Это ")) for answer in answers.split(end)[:-1])
    expected = [parse({"messages": talk}, "messages") for talk in TALKS]
    ours = sorted(ids.tolist() for ids in texts)
    assert ours == sorted(template.render(talk).ids.tolist() for talk in expected)
    held_out = tokens.text("test")
    assert [*held_out.talks()] == [*range(len(held_out.starts))]
    assert Conversation.from_json(held_out.document(0).decode()) in expected
    found = read(tokens.folder, encoder, held_out)
    assert np.array_equal(found.ids, tokens.split("test"))
    assert found.counted is not None
    assert np.array_equal(found.counted, tokens.counted("test"))


def test_bytes_of_a_token_are_of_the_answers(tmp_path: Path) -> None:
    raw = of_talks(tmp_path / "raw", TALKS)
    expect = Expect.model_validate({"min_bytes_per_token": 0.8})  # a letter is a byte or two
    settings = recipe("char").model_copy(update={"expect": expect})
    made = tokenize(raw, tmp_path / "tokens", settings)
    assert made.splits["train"].bytes < 0.7 * made.splits["train"].tokens


def test_texts_and_conversations_together(tmp_path: Path) -> None:
    """Each corpus in its own way, one after another; plain texts count whole."""
    raw = of_talks(tmp_path / "raw", TALKS)
    lines = "".join(json.dumps({"text": f"the text {i}"}) + "\n" for i in range(40))
    (raw / "corpus" / "texts.jsonl").write_text(lines)
    manifest = open_raw(raw)
    plain = manifest.parts[0].model_copy(update={"reading": reading("text"), "name": "texts"})
    file = File(name="corpus/texts.jsonl", bytes=len(lines), sha256="0" * 64)
    both = {"parts": (*manifest.parts, plain), "files": (*manifest.files, file)}
    write_manifest(raw, manifest.model_copy(update=both))
    bring(raw, CHATML)
    tokenize(raw, tmp_path / "tokens", recipe("base"), processes=1)
    tokens = open_tokens(tmp_path / "tokens")
    encoder = load(tokens.folder)
    assert [part.conversations for part in tokens.manifest.parts] == [True, False]
    counted = tokens.counted("val")
    assert counted is not None
    assert counted[tokens.part(1, "val")].all()
    assert not counted[tokens.part(0, "val")].all()
    text = tokens.text("val")
    assert text.ends
    assert len([*text.talks()]) == tokens.manifest.parts[0].splits["val"].documents
    assert np.array_equal(read(tokens.folder, encoder, text).ids, tokens.split("val"))
    first = HeldOut.of("one", text.document(len(text.starts) - 1).decode())
    assert read(tokens.folder, encoder, replace(first, ends=True)).counted is None


@pytest.mark.parametrize(
    ("template", "talk", "said"),
    [
        (CHATML, TALKS[:2], "characters in 2 documents, too few for tokenize.val"),
        (
            CHATML.replace("<|im_start|>' +", "' + raise_exception('no such role') +"),
            TALKS,
            "refuses a conversation (no such role), which begins",
        ),
    ],
)
def test_refused(tmp_path: Path, template: str, talk: list[Any], said: str) -> None:
    raw = of_talks(tmp_path / "raw", talk)
    bring(raw, template)
    with pytest.raises(UserError) as error:
        tokenize(raw, tmp_path / "tokens", recipe("base"), processes=1)
    assert said in str(error.value)
    assert not (tmp_path / "tokens").exists()


def test_a_template_in_which_nothing_ends_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = of_talks(tmp_path / "raw", TALKS)
    bring(raw, CHATML.replace("<|im_end|>", ""))
    manifest = tokenize(raw, tmp_path / "tokens", recipe("base"), processes=1)
    assert manifest.turn_end is None
    assert "ends an answer with no token" in capsys.readouterr().err
    tokens = open_tokens(tmp_path / "tokens")
    counted = tokens.counted("val")
    assert counted is not None
    said = load(tokens.folder).decode(tokens.split("val")[counted > 0].tolist())
    assert "assistant" not in said
    assert said.count(".") == said.count("It is") + said.count("Это")


def test_special_text_in_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "No."}]
    raw = of_talks(tmp_path / "raw", [*TALKS, odd])
    bring(raw, CHATML)
    tokenize(raw, tmp_path / "tokens", recipe("base"), processes=1)
    assert "1 of 61 texts (first" in (told := capsys.readouterr().err)
    assert "has '<|im_end|>' written in them" in told
