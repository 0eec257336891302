"""A text shows what is certain of it, piece by piece, and ends before a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from nanogpt.generation.options import Options
from nanogpt.generation.text import Drawn, Text
from nanogpt.text.prompt import Start, go_on
from nanogpt.text.words.tokenizer import Tokenizer, load
from nanogpt.text.words.vocabulary import char_json
from tests.kit.brought import base_json, llama2, unigram
from tests.scoring.test_blocks import bert

KINDS = ("llama", "bytes", "characters", "unigram", "wordpiece", "no decoder")
ALPHABET = "ab\n é大"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Decoders that take a first blank away, or put blanks between tokens; bytes; characters."""
    pieces = bert()
    pieces.decoder = decoders.WordPiece()
    texts = {
        "llama": llama2().to_str(),
        "bytes": base_json(["<|im_end|>"]),
        "characters": char_json(ALPHABET, eot=False),
        "unigram": unigram().to_str(),
        "wordpiece": pieces.to_str(),
        "no decoder": bert().to_str(),
    }
    made = {}
    for kind, text in texts.items():
        folder = tmp_path_factory.mktemp(kind)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        made[kind] = load(folder)
    return made


def grow(text: Text, tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What is shown after each of the ids, and at the end."""
    shown = []
    for i in ids:
        text.grow(Drawn(i, text.spell(i), None, []))
        shown.append(text.text)
        if text.reason:
            return shown
    text.end("length")
    return [*shown, text.text]


def asked(*stop: str) -> Options:
    return Options(tokens=1, temperature=0, seed=0, stop=stop)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    letters = st.sampled_from(ALPHABET)
    if kind != "characters":
        letters |= st.characters(codec="utf-8")

    @given(st.text(letters, max_size=8), st.text(letters, max_size=12))
    def holds(prompt: str, more: str) -> None:
        before = tokenizer.encode(prompt)
        ids = tokenizer.encode(prompt + more)
        if ids[: len(before)] != before:  # the border is within a token
            return
        if prompt and not before:  # it has no blanks, and the prompt nothing else
            return
        new = ids[len(before) :]
        whole = tokenizer.decode(ids).removeprefix(tokenizer.decode(before))
        text = Text(Start(before, prompt), asked(), tokenizer)
        shown = grow(text, tokenizer, new)
        assert shown[-1] == whole
        assert all(later.startswith(one) for one, later in pairwise(shown))
        if "\ufffd" not in whole:
            assert not any("\ufffd" in one for one in shown)
        assert [token.id for token in text.tokens] == new
        assert b"".join(token.bytes for token in text.tokens).decode() == whole

    holds()


def test_any_bytes_are_decoded_as_their_whole(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]

    @given(st.lists(st.sampled_from(sorted(tokenizer.ids)), max_size=12))
    def holds(ids: list[int]) -> None:
        text = Text(go_on(tokenizer, "to"), asked(), tokenizer)
        assert grow(text, tokenizer, ids)[-1] == tokenizer.decode(ids)

    holds()


some = st.text("ab\n", max_size=30)


@given(some, st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_text_ends_before_the_stop_that_comes_first(
    tokenizers: dict[str, Tokenizer], whole: str, stop: list[str]
) -> None:
    tokenizer = tokenizers["characters"]
    text = Text(go_on(tokenizer, "a"), asked(*stop), tokenizer)
    shown = grow(text, tokenizer, tokenizer.encode(whole))
    complete = [n for n in range(len(whole) + 1) if any(s in whole[:n] for s in stop)]
    read = whole[: complete[0]] if complete else whole
    begins = [place for place in map(read.find, stop) if place >= 0]
    assert text.reason == ("stop" if complete else "length")
    assert text.text == (read[: min(begins)] if begins else read)
    assert "".join(token.bytes.decode() for token in text.tokens) == text.text
    for count, one in enumerate(shown[: len(read) - 1], start=1):
        held = read[:count].removeprefix(one)
        assert read[:count] == one + held
        assert not held or any(s.startswith(held) and s != held for s in stop)


def test_a_stop_that_begins_and_ends_within_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bytes"]
    start = go_on(tokenizer, "x")
    for stop, left in (("大é", "the "), ("e 大", "th"), ("é", "the 大")):
        text = Text(start, asked(stop), tokenizer)
        shown = grow(text, tokenizer, tokenizer.encode("the 大é king"))
        assert (text.reason, text.text) == ("stop", left)
        assert all(left.startswith(one) for one in shown)
