"""tiktoken gives the library's ids for each kind of byte-level BPE, or is not asked."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanogpt.text.words import encoders
from nanogpt.text.words.byte_pairs import BPETokenizer, read_pairs
from nanogpt.text.words.encoders import Tokenizer
from nanogpt.text.words.library import EOT
from nanogpt.text.words.spelling import Spelling
from nanogpt.text.words.tokenizer import load
from nanogpt.text.words.vocabulary import bpe_json, char_json, train_bpe, words
from tests.formats.test_gguf_tokenizer import bpe
from tests.kit.brought import NUMBERS, llama2, put, unigram
from tests.text.test_tokenizer import EDGES, PLAY, any_text, every_character


def splits(values: dict[str, Any]) -> None:
    """Llama 3's way: each token has every merge of two tokens, and words are looked up whole."""
    vocabulary = values["model"]["vocab"]
    values["model"]["merges"] = [
        [text[:place], text[place:]]
        for text in sorted(vocabulary, key=vocabulary.__getitem__)
        for place in range(1, len(text))
        if text[:place] in vocabulary and text[place:] in vocabulary and "<" not in text
    ]
    vocabulary["Ġouttheword"] = 1 + max(vocabulary.values())  # that no merge makes
    values["added_tokens"][-1]["id"] = 2 + max(vocabulary.values())


def without_bytes(values: dict[str, Any]) -> None:
    """SmolLM2's way: some bytes have no token, and the library leaves them out."""
    for letter in "ĀðÈ":  # NUL, what four bytes begin with, and a part of others
        del values["model"]["vocab"][letter]
    texts = sorted(values["model"]["vocab"], key=values["model"]["vocab"].__getitem__)
    values["model"]["vocab"] = {text: i for i, text in enumerate(texts)}
    values["added_tokens"][-1]["id"] = len(texts)


KINDS: dict[str, tuple[Callable[[], str], Callable[[dict[str, Any]], None]]] = {
    "ours": (lambda: train_bpe([PLAY, NUMBERS, *EDGES.values()], 390, 0), lambda values: None),
    "gpt-2": (lambda: bpe("gpt-2"), lambda values: None),
    "smollm": (lambda: bpe("smollm"), lambda values: None),
    "smollm without some bytes": (lambda: bpe("smollm"), without_bytes),
    "qwen2": (lambda: bpe("qwen2"), lambda values: None),
    "llama-3": (lambda: bpe("llama-bpe"), splits),
    "llama-3 with few merges": (lambda: bpe("llama-bpe"), lambda values: None),
}

hostile = st.lists(
    st.sampled_from(
        [*PLAY.split(), *"aeht'sTS12 \n\r\t\0é😀\u0301\u00a0.", "'\u017f", "'S", "\r\n"]
    )
    | st.sampled_from(["  ", "\n\n ", "12345", " outtheword", EOT, "<|im_start|>", "<think>"])
    | any_text,
    max_size=30,
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@cache
def both(folder: Path, kind: str) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    make, edit = KINDS[kind]
    values = json.loads(make())
    edit(values)
    place = folder / kind
    place.mkdir()
    theirs = tokenizers.Tokenizer.from_str(json.dumps(values))
    theirs.encode_special_tokens = True
    return load(put(place, values)), theirs


@pytest.mark.parametrize("kind", KINDS)
def test_tiktoken_is_asked(folder: Path, kind: str) -> None:
    ours, _ = both(folder, kind)
    assert isinstance(ours, BPETokenizer)
    assert ours._fast(PLAY) is not None


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=100)
@given(text=hostile)
def test_ids_are_the_librarys(folder: Path, kind: str, text: str) -> None:
    ours, theirs = both(folder, kind)
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    halves = ids[1::2]
    assert ours.decode(halves) == theirs.decode(halves, skip_special_tokens=False)
    places, stands = ours.spans(text)
    assert places.tolist() == ids
    if ours._fast(text) is not None:
        data = text.encode()
        assert b"".join(data[a:b] for a, b in stands) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
def test_ids_of_edges_are_the_librarys(folder: Path, kind: str, edge: str) -> None:
    ours, theirs = both(folder, kind)
    assert ours.encode(EDGES[edge]) == theirs.encode(EDGES[edge], add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_read_as_they_were_saved(folder: Path, tmp_path: Path, kind: str) -> None:
    ours, theirs = both(folder, kind)
    assert isinstance(ours, BPETokenizer)
    ours.pairs.save(tmp_path / "pairs.npz")
    again = BPETokenizer(read_pairs(tmp_path / "pairs.npz"))
    for name, value in vars(ours.pairs).items():
        np.testing.assert_equal(getattr(again.pairs, name), value)
    assert [*again.pairs.ranks] == [*ours.pairs.ranks]
    for name in ("vocab_size", "ids", "begin", "eot", "special", "unknown"):
        assert getattr(again, name) == getattr(ours, name)
    for text in (PLAY, *EDGES.values(), "e\u0301", "\0"):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert again.encode(text) == ids
        assert again.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_spelled_as_the_library_has_it(folder: Path, kind: str) -> None:
    ours, theirs = both(folder, kind)
    known = Spelling(theirs)
    for i in range(-1, ours.vocab_size + 1):
        assert ours.spell(i) == (b"" if i < 0 else known.bytes(i))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_character_are_the_librarys(folder: Path, kind: str) -> None:
    ours, theirs = both(folder, kind)
    for text in every_character(0x110000):
        for some in (text, text.replace("a", "'"), text.replace(" ", "1")):
            assert ours.encode(some) == theirs.encode(some, add_special_tokens=False).ids


@st.composite
def merge_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges of a few letters: of what was made before, now and then in a wrong order."""
    known, merges = ["a", "b", "c"], []
    for _ in range(draw(st.integers(1, 12))):
        pair = draw(st.tuples(st.sampled_from(known), st.sampled_from(known)))
        if pair not in merges:
            merges.append(pair)
            known.append("".join(pair))
    if draw(st.integers(0, 9)) == 0:
        merges = draw(st.permutations(merges))
    return merges


@settings(deadline=None, max_examples=100)
@given(merges=merge_lists(), whole=st.booleans(), texts=st.lists(st.text("abc", max_size=40)))
def test_no_list_of_merges_gives_other_ids(
    folder: Path, merges: list[tuple[str, str]], whole: bool, texts: list[str]
) -> None:
    values = json.loads(bpe_json([], words()))
    vocabulary = values["model"]["vocab"]
    del vocabulary[EOT]
    for text in dict.fromkeys("".join(pair) for pair in merges):
        vocabulary[text] = len(vocabulary)
    values["model"] |= {"merges": merges, "ignore_merges": whole}
    values["added_tokens"] = []
    theirs = tokenizers.Tokenizer.from_str(json.dumps(values))
    ours = load(put(folder, values))
    assume(isinstance(ours, BPETokenizer))
    for text in ["".join(pair) + "".join(other) for pair in merges for other in merges] + texts:
        assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize(
    "merges",
    [
        [("ab", "c"), ("a", "b")],  # before its part
        [("a", "b"), ("b", "c"), ("a", "bc"), ("c", "a"), ("ab", "c")],  # in two places
    ],
)
def test_what_is_not_proven_is_the_librarys(tmp_path: Path, merges: list[tuple[str, str]]) -> None:
    values = json.loads(bpe_json([], words()))
    for text in ("ab", "bc", "abc", "ca"):
        values["model"]["vocab"][text] = len(values["model"]["vocab"])
    values["model"]["merges"] = merges
    assert not isinstance(load(put(tmp_path, values)), BPETokenizer)


CUT: dict[str, Callable[[], str]] = {kind: make for kind, (make, _) in KINDS.items()} | {
    "char": lambda: char_json(set(PLAY + "".join(EDGES.values())), eot=True),
    "llama-2": lambda: str(llama2().to_str()),
    "unigram": lambda: str(unigram().to_str()),
    "of a pattern that is not known": lambda: bpe("gpt-2").replace(
        '"add_prefix_space": false', '"add_prefix_space": true'
    ),
}


@cache
def cutter(folder: Path, kind: str) -> Tokenizer:
    place = folder / f"cut {kind}"
    place.mkdir()
    return load(put(place, json.loads(CUT[kind]())))


@pytest.mark.parametrize("kind", CUT)
@settings(deadline=None, max_examples=60)
@given(
    pieces=st.lists(st.sampled_from([*PLAY.splitlines(), *EDGES.values(), " 12 <think> "])),
    more=hostile,
    share=st.floats(0, 1),
)
def test_a_text_may_be_cut(
    folder: Path, kind: str, pieces: list[str], more: str, share: float
) -> None:
    tokenizer = cutter(folder, kind)
    text = "".join(pieces) + ("" if kind == "char" else more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "OVERLAP", 60)
        near = int(share * len(text))
        place = tokenizer.cut(text, near)
    if place is not None:
        assert near <= place < len(text)
        whole = tokenizer.encode(text)
        assert tokenizer.encode(text[:place]) + tokenizer.encode(text[place:]) == whole


@pytest.mark.parametrize("kind", CUT)
def test_a_play_is_cut_early(folder: Path, kind: str) -> None:
    play = PLAY * 20
    place = cutter(folder, kind).cut(play, 1000)
    assert place is None if kind == "llama-2" else place < 1100  # its merges are of whole texts
