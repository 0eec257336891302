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
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from nanogpt.common.errors import UserError
from nanogpt.text.library import EOT, Conventions, conventions, encode, open_library

FLAGS = {"add_prefix_space", "trim_offsets", "use_regex"}  # of a byte level


class Tokenizer(ABC):
    def __init__(self, vocabulary: dict[str, int], around: Conventions) -> None:
        self.vocab_size = 1 + max(vocabulary.values())
        self.ids = frozenset(vocabulary.values())
        self.begin = around.begin  # ids that begin a document
        self.eot = around.end  # the id that ends one; None: the vocabulary has none
        self.special = around.special  # texts, whose letters are ordinary text
        self.unknown: int | None = None  # the id of what the vocabulary lacks

    @abstractmethod
    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """The ids of `text` and of nothing around it; "<|endoftext|>" in it is ordinary text.

        Raises:
            UserError: a character is not in the vocabulary, or is no character (a surrogate).
        """

    def encode(self, text: str) -> list[int]:
        """`encode_array` as a list."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    @abstractmethod
    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of `text`, and the bytes of its UTF-8 that each stands for: (ids, 2) from, up to.

        The parts of a character that is several tokens may each stand for all of it, or for none.

        Raises:
            UserError: as `encode_array`.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""


class CharTokenizer(Tokenizer):
    """Characters by code point, as nanoGPT orders them; then, perhaps, the end of a document."""

    def __init__(self, vocabulary: dict[str, int], around: Conventions) -> None:
        super().__init__(vocabulary, around)
        self._texts = sorted(vocabulary, key=vocabulary.__getitem__)
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

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        bounds = _bounds(text)
        return self.encode_array(text), np.stack((bounds[:-1], bounds[1:]), axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._texts[i] for i in ids)


class HubTokenizer(Tokenizer):
    """Any tokenizer.json, by the library that defines what it means."""

    def __init__(self, library: tokenizers.Tokenizer, around: Conventions) -> None:
        super().__init__(library.get_vocab(), around)
        self._library = library
        library.encode_special_tokens = True  # "<|endoftext|>" in a text is ordinary text
        library.post_processor = None  # it moves the offsets that `library.encode` looks at
        words = json.loads(library.to_str())["model"]
        self.unknown = words.get("unk_id")  # of a Unigram
        if (text := words.get("unk_token")) is not None:
            self.unknown = library.token_to_id(text)

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return self._places(text)[0]

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids, places = self._places(text)
        return ids, _bounds(text)[places]

    def _places(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """As `spans`, in characters."""
        try:
            text.encode()  # what has no UTF-8 is a TypeError to the library
        except UnicodeEncodeError as error:
            raise _half(text, error) from None
        try:
            return encode(self._library, text)
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"the base's tokenizer cannot encode {text!r:.50}: {error}") from None

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._library.decode([int(i) for i in ids], skip_special_tokens=False)
        return text


class BPETokenizer(HubTokenizer):
    """GPT-2's byte-pair encoding, by tiktoken."""

    def __init__(self, library: tokenizers.Tokenizer, around: Conventions) -> None:
        super().__init__(library, around)
        byte = _bytes_by_letter()
        # a token's id is the rank of its merge: `_is_gpt2` has checked it
        ranks = {bytes(byte[c] for c in t): i for t, i in library.get_vocab().items() if t != EOT}
        special = {EOT: len(ranks)}
        self._bpe = tiktoken.Encoding(
            "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special
        )

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        try:
            # not encode_ordinary: for want of stack that one panics, where this one raises
            return self._bpe.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as error:
            raise _half(text, error) from None
        except ValueError:  # half a million blanks in a row exhaust the stack of tiktoken's regex
            return super().encode_array(text)

    def spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids = self.encode_array(text)
        kinds, which = np.unique(ids, return_inverse=True)
        lengths = [len(self._bpe.decode_single_token_bytes(int(kind))) for kind in kinds]
        ends = np.cumsum(np.array(lengths, np.int64)[which])
        return ids, np.stack((ends - np.array(lengths, np.int64)[which], ends), axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        return self._bpe.decode([int(i) for i in ids])


def load(folder: Path) -> Tokenizer:
    """Read folder/tokenizer.json: made by `write`, or a base model's.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json"
    try:
        library = open_library(folder)
        around = conventions(folder, library)
        values = json.loads(library.to_str())
        if _is_char(values):
            return CharTokenizer(values["model"]["vocab"], around)
        return (BPETokenizer if _is_gpt2(values) else HubTokenizer)(library, around)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a folder of tokens or a model") from None
    except UserError:
        raise
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
    return _bpe_json(merges)


def _bpe_json(merges: list[tuple[str, str]]) -> str:
    tokenizer = tokenizers.Tokenizer(models.BPE(_by_rank(merges), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _json(tokenizer, eot=True)


def _is_gpt2(values: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is of GPT-2's kind: a token's id is its merge's rank."""
    words = values["model"]
    return _facts(values) == _facts(json.loads(_bpe_json([]))) and bool(
        words["vocab"] == _by_rank(words["merges"])
    )


def _is_char(values: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is what `char_json` writes, in whatever order the characters are."""
    eot = bool(values["added_tokens"])
    if _facts(values) != _facts(json.loads(char_json("a", eot))):
        return False
    texts = sorted(values["model"]["vocab"], key=values["model"]["vocab"].__getitem__)
    ids = sorted(values["model"]["vocab"].values())
    characters = texts[:-1] if eot else texts
    return (
        ids == list(range(len(texts)))
        and all(len(text) == 1 for text in characters)
        and texts[len(characters) :] == [EOT] * eot
    )


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    """All that a tokenizer.json says but its words, and what changes no id and no text.

    A fast path is for those that say the very same. What a later version of the library adds is a
    difference, too.
    """
    model = {k: v or None for k, v in values["model"].items() if k not in ("vocab", "merges")}
    added = [{**token, "id": None, "normalized": None} for token in values["added_tokens"]]
    # what stands around a text is not these classes' work
    facts = values | {"model": model, "added_tokens": added, "post_processor": None}
    # GPT-2's files have these flags in other states, and here they concern offsets alone
    for part, inert in (("pre_tokenizer", {"trim_offsets"}), ("decoder", FLAGS)):
        if (values[part] or {}).get("type") == "ByteLevel":
            facts[part] = {k: v for k, v in values[part].items() if k not in inert}
    return facts


def _by_rank(merges: Iterable[Sequence[str]]) -> dict[str, int]:
    """The ids of GPT-2's kind of vocabulary: bytes, then merges, then the end of a document."""
    texts = [*_bytes_by_letter(), *(first + second for first, second in merges), EOT]
    return {text: i for i, text in enumerate(texts)}


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


def _bounds(text: str) -> NDArray[np.int64]:
    """At which byte of its UTF-8 each character begins, and the last ends: (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    sizes = 1 + (codes > 0x7F) + (codes > 0x7FF).astype(np.int64) + (codes > 0xFFFF)
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


def _half(text: str, error: UnicodeEncodeError) -> UserError:
    return UserError(
        f"{_name(text, error.start)} is half a character, which has no UTF-8; leave it out"
    )


def _name(text: str, position: int) -> str:
    character = text[position]
    line = text.count("\n", 0, position) + 1
    return f"{character!r} (U+{ord(character):04X}) at position {position} (line {line})"
