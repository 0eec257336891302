"""Vocabularies that are made here: the tokenizer.json of each.

    write(folder, char_json(set(text), eot=False))      # an id a character
    write(folder, gpt2_json(vocabulary))                # GPT-2's byte pairs
    write(folder, train_bpe(texts, 1024, total))        # byte pairs learned from texts

The Hugging Face libraries read them with the same ids.
"""

import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from nanogpt.common.errors import UserError
from nanogpt.text.words.cuts import cut
from nanogpt.text.words.library import EOT

BYTES = 256
BLOCK = 1 << 14  # characters of a text that are looked at in one, about
# characters after which what has no place to cut is two words: long ones take the library minutes
WORD = 1 << 8
# bytes that a vocabulary is learned from: it takes a core a second for 2 MB, and three times as
# much gives vocabularies of 4,096 entries that make 0.4 % fewer tokens
SAMPLE = 1 << 25
# Qwen2's pattern, which makes 8 % fewer tokens of plays than GPT-2's: what ends a line may be one
# token with what stands before. Its (?i:'s) is spelled out, as llama.cpp reads it: so an s of 1700
# (U+017F) is no s
WORDS = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(folder: Path, tokenizer_json: str) -> None:
    """Write tokenizer.json, and the tokenizer_config.json with which transformers loads it."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if json.loads(tokenizer_json)["added_tokens"]:
        config |= {"bos_token": EOT, "eos_token": EOT}  # it stands between documents, as GPT-2's
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8", newline="\n")
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")


def char_json(characters: Iterable[str], eot: bool) -> str:
    """The tokenizer.json of a vocabulary of `characters`, with an end of document or without."""
    texts = sorted(characters) + [EOT] * eot
    # WordLevel with no entry for unknown words: unlike a BPE without merges, it refuses a
    # character that it does not know instead of dropping it
    tokenizer = tokenizers.Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _json(tokenizer, eot)


def gpt2_json(vocabulary: Path) -> str:
    """The tokenizer.json of a folder that holds encoder.json and vocab.bpe in GPT-2's format.

    Raises:
        UserError: one is missing or damaged, or they do not belong together.
    """
    # tiktoken's own reader of these files is not used: it caches them by path, in a shared folder
    try:
        ids = json.loads((vocabulary / "encoder.json").read_text(encoding="utf-8"))
        lines = (vocabulary / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist; run the download stage again") from None
    except ValueError as error:
        raise UserError(
            f"{vocabulary} is damaged ({error}); run the download stage again"
        ) from None
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines[1:-1])]
    if ids != by_rank(merges):
        raise UserError(
            f"{vocabulary}: encoder.json and vocab.bpe do not belong together, or are not in"
            " GPT-2's format; run the download stage again"
        )
    return bpe_json(merges, pre_tokenizers.ByteLevel(add_prefix_space=False))


def train_bpe(texts: Iterable[str], size: int, total: int) -> str:
    """The tokenizer.json of byte pairs that are learned from texts: `size` entries in all.

    They are the 256 bytes, so that no text is lost, then what is merged, then a document's end.
    The same texts give the same bytes, in whatever order they come and on any number of threads.

    Args:
        total: bytes of the texts, about; beyond SAMPLE it learns from part of them.

    Raises:
        UserError: fewer pairs occur twice.
    """
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = words()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,
        initial_alphabet=sorted(bytes_by_letter()),
        show_progress=False,
    )
    sample = Sample(max(1, -(-total // SAMPLE)))
    learned.train_from_iterator(sample.of(texts), trainer)
    if sample.share > 1:
        said = f"{sample.taken:,} of {sample.bytes:,} bytes of the train split"
        print(f"tokenize: the vocabulary is learned from a sample: {said}", file=sys.stderr)
    merges = [tuple(merge) for merge in json.loads(learned.to_str())["model"]["merges"]]
    yields = BYTES + len(merges) + 1
    if yields < size:
        raise UserError(
            f"tokenize.vocab_size: {size:,} are more entries than the train split yields: it has"
            f" pairs of bytes that occur twice for {yields:,}; ask for {yields:,} at most, bring"
            " more text, or take tokenizer: char, vocab_size: null"
        )
    return bpe_json(merges, words())


@dataclass
class Sample:
    """One block of so many (`share`) of some texts, by their bytes, whatever their order."""

    share: int
    taken: int = 0  # bytes
    bytes: int = 0

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts in blocks, which the library takes by hundreds: so it never holds much."""
        for text in texts:
            for block in _blocks(text, BLOCK):
                data = block.encode()
                self.bytes += len(data)
                if zlib.crc32(data) % self.share == 0:
                    self.taken += len(data)
                    yield from _blocks(block, WORD)


def _blocks(text: str, size: int) -> Iterator[str]:
    """A text in blocks of so many characters or more, cut where words are, if they are anywhere."""
    begin = 0
    while begin < len(text):
        stop = cut(text, begin + size, begin + 2 * size) or begin + size
        yield text[begin:stop]
        begin = stop


def words() -> pre_tokenizers.PreTokenizer:
    """How a text is cut before its bytes are merged."""
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, letters])


def bpe_json(merges: list[tuple[str, str]], words: pre_tokenizers.PreTokenizer) -> str:
    tokenizer = tokenizers.Tokenizer(models.BPE(by_rank(merges), merges))
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    return _json(tokenizer, eot=True)


def by_rank(merges: Iterable[Sequence[str]]) -> dict[str, int]:
    """The ids of GPT-2's kind of vocabulary: bytes, then merges, then the end of a document."""
    texts = [*bytes_by_letter(), *(first + second for first, second in merges), EOT]
    return {text: i for i, text in enumerate(texts)}


def _json(tokenizer: tokenizers.Tokenizer, eot: bool) -> str:
    if eot:
        tokenizer.add_special_tokens([AddedToken(EOT, normalized=False, special=True)])
    text: str = tokenizer.to_str(pretty=True)
    return text + "\n"


def bytes_by_letter() -> dict[str, int]:
    """The letters by which GPT-2's files name the 256 bytes, in the order of their ids.

    Source: `bytes_to_unicode` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): b for i, b in enumerate(others)}
