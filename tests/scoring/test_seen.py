"""A text that a model was trained on is found in the training split."""

from pathlib import Path

import pytest

from nanogpt.scoring import seen as module
from nanogpt.scoring.seen import PASSAGES, seen
from nanogpt.text.tokens import HeldOut, open_tokens
from nanogpt.text.writer import tokenize
from tests.text.test_documents import jsonl, make_raw, settings
from tests.text.test_tokenizer import train_vocabulary

STORIES = [
    " ".join(f"The {i}th tale — of day {i * j} — ends with {'😀' * (j % 3)}{j}." for j in range(40))
    for i in range(1, 41)
]


@pytest.mark.parametrize("kind", ["char", "gpt2"])
def test_passages_of_a_text_are_found_where_they_are(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_raw(tmp_path / "raw", {"a.jsonl": jsonl(STORIES)})
    train_vocabulary(raw / "vocabulary")
    tokenize(raw, tmp_path / "tokens", settings(kind))
    tokens = open_tokens(tmp_path / "tokens")
    held_out = tokens.text("test")
    others = {held_out.document(i).decode() for i in range(len(held_out.starts))}
    others |= {
        tokens.text("val").document(i).decode() for i in range(len(tokens.text("val").starts))
    }
    trained = [story for story in STORIES if story not in others]

    assert seen(held_out, tokens) == (0, PASSAGES)
    assert seen(HeldOut.of("theirs", *trained), tokens) == (PASSAGES, PASSAGES)
    part = seen(HeldOut.of("part", trained[3][200:900]), tokens)
    assert part.found == part.looked > PASSAGES // 2
    half = HeldOut.of("half", trained[0][:1000] + held_out.document(0).decode()[:1000])
    found = seen(half, tokens)
    assert PASSAGES // 4 < found.found < found.looked
    assert seen(HeldOut.of("strange", "\U0001d11e" * 400), tokens).found == 0
    assert seen(HeldOut.of("short", "a few words"), tokens) == (0, 0)
    monkeypatch.setattr(module, "LARGEST", 10)
    assert seen(held_out, tokens) == (0, 0)
