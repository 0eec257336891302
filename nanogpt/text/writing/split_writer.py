"""The files of a split, which what the tasks made is appended to, in the order of the corpus.

with SplitWriter(folder, "val", masked=False) as split:
    split.append(shard, facts.parts["val"], corpus=0)
split.summary(text_sha256)
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.text.checks.profile import histogram
from nanogpt.text.tokens import HELD_OUT, STARTS, Extent, Name, Split
from nanogpt.text.writing.second import Part

BLOCK = 1 << 20  # bytes copied at a time


class SplitWriter:
    """The files of a split as they grow, and what the manifest says of them."""

    def __init__(self, folder: Path, name: Name, masked: bool) -> None:
        self.name, self.masked = name, masked
        self.lengths = histogram([])  # of documents, in tokens
        self._open: list[int] = []  # tokens of the last document, which may go on
        self._corpora: dict[int, NDArray[np.int64]] = {}  # as Extent has them
        self._tokens = self._bytes = 0
        self._sha256, self._texts = hashlib.sha256(), hashlib.sha256()
        self._text: Any = None  # SHA-256 of the last document's text, which may go on
        files = ["bin", "documents.bin", "counted.bin", "text", "texts.bin"]
        some = files[: 3 if masked else 2] + files[3:] * (name in HELD_OUT)
        with ExitStack() as stack:
            self._files = {
                file: stack.enter_context((folder / f"{name}.{file}").open("wb")) for file in some
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, shard: Path, part: Part, corpus: int) -> None:
        """Copy what a shard has of this split to the end."""
        lengths, sizes = np.array(part.lengths, STARTS), np.array(part.sizes, STARTS)
        new = int(part.goes_on)  # the first text that begins a document
        for block in _blocks(shard / f"{self.name}.bin"):
            self._files["bin"].write(block)
            self._sha256.update(block)
        self._files["documents.bin"].write(_starts(self._tokens, lengths)[new:].data)
        if self.masked:
            for block in _blocks(shard / f"{self.name}.counted.bin"):
                self._files["counted.bin"].write(block)
        if self.name in HELD_OUT:
            self._append_texts(shard / f"{self.name}.text", part)
            self._files["texts.bin"].write(_starts(self._bytes, sizes)[new:].data)
        before = [sum(self._open) + int(lengths[0])] if new else [*self._open, int(lengths[0])]
        closed: list[int] = [*before, *lengths[1:].tolist()]
        last = closed.pop()
        self.lengths, self._open = self.lengths + histogram(closed), [last]
        extent = [lengths.sum(), part.counted, len(lengths) - new, part.bytes]
        self._corpora[corpus] = self._corpora.get(corpus, 0) + np.array(extent)
        self._tokens += int(lengths.sum())
        self._bytes += int(sizes.sum())

    def _append_texts(self, path: Path, part: Part) -> None:
        with path.open("rb") as file:
            for i, size in enumerate(part.sizes):
                if i or not part.goes_on:
                    self._close_text()
                    self._text = hashlib.sha256()
                while block := file.read(min(size, BLOCK)):
                    self._files["text"].write(block)
                    self._text.update(block)
                    size -= len(block)

    def _close_text(self) -> None:
        if self._text:
            self._texts.update(self._text.digest())

    def extent(self, corpus: int) -> Extent:
        """What one corpus gave."""
        tokens, counted, documents, size = self._corpora.get(corpus, np.zeros(4, int)).tolist()
        return Extent(tokens=tokens, counted=counted, documents=documents, bytes=size)

    def summary(self, text_sha256: str) -> Split:
        """When all of it is there.

        Args:
            text_sha256: for a split whose texts are not kept.
        """
        self._close_text()
        self.lengths = self.lengths + histogram(self._open)
        tokens, counted, documents, size = sum(self._corpora.values(), np.zeros(4, int)).tolist()
        return Split(
            tokens=tokens,
            counted=counted,
            documents=documents,
            bytes=size,
            text_bytes=self._bytes,
            sha256=self._sha256.hexdigest(),
            text_sha256=self._texts.hexdigest() if self.name in HELD_OUT else text_sha256,
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _starts(first: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each document of a shard starts, if the first does at `first`."""
    return (first + np.cumsum(lengths) - lengths).astype(STARTS)
