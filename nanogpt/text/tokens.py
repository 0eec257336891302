"""Token files: one a split, written by nanogpt.text.writer, read by memory map.

    tokens = open_tokens(Path("data/shakespeare/tokens"))
    ids = tokens.split("train")         # (tokens,) uint16 or uint32

The folder holds manifest.json, <split>.bin (little-endian ids and nothing else, as nanoGPT's),
<split>.documents.bin (int64: where in the split each document starts) and the tokenizer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import Manifest, check_sizes, read_manifest

Name = Literal["train", "val", "test"]
SPLITS: tuple[Name, ...] = ("train", "val", "test")
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

    def tokenizer_files(self) -> list[Path]:
        """The files of the tokenizer that made these tokens."""
        ids = {path for path in self.folder.iterdir() if path.suffix == ".bin"}
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
