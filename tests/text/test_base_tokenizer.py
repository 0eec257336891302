"""A base model's own tokenizer: the library's ids, what stands around a text, ordinary text."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from nanogpt.common.errors import UserError
from nanogpt.text import library
from nanogpt.text.library import EOT
from nanogpt.text.tokenizer import (
    BPETokenizer,
    CharTokenizer,
    HubTokenizer,
    char_json,
    gpt2_json,
    load,
)
from tests.kit.recipes import ROOT
from tests.text.test_tokenizer import EDGES, PLAY, any_text, train_vocabulary

SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]


def base_json(special: list[str]) -> str:
    """A byte-level BPE that splits digits and begins with its special tokens, as SmolLM2's."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[AddedToken(text, special=True) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PLAY], trainer)
    text: str = tokenizer.to_str()
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "tokenizer.json").write_text(base_json([EOT, *SPECIAL]))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    return folder


@pytest.mark.parametrize("text", EDGES.values(), ids=EDGES.keys())
def test_ids_are_the_librarys_and_texts_come_back(folder: Path, text: str) -> None:
    ours, theirs = load(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert isinstance(ours, HubTokenizer)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(text=any_text)
def test_every_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_text_are_ordinary_text(folder: Path) -> None:
    tokenizer = load(folder)
    assert not set(tokenizer.encode(f"a{EOT}b<|im_end|>")) & set(range(1 + len(SPECIAL)))


@pytest.mark.parametrize(
    ("special", "eos", "end"),
    [
        ([EOT, *SPECIAL], "<|im_end|>", EOT),  # not the end of a turn of talk
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>"),
        (["<s>", "</s>"], "</s>", "</s>"),
        (["<s>", "</s>"], {"content": "</s>"}, "</s>"),
        (["<s>", "</s>"], None, None),
    ],
)
def test_what_ends_a_document(
    tmp_path: Path, special: list[str], eos: object, end: str | None
) -> None:
    (tmp_path / "tokenizer.json").write_text(base_json(special))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert load(tmp_path).eot == (None if end is None else special.index(end))


@pytest.fixture(scope="module")
def gpt2_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gpt2_json(train_vocabulary(tmp_path_factory.mktemp("gpt2") / "vocabulary"))


def put(folder: Path, values: dict[str, Any], **about: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


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
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "!",
}
TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}

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


def llama2() -> tokenizers.Tokenizer:
    """Merges over whole texts: blanks are letters, and one is put before each text."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(PLAY.split(" "), trainer)
    return tokenizer


def unigram() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([PLAY], trainer)
    return tokenizer


KINDS = {
    "smollm": lambda: tokenizers.Tokenizer.from_str(base_json([EOT, *SPECIAL])),
    "llama-2": llama2,
    "unigram": unigram,
}


@cache
def made(kind: str) -> tokenizers.Tokenizer:
    return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(
    pieces=st.lists(
        st.sampled_from([*PLAY.splitlines(), *EDGES.values(), " " * 700, "\n" * 90])
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        max_size=40,
    )
)
def test_a_long_text_in_windows_has_the_ids_of_the_whole(kind: str, pieces: list[str]) -> None:
    tokenizer, text = made(kind), " ".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "WINDOW", 300)
        patch.setattr(library, "OVERLAP", 120)
        ids = library.encode(tokenizer, text).tolist()
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_long_text_takes_little_memory(folder: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from nanogpt.text.tokenizer import load
tokenizer, text = load(Path(sys.argv[1])), sys.argv[2] * 1500
tokenizer.encode_array(text[:300_000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokenizer.encode_array(text)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / len(text.encode()))
"""
    command = [sys.executable, "-c", code, str(folder), PLAY]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert float(said) < 30, "bytes of memory for each byte of text"


def test_half_a_character(folder: Path) -> None:
    with pytest.raises(UserError, match=r"U\+D83D.* is half a character"):
        load(folder).encode("a\ud83d")


def template(*parts: str) -> processors.TemplateProcessing:
    special = [(part, i) for i, part in enumerate(["<s>", "</s>"]) if part in parts]
    return processors.TemplateProcessing(" ".join(parts), special_tokens=special)


NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("post_processor", [None, ("<s>", "$A"), ("<s>", "$A", "</s>")])
@pytest.mark.parametrize(
    "about",
    [
        NAMES,
        {},
        NAMES | {"add_bos_token": True},
        NAMES
        | {"add_bos_token": False, "add_eos_token": True, "tokenizer_class": "LlamaTokenizer"},
    ],
)
def test_what_stands_around_a_text_is_as_transformers_puts_it(
    tmp_path: Path, post_processor: tuple[str, ...] | None, about: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizers.Tokenizer.from_str(base_json(["<s>", "</s>"]))
    if post_processor:
        tokenizer.post_processor = template(*post_processor)
    put(tmp_path, json.loads(tokenizer.to_str()), **about)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)("To be").input_ids
    ours = load(tmp_path)
    ids = [*ours.begin, *ours.encode("To be")]
    assert theirs in (ids, [*ids, ours.eot])


@pytest.mark.parametrize(
    ("special", "parts", "about", "said"),
    [
        (["<s>", "</s>"], ("$A", "</s>", "</s>"), {}, "ends a text with 2 tokens, and one ends a"),
        (
            ["<s>"],
            (),
            {"eos_token": "<|im_end|>"},
            "has no token '<|im_end|>', which a file beside",
        ),
    ],
)
def test_a_tokenizer_whose_files_disagree(
    tmp_path: Path, special: list[str], parts: tuple[str, ...], about: dict[str, Any], said: str
) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(base_json(special))
    if parts:
        tokenizer.post_processor = template(*parts)
    put(tmp_path, json.loads(tokenizer.to_str()), **about)
    with pytest.raises(UserError, match=re.escape(said)):
        load(tmp_path)


def test_a_word_that_it_cannot_encode(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"to": 0, "be": 1}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    put(tmp_path, json.loads(words.to_str()))
    assert load(tmp_path).encode("to be") == [0, 1]
    with pytest.raises(UserError, match="the base's tokenizer cannot encode 'or not'"):
        load(tmp_path).encode("or not")
