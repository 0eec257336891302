"""What workers made of their parts of the corpus → the files of a split, in the corpus's order.

with SplitWriter(folder, "val") as split:
    split.append(path, part)        # takes the files at `path` away
manifest_of_it = split.summary()
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanogpt.text.tokens import HELD_OUT, STARTS, Name, Split

BLOCK = 1 << 20  # bytes copied at a time


@dataclass
class Part:
    """What a task found out about its documents of one split, in their order."""

    lengths: list[int] = field(default_factory=list)  # tokens of each
    sizes: list[int] = field(default_factory=list)  # bytes of each text in UTF-8
    digests: bytearray = field(default_factory=bytearray)  # SHA-256 of each text


class SplitWriter:
    """The files of a split as they grow, and what the manifest says of them."""

    def __init__(self, folder: Path, name: Name) -> None:
        self.name = name
        self.tokens = self.documents = self.bytes = 0
        self.sha256, self.texts = hashlib.sha256(), hashlib.sha256()
        self.heads = [np.empty(0, np.uint64)]  # eight bytes of each text's digest
        files = ["bin", "documents.bin", *(["text", "texts.bin"] if name in HELD_OUT else [])]
        with ExitStack() as stack:
            self.ids, self.starts, *self.held_out = [
                stack.enter_context((folder / f"{name}.{file}").open("wb")) for file in files
            ]
            self._files = stack.pop_all()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def append(self, path: str, part: Part) -> None:
        """Move a task's ids, and its texts, from its own files to the end of the split's."""
        for block in _take(path):
            self.ids.write(block)
            self.sha256.update(block)
        self.starts.write(_starts(self.tokens, part.lengths).data)
        if self.held_out:
            text, starts = self.held_out
            for block in _take(f"{path}.text"):
                text.write(block)
            starts.write(_starts(self.bytes, part.sizes).data)
        self.tokens += sum(part.lengths)
        self.documents += len(part.lengths)
        self.bytes += sum(part.sizes)
        self.texts.update(part.digests)
        self.heads.append(np.frombuffer(part.digests, np.uint64)[::4].copy())

    def summary(self) -> Split:
        return Split(
            tokens=self.tokens,
            documents=self.documents,
            bytes=self.bytes,
            sha256=self.sha256.hexdigest(),
            text_sha256=self.texts.hexdigest(),
        )


def _take(path: str) -> Iterator[bytes]:
    """The content of a task's file, which is removed."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block
    os.unlink(path)


def _starts(first: int, lengths: list[int]) -> NDArray[np.int64]:
    """Where each document of a task starts, if the first does at `first`."""
    ends = first + np.cumsum(lengths, dtype=STARTS)
    return (ends - lengths).astype(STARTS)
