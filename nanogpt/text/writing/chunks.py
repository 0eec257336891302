"""The corpus in chunks, each of which is a task, and the texts in them.

    chunks = plan(raw, open_raw(raw))
    for file, text in chunks[0].texts():

A document that is longer than a piece is several texts, perhaps of several chunks: `goes_on` says
of a text that it is of the same document as the one before it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanogpt.text.documents import Piece, Text, following, pieces, texts
from nanogpt.text.raw import Raw, Reading

CHUNK = 1 << 21  # bytes of text in a task, at least: what is under way ends soon after Ctrl-C
TASKS = 1000  # about, of a long corpus: each leaves a folder, until all are done


@dataclass(frozen=True)
class Chunk:
    """The part of the corpus that is one task."""

    raw: Path
    part: int  # which corpus of several
    reading: Reading
    pieces: tuple[Piece, ...]
    before: Piece | None  # with whose document the first piece goes on
    goes_on: bool  # whether the piece after these goes on with their last document

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def texts(self) -> Iterator[tuple[str, Text]]:
        """The texts in their order, each with its file."""
        for piece in self.pieces:
            for text in texts(self.raw, self.reading, piece):
                yield piece.file, text

    def text_before(self) -> str:
        """What the last document had in the piece before; "": the first piece begins a document."""
        if self.before is None:
            return ""
        *_, last = texts(self.raw, self.reading, self.before)
        assert isinstance(last.document, str | None)
        return last.document or ""  # it cannot be read: its document is left out

    def texts_after(self) -> Iterator[tuple[Text, bool]]:
        """What the last document has in the pieces after these, and whether each is its last."""
        after = following(self.raw, self.reading, self.pieces[-1])
        while piece := after:
            after = following(self.raw, self.reading, piece)
            for text in texts(self.raw, self.reading, piece):
                yield text, after is None


def plan(raw: Path, source: Raw) -> list[Chunk]:
    """All of the corpus, in its order. It decides nothing about the tokens."""
    least = max(CHUNK, sum(file.bytes for file in source.files) // TASKS)
    chunks = []
    for index, (part, files) in enumerate(source.by_part()):
        groups = [*_grouped(pieces(raw, part.reading, files), least)]
        for i, group in enumerate(groups):
            before = groups[i - 1][-1] if group[0].goes_on else None
            goes_on = i + 1 < len(groups) and groups[i + 1][0].goes_on
            chunks.append(Chunk(raw, index, part.reading, group, before, goes_on))
    return chunks


def _grouped(pieces: Iterable[Piece], least: int) -> Iterator[tuple[Piece, ...]]:
    group, size = [], 0
    for piece in pieces:
        group.append(piece)
        size += piece.size
        if size >= least:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)
