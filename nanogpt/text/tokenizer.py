"""Text ↔ ids: one id a character, GPT-2's byte-pair encoding, or what a base model brings.

    write(folder, char_json(set(text), eot=False))      # or gpt2_json(vocabulary)
    tokenizer = load(folder)
    tokenizer.decode(tokenizer.encode("ROMEO:")) == "ROMEO:"

A tokenizer is its tokenizer.json, which the Hugging Face libraries read with the same ids. Here a
table looks characters up and tiktoken encodes GPT-2's BPE: each many times faster than those
libraries, which do all others.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from nanogpt.common.errors import UserError

EOT = "<|endoftext|>"


class Tokenizer(ABC):
    vocab_size: int
    eot: int | None  # the id that ends a document; None: the vocabulary has none

    @abstractmethod
    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """The ids of `text`; "<|endoftext|>" in it is ordinary text.

        Raises:
            UserError: a character is not in the vocabulary, or is no character (a surrogate).
        """

    def encode(self, text: str) -> list[int]:
        """`encode_array` as a list."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""


class CharTokenizer(Tokenizer):
    """Characters by code point, as nanoGPT orders them; then, perhaps, the end of a document."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._texts = sorted(vocabulary, key=vocabulary.__getitem__)
        self.vocab_size = len(vocabulary)
        self.eot = vocabulary.get(EOT)
        characters = self._texts if self.eot is None else self._texts[:-1]
        self._ids = np.full(0x110000, self.vocab_size, np.uint32)  # by code point
        self._ids[[ord(character) for character in characters]] = np.arange(len(characters))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        ids: NDArray[np.uint32] = self._ids[
            np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ]
        missing = ids == self.vocab_size
        if missing.any():
            raise UserError(
                f"{_name(text, int(missing.argmax()))} is not in the vocabulary, which has"
                f" {self.vocab_size} entries; leave it out, or train on a corpus that has it"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._texts[i] for i in ids)


class BPETokenizer(Tokenizer):
    """GPT-2's byte-pair encoding by tiktoken, from the vocabulary of a tokenizer.json."""

    def __init__(self, vocabulary: dict[str, int], tokenizer_json: str) -> None:
        self._json = tokenizer_json
        self.vocab_size = len(vocabulary)
        self.eot = vocabulary[EOT]
        byte = _bytes_by_letter()
        # a token's id is the rank of its merge: gpt2_json has checked it
        ranks = {bytes(byte[c] for c in text): i for text, i in vocabulary.items() if text != EOT}
        self._bpe = tiktoken.Encoding(
            "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={EOT: self.eot}
        )

    @cached_property
    def _patient(self) -> tokenizers.Tokenizer:
        return _ordinary(self._json)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        try:
            # not encode_ordinary: for want of stack that one panics, where this one raises
            return self._bpe.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as error:
            raise _half(text, error) from None
        except ValueError:  # half a million blanks in a row exhaust the stack of tiktoken's regex
            return np.array(self._patient.encode(text).ids, np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return self._bpe.decode([int(i) for i in ids])


class HubTokenizer(Tokenizer):
    """Any other tokenizer.json, by the library that defines what it means.

    Documents end as its makers' plain texts did; `eos` serves where that is not to be seen.
    """

    def __init__(self, tokenizer_json: str, eos: str | None) -> None:
        self._tokenizer = _ordinary(tokenizer_json)
        vocabulary = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        # an instruction-tuned model's eos ends a turn of talk
        ends = (vocabulary.get(text) for text in (EOT, "<|end_of_text|>", eos) if text)
        self.eot = next((i for i in ends if i is not None), None)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        try:
            text.encode()  # what has no UTF-8 is a TypeError to the library
        except UnicodeEncodeError as error:
            raise _half(text, error) from None
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text


def load(folder: Path) -> Tokenizer:
    """Read folder/tokenizer.json: made by `write`, or a base model's.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if values["model"]["type"] == "WordLevel":
            return CharTokenizer(values["model"]["vocab"])
        if _is_gpt2(values):
            return BPETokenizer(values["model"]["vocab"], text)
        about = folder / "tokenizer_config.json"
        eos = (
            json.loads(about.read_text(encoding="utf-8")).get("eos_token")
            if about.exists()
            else None
        )
        return HubTokenizer(text, eos["content"] if isinstance(eos, dict) else eos)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a folder of tokens or a model") from None
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UserError(f"{path} is damaged, or not a tokenizer: {error!r}") from None


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
    if ids != _by_rank(merges):
        raise UserError(
            f"{vocabulary}: encoder.json and vocab.bpe do not belong together, or are not in"
            " GPT-2's format; run the download stage again"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _json(tokenizer, eot=True)


def _is_gpt2(values: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is GPT-2's kind: its pattern, and a token's id its merge's rank."""
    split = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    found = {key: (values["pre_tokenizer"] or {}).get(key, True) for key in split}
    if values["model"]["type"] != "BPE" or values["normalizer"] or found != split:
        return False
    merges = [tuple(m.split(" ")) if isinstance(m, str) else m for m in values["model"]["merges"]]
    return bool(values["model"]["vocab"] == _by_rank(merges))


def _by_rank(merges: Iterable[Sequence[str]]) -> dict[str, int]:
    """The ids of GPT-2's kind of vocabulary: bytes, then merges, then the end of a document."""
    texts = [*_bytes_by_letter(), *(first + second for first, second in merges), EOT]
    return {text: i for i, text in enumerate(texts)}


def _ordinary(tokenizer_json: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, to which "<|endoftext|>" in a text is ordinary text."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _json(tokenizer: tokenizers.Tokenizer, eot: bool) -> str:
    if eot:
        tokenizer.add_special_tokens([AddedToken(EOT, normalized=False, special=True)])
    text: str = tokenizer.to_str(pretty=True)
    return text + "\n"


def _bytes_by_letter() -> dict[str, int]:
    """The letters by which GPT-2's files name the 256 bytes, in the order of their ids.

    Source: `bytes_to_unicode` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _half(text: str, error: UnicodeEncodeError) -> UserError:
    return UserError(
        f"{_name(text, error.start)} is half a character, which has no UTF-8; leave it out"
    )


def _name(text: str, position: int) -> str:
    character = text[position]
    line = text.count("\n", 0, position) + 1
    return f"{character!r} (U+{ord(character):04X}) at position {position} (line {line})"
