"""The fast paths give the library's ids for every file, or are not taken."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.text.words.byte_pairs import BPETokenizer
from nanogpt.text.words.encoders import CharTokenizer
from nanogpt.text.words.library import EOT
from nanogpt.text.words.tokenizer import load
from nanogpt.text.words.vocabulary import char_json, gpt2_json
from tests.kit.brought import PADDING, TRUNCATION, put
from tests.text.test_tokenizer import PLAY, any_text, train_vocabulary


@pytest.fixture(scope="module")
def gpt2_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gpt2_json(train_vocabulary(tmp_path_factory.mktemp("gpt2") / "vocabulary"))


def added(text: str, i: int, special: bool, **flags: bool) -> dict[str, Any]:
    known = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": text, "special": special} | known | flags


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
START = {"SpecialToken": {"id": EOT, "type_id": 0}}
ID_A = {"Sequence": {"id": "A", "type_id": 0}}
STARTED = {
    "type": "TemplateProcessing",
    "single": [START, ID_A],
    "pair": [START, ID_A, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {EOT: {"id": EOT, "ids": [3], "tokens": [EOT]}},
}

# what tokenizer.json may say in each place; the first is what the fast paths know
SAID: dict[str, list[Any]] = {
    "truncation": [None, TRUNCATION],
    "padding": [None, PADDING, PADDING | {"strategy": "BatchLongest", "pad_to_multiple_of": 8}],
    "more": [[], [("To be", False)], [(" to", False)], [("<|im_end|>", True)], [("a", True)]],
    "flags": [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}],
    "normalizer": [
        None,
        {"type": "Lowercase"},
        {"type": "NFC"},
        {"type": "Prepend", "prepend": "e"},
    ],
    "post_processor": [None, BYTE_LEVEL, STARTED],
}
GPT2: dict[str, list[Any]] = SAID | {
    "pre_tokenizer": [
        BYTE_LEVEL | {"add_prefix_space": False},
        BYTE_LEVEL | {"add_prefix_space": False, "trim_offsets": False, "use_regex": True},
        BYTE_LEVEL,
        BYTE_LEVEL | {"add_prefix_space": False, "use_regex": False},
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
        },
    ],
    "decoder": [BYTE_LEVEL, {"type": "Fuse"}],
    "model": [
        {},
        {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
        {"dropout": 0.5},
        {"ignore_merges": True},
        {"unk_token": EOT},
        {"end_of_word_suffix": "e"},
    ],
    "words": ["as they are", "another order", "the end first", "a hole"],
}
CHAR: dict[str, list[Any]] = SAID | {
    "pre_tokenizer": [
        json.loads(char_json("a", eot=True))["pre_tokenizer"],
        {"type": "WhitespaceSplit"},
    ],
    "decoder": [{"type": "Fuse"}, {"type": "WordPiece", "prefix": "##", "cleanup": True}],
    "model": [{}, {"unk_token": "e"}],
    "words": ["as they are", "another order", "the end first", "a hole", "one of two letters"],
}


def edit(values: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json with other facts."""
    values = json.loads(json.dumps(values))
    words: dict[str, int] = values["model"]["vocab"]
    texts = sorted(words, key=words.__getitem__)
    if said["words"] == "another order":
        texts[:-1] = texts[-2::-1]
    elif said["words"] == "the end first":
        texts.insert(0, texts.pop())
    elif said["words"] == "one of two letters":
        texts[5] = "be"
    holes = said["words"] == "a hole"
    values["model"]["vocab"] = {text: i + (holes and i > 40) for i, text in enumerate(texts)}
    values["model"] |= said["model"]
    kept = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    values |= {key: said[key] for key in kept}
    values["added_tokens"][0]["id"] = values["model"]["vocab"][EOT]
    for text, special in said["more"]:
        values["added_tokens"].append(added(text, len(texts) + holes, special, **said["flags"]))
    return values


def remember_nothing(values: dict[str, Any]) -> tokenizers.Tokenizer:
    """The library's own tokenizer, of a file that was never used."""
    values = values | {"truncation": None, "padding": None}
    values["model"] = {**values["model"], "dropout": None}
    if values["model"]["type"] == "WordLevel":
        del values["model"]["dropout"]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(values))
    tokenizer.encode_special_tokens = True
    return tokenizer


def agree(folder: Path, values: dict[str, Any], text: str) -> None:
    """Ours gives the library's ids and texts, or refuses what the library cannot do."""
    try:
        theirs = remember_nothing(values)
        ids = theirs.encode(text, add_special_tokens=False).ids
    except Exception:
        with pytest.raises(UserError):
            load(put(folder, values)).encode(text)
        return
    ours = load(put(folder, values))
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def other_facts(may: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Each thing that a file may say, by itself."""
    known = {key: values[0] for key, values in may.items()}
    return [known | {key: value} for key, values in may.items() for value in values]


@pytest.mark.parametrize("kind", ["gpt2", "char"])
def test_a_fast_path_is_for_what_it_knows(tmp_path: Path, gpt2_text: str, kind: str) -> None:
    made = gpt2_text if kind == "gpt2" else char_json(PLAY, eot=True)
    for said in other_facts(GPT2 if kind == "gpt2" else CHAR):
        agree(tmp_path, edit(json.loads(made), said), PLAY)
        agree(
            tmp_path, edit(json.loads(made), said), f"a To be{EOT} <|im_end|> be" * (kind == "gpt2")
        )


@settings(deadline=None, max_examples=40)
@given(data=st.data(), kind=st.sampled_from(["gpt2", "char"]))
def test_a_fast_path_agrees_with_the_library_on_any_file(
    tmp_path_factory: pytest.TempPathFactory, gpt2_text: str, kind: str, data: st.DataObject
) -> None:
    may = GPT2 if kind == "gpt2" else CHAR
    said = {key: data.draw(st.sampled_from([values[0], *values])) for key, values in may.items()}
    made = gpt2_text if kind == "gpt2" else char_json(PLAY, eot=True)
    text = data.draw(any_text if kind == "gpt2" else st.text(sorted(set(PLAY))))
    agree(tmp_path_factory.mktemp("facts"), edit(json.loads(made), said), f"To be{text}a")


@pytest.mark.parametrize("kind", ["gpt2", "char"])
@pytest.mark.parametrize(
    "of_no_account",
    [
        {},
        {"truncation": TRUNCATION, "padding": PADDING},
        {"post_processor": BYTE_LEVEL},
        {"pre_tokenizer": GPT2["pre_tokenizer"][1], "model": GPT2["model"][1]},
    ],
)
def test_a_fast_path_is_taken(
    tmp_path: Path, gpt2_text: str, kind: str, of_no_account: dict[str, Any]
) -> None:
    made, may = (gpt2_text, GPT2) if kind == "gpt2" else (char_json(PLAY, eot=True), CHAR)
    said = {key: values[0] for key, values in may.items()}
    said |= {key: value for key, value in of_no_account.items() if kind == "gpt2" or key in SAID}
    values = edit(json.loads(made), said)
    found = load(put(tmp_path, values, add_bos_token=False, eos_token=EOT))
    assert isinstance(found, BPETokenizer if kind == "gpt2" else CharTokenizer)
