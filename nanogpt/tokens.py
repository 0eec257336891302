"""Token files: one a split, written by nanogpt.token_writer, read by memory map.

    tokens = open_tokens(Path("data/shakespeare/tokens"))
    ids = tokens.split("train")         # (tokens,) uint16 or uint32

The folder holds manifest.json, <split>.bin (little-endian ids and nothing else, as nanoGPT's),
<split>.documents.bin (int64: where in the split each document starts) and the tokenizer.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.errors import UserError

SPLITS = ("train", "val", "test")
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
STARTS = np.dtype("<i8")


@dataclass(frozen=True)
class Tokens:
    folder: Path
    manifest: dict[str, Any]  # as in manifest.json
    digest: str  # SHA-256 of manifest.json, which has the digests of all else

    def split(self, name: str) -> np.ndarray:
        """The ids of a split: (tokens,) read-only, a fresh map of the file at each call."""
        return self._map(name, f"{name}.bin", DTYPES[self.manifest["dtype"]])

    def starts(self, name: str) -> np.ndarray:
        """The index in the split of each document's first token: (documents,) int64, read-only."""
        return self._map(name, f"{name}.documents.bin", STARTS)

    def tokenizer_files(self) -> list[Path]:
        """The files of the tokenizer that made these tokens."""
        ids = {path for path in self.folder.iterdir() if path.suffix == ".bin"}
        return sorted({*self.folder.iterdir()} - ids - {self.folder / "manifest.json"})

    def _map(self, name: str, file: str, dtype: np.dtype[Any]) -> np.ndarray:
        path = self.folder / file
        if name not in self.manifest["splits"]:
            raise UserError(f"{self.folder} has no split {name!r}; it has {', '.join(SPLITS)}")
        if path.stat().st_size == 0:  # which cannot be mapped
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")


def open_tokens(folder: Path) -> Tokens:
    """Check a folder of tokens: everything there, of the right size, with the right tokenizer.

    Raises:
        UserError: it is missing, another kind of folder, or damaged; says which file and how.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        for key in ("vocab_size", "tokenizer", "corpus", "corpus_digest", "eot"):
            manifest[key]
        dtype = DTYPES[manifest["dtype"]]
        sizes = {}
        for name in SPLITS:
            split = manifest["splits"][name]
            sizes[f"{name}.bin"] = split["tokens"] * dtype.itemsize
            sizes[f"{name}.documents.bin"] = split["documents"] * STARTS.itemsize
        expected = manifest["tokenizer_sha256"]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the tokenize stage first") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a manifest of the tokenize stage; run that again") from None
    for file, size in sizes.items():
        actual = (folder / file).stat().st_size if (folder / file).is_file() else None
        if actual != size:
            found = "missing" if actual is None else f"{actual:,} bytes long, not {size:,}"
            raise UserError(f"{folder / file} is {found}; run the tokenize stage again")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() or hashlib.sha256(tokenizer.read_bytes()).hexdigest() != expected:
        raise UserError(
            f"{tokenizer} is not the one that made these tokens; run the tokenize stage again"
        )
    return Tokens(folder, manifest, hashlib.sha256(data).hexdigest())
