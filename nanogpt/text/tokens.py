"""Token files: one a split, written by nanogpt.text.writer, read by memory map.

    tokens = open_tokens(Path("data/shakespeare/tokens"))
    ids = tokens.split("train")         # (tokens,) uint16 or uint32

The folder holds manifest.json, <split>.bin (little-endian ids and nothing else, as nanoGPT's),
<split>.documents.bin (int64: where in the split each document starts) and the tokenizer. Of val and
test it also has the texts, which models of any tokenizer can be scored on: <split>.text (UTF-8, one
document after another) and <split>.texts.bin (int64: at which byte each document starts). Where
conversations are among the documents, <split>.counted.bin (a byte a token, 0 or 1) says of which
tokens the loss is.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import Manifest, check_sizes, read_manifest
from nanogpt.common.secrets import without_folder
from nanogpt.text.checks.profile import Profile

Name = Literal["train", "val", "test"]
SPLITS: tuple[Name, ...] = ("train", "val", "test")
HELD_OUT: tuple[Name, ...] = ("val", "test")  # whose texts are kept
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
Dtype = Literal["uint16", "uint32"]
STARTS = np.dtype("<i8")
COUNTED = np.dtype("u1")


class Extent(Manifest):
    """How long a part of a split is."""

    tokens: int
    counted: int  # tokens that count for the loss: all but what a conversation's others say
    documents: int
    bytes: int  # of UTF-8, of the text that the counted tokens stand for


class Split(Extent):
    """What is known of a split without opening it."""

    text_bytes: int  # of its texts in UTF-8, whatever counts; conversations are JSON
    sha256: str  # of its ids
    text_sha256: str  # of the digests of its texts; of train, of those by which they were divided


class TokensPart(Manifest):
    """What one corpus of several gave; the parts lie one after another in each split's files."""

    name: str
    conversations: bool  # whether its documents are
    splits: dict[Name, Extent]


class TokensManifest(Manifest):
    dtype: Dtype
    vocab_size: int
    tokenizer: str  # as the settings give it
    tokenizer_sha256: str  # of tokenizer.json
    corpus: str  # names of several are joined
    corpus_digest: str
    begin: tuple[int, ...]  # ids that begin a document
    eot: int | None  # the id that ends a document
    turn_end: int | None  # the id that ends what somebody says in a conversation
    masked: bool  # whether each split says which of its tokens count: <split>.counted.bin
    splits: dict[Name, Split]
    parts: tuple[TokensPart, ...]  # in the order of the settings
    profile: Profile

    @property
    def shown(self) -> str:
        """The names of the corpora, of files of one's own elsewhere without their folders."""
        return ", ".join(without_folder(part.name) for part in self.parts)


@dataclass(frozen=True)
class HeldOut:
    """A text to score models on: documents one after another, each of at least one byte."""

    name: str  # what messages call it
    data: bytes  # UTF-8
    starts: np.ndarray  # the byte at which each document starts: (documents,) int64
    ends: bool = False  # whether what ends a document stands after each, where a tokenizer has it
    tokens: "Tokens | None" = None  # the folder that it is of, and its split
    split: Name | None = None
    # which documents are conversations, each in one line of JSON: (documents,) bool; None: none
    conversations: np.ndarray | None = None

    @classmethod
    def of(cls, name: str, *documents: str) -> "HeldOut":
        """Of texts of one's own; those without a character are left out."""
        data = [text.encode() for text in documents if text]
        starts = np.cumsum([0, *map(len, data)], dtype=STARTS)[:-1]
        return cls(name, b"".join(data), starts, ends=len(data) > 1)

    def document(self, index: int) -> bytes:
        """The UTF-8 of one document."""
        stops = [*self.starts[index + 1 : index + 2], len(self.data)]
        return self.data[self.starts[index] : stops[0]]

    def talks(self) -> Iterator[int]:
        """Which documents are conversations."""
        yield from () if self.conversations is None else np.flatnonzero(self.conversations).tolist()

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of its documents, as `Split.text_sha256`."""
        found = hashlib.sha256()
        for index in range(len(self.starts)):
            found.update(hashlib.sha256(self.document(index)).digest())
        return found.hexdigest()


@dataclass(frozen=True)
class Tokens:
    folder: Path
    manifest: TokensManifest
    digest: str  # SHA-256 of manifest.json, which has the digests of all else

    def split(self, name: str) -> np.ndarray:
        """The ids of a split: (tokens,) read-only, a fresh map of the file at each call."""
        return self._map(name, f"{name}.bin", DTYPES[self.manifest.dtype])

    def starts(self, name: str) -> np.ndarray:
        """The index in the split of each document's first token: (documents,) int64, read-only."""
        return self._map(name, f"{name}.documents.bin", STARTS)

    def counted(self, name: Name) -> np.ndarray | None:
        """Which ids of a split count for the loss: (tokens,) uint8, 0 or 1; None: all of them."""
        return self._map(name, f"{name}.counted.bin", COUNTED) if self.manifest.masked else None

    def part(self, index: int, name: Name) -> slice:
        """Where in a split the tokens of one corpus of several lie."""
        before = sum(part.splits[name].tokens for part in self.manifest.parts[:index])
        return slice(before, before + self.manifest.parts[index].splits[name].tokens)

    def text(self, name: Name) -> HeldOut:
        """The texts of val or test.

        Raises:
            UserError: they are not those that the tokens were made of.
        """
        starts, ids = self._map(name, f"{name}.texts.bin", STARTS), self.split(name)
        data = (self.folder / f"{name}.text").read_bytes()
        # one text that was cut in three is ended by nothing, whatever the vocabulary
        parts = [self.part(i, name) for i in range(len(self.manifest.parts))]
        plain = [
            ids[some][-1]
            for some, part in zip(parts, self.manifest.parts, strict=True)
            if some.stop > some.start and not part.conversations
        ]
        ends = self.manifest.eot is not None and plain[-1:] == [self.manifest.eot]
        label = f"{self.manifest.shown}, {name}"
        kinds = [part.conversations for part in self.manifest.parts]
        counts = [part.splits[name].documents for part in self.manifest.parts]
        talks = np.repeat(kinds, counts) if any(kinds) else None
        found = HeldOut(label, data, starts, bool(ends), self, name, talks)
        if found.digest != self.manifest.splits[name].text_sha256:
            raise UserError(
                f"{self.folder / name}.text is not what its tokens were made of; run the tokenize"
                " stage again"
            )
        return found

    def held_out(self) -> HeldOut:
        """The texts of test or, where it is too short to be scored, of val."""
        return self.text("test" if self.manifest.splits["test"].tokens > 1 else "val")

    def tokenizer_files(self) -> list[Path]:
        """The files of the tokenizer that made these tokens."""
        ids = {path for path in self.folder.iterdir() if path.suffix in (".bin", ".text")}
        return sorted({*self.folder.iterdir()} - ids - {self.folder / "manifest.json"})

    def _map(self, name: str, file: str, dtype: np.dtype[Any]) -> np.ndarray:
        path = self.folder / file
        if name not in self.manifest.splits:
            raise UserError(f"{self.folder} has no split {name!r}; it has {', '.join(SPLITS)}")
        if path.stat().st_size == 0:  # which cannot be mapped
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")


def open_tokens(folder: Path) -> Tokens:
    """Check a folder of tokens: everything there, of the right size, with the right tokenizer.

    Raises:
        UserError: it is missing, another kind of folder, or damaged; says which file and how.
    """
    manifest = read_manifest(folder, TokensManifest, "tokenize")
    sizes = {}
    for name, split in manifest.splits.items():
        sizes[f"{name}.bin"] = split.tokens * DTYPES[manifest.dtype].itemsize
        sizes[f"{name}.documents.bin"] = split.documents * STARTS.itemsize
        if manifest.masked:
            sizes[f"{name}.counted.bin"] = split.tokens * COUNTED.itemsize
        if name in HELD_OUT:
            sizes[f"{name}.text"] = split.text_bytes
            sizes[f"{name}.texts.bin"] = split.documents * STARTS.itemsize
    check_sizes(folder, sizes, "tokenize")
    path = folder / "tokenizer.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    if digest != manifest.tokenizer_sha256:
        raise UserError(
            f"{path} is not the one that made these tokens; run the tokenize stage again"
        )
    return Tokens(
        folder, manifest, hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    )
