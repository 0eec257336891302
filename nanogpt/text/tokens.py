"""Token files: one a split, written by nanogpt.text.writer, read by memory map.

    tokens = open_tokens(Path("data/shakespeare/tokens"))
    ids = tokens.split("train")         # (tokens,) uint16 or uint32

The folder holds manifest.json, <split>.bin (little-endian ids and nothing else, as nanoGPT's),
<split>.documents.bin (int64: where in the split each document starts) and the tokenizer. Of val and
test it also has the texts, which models of any tokenizer can be scored on: <split>.text (UTF-8, one
document after another) and <split>.texts.bin (int64: at which byte each document starts).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import Manifest, check_sizes, read_manifest
from nanogpt.common.secrets import without_folder

Name = Literal["train", "val", "test"]
SPLITS: tuple[Name, ...] = ("train", "val", "test")
HELD_OUT: tuple[Name, ...] = ("val", "test")  # whose texts are kept
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
Dtype = Literal["uint16", "uint32"]
STARTS = np.dtype("<i8")


class Split(Manifest):
    """What is known of a split without opening it."""

    tokens: int
    documents: int
    bytes: int  # of its texts in UTF-8
    sha256: str  # of its ids
    text_sha256: str  # of the digests of its texts: one digest of all could not be made in parallel


class TokensManifest(Manifest):
    dtype: Dtype
    vocab_size: int
    tokenizer: str  # as the settings give it
    tokenizer_sha256: str  # of tokenizer.json
    corpus: str
    corpus_digest: str
    begin: tuple[int, ...]  # ids that begin a document
    eot: int | None  # the id that ends a document
    splits: dict[Name, Split]


@dataclass(frozen=True)
class HeldOut:
    """A text to score models on: documents one after another, each of at least one byte."""

    name: str  # what messages call it
    data: bytes  # UTF-8
    starts: np.ndarray  # the byte at which each document starts: (documents,) int64
    ends: bool = False  # whether what ends a document stands after each, where a tokenizer has it
    tokens: "Tokens | None" = None  # the folder that it is of, and its split
    split: Name | None = None

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

    def text(self, name: Name) -> HeldOut:
        """The texts of val or test.

        Raises:
            UserError: they are not those that the tokens were made of.
        """
        starts, ids = self._map(name, f"{name}.texts.bin", STARTS), self.split(name)
        data = (self.folder / f"{name}.text").read_bytes()
        # one text that was cut in three is ended by nothing, whatever the vocabulary
        ends = self.manifest.eot is not None and len(ids) > 0 and ids[-1] == self.manifest.eot
        label = f"{without_folder(self.manifest.corpus)}, {name}"
        found = HeldOut(label, data, starts, bool(ends), self, name)
        if found.digest != self.manifest.splits[name].text_sha256:
            raise UserError(
                f"{self.folder / name}.text is not what its tokens were made of; run the tokenize"
                " stage again"
            )
        return found

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
        if name in HELD_OUT:
            sizes[f"{name}.text"] = split.bytes
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
