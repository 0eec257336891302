"""Tokenizers as bases bring them, small ones that were trained on a play."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.text.test_tokenizer import PLAY

NUMBERS = " ".join(str(n * n) for n in range(200))
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]


def base_json(special: list[str]) -> str:
    """A byte-level BPE that splits digits and begins with its special tokens, as SmolLM2's."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return learn(tokenizer, 500, special)


def learn(tokenizer: tokenizers.Tokenizer, vocab_size: int, special: list[str]) -> str:
    """The tokenizer.json of a byte-level BPE that learns from a play and numbers."""
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PLAY, NUMBERS], trainer)
    text: str = tokenizer.to_str()
    return text


def put(folder: Path, values: dict[str, Any], **about: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def template(*parts: str) -> processors.TemplateProcessing:
    special = [(part, i) for i, part in enumerate(["<s>", "</s>"]) if part in parts]
    return processors.TemplateProcessing(" ".join(parts), special_tokens=special)


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


PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "!",
}
TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
