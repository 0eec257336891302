"""A base model's own tokenizer: the library's ids, its end of a document, ordinary text."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from nanogpt.common.errors import UserError
from nanogpt.text.tokenizer import EOT, BPETokenizer, HubTokenizer, gpt2_json, load
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


def test_gpt2s_own_kind_is_encoded_by_tiktoken(tmp_path: Path) -> None:
    text = gpt2_json(train_vocabulary(tmp_path / "vocabulary"))
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    assert isinstance(load(tmp_path), BPETokenizer)
    values = json.loads(text)
    values["pre_tokenizer"]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    assert isinstance(load(tmp_path), HubTokenizer)


def test_half_a_character(folder: Path) -> None:
    with pytest.raises(UserError, match=r"U\+D83D.* is half a character"):
        load(folder).encode("a\ud83d")
