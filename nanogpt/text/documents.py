"""raw/ → documents: .txt and .md a document a file, .jsonl one a line, .parquet one a row.

    corpus = open_raw(raw)
    for piece in pieces(raw, corpus):
        for text in documents(raw, corpus.text_field, piece):

Pieces are small and can be read at the same time, by any process that sees the folder. Texts are
taken as they are: no newline is translated, no byte order mark removed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nanogpt.common.errors import UserError
from nanogpt.text.raw import Raw

PIECE = 1 << 21  # bytes of a .jsonl in one piece


class Piece(NamedTuple):
    """Part of a file, from `start` up to `stop`: bytes, but of a .parquet row groups."""

    file: str
    start: int
    stop: int
    size: int  # bytes, before compression


def pieces(raw: Path, corpus: Raw) -> Iterator[Piece]:
    """Everything in the corpus, in its order.

    Raises:
        UserError: a file is of no known kind, or is no parquet.
    """
    for file in corpus.files:
        name, size = file.name, file.bytes
        match Path(name).suffix:
            case ".txt" | ".md":
                yield Piece(name, 0, size, size)
            case ".jsonl":
                for start in range(0, size, PIECE):
                    stop = min(start + PIECE, size)
                    yield Piece(name, start, stop, stop - start)
            case ".parquet":
                metadata = _parquet(raw / name).metadata
                for group in range(metadata.num_row_groups):
                    size = metadata.row_group(group).total_byte_size
                    yield Piece(name, group, group + 1, size)
            case _:
                raise UserError(f"{raw / name} is not one of .txt, .md, .jsonl, .parquet")


def documents(raw: Path, text_field: str, piece: Piece) -> Iterator[str]:
    """The documents of a piece in their order, without those that have no character.

    Raises:
        UserError: a text is not UTF-8, has no field `text_field`, or that is no text; says where.
    """
    path = raw / piece.file
    match path.suffix:
        case ".jsonl":
            texts = _lines(path, text_field, piece)
        case ".parquet":
            texts = _rows(path, text_field, piece)
        case _:
            texts = iter([_utf8(path.read_bytes(), path, 0)])
    return filter(None, texts)


def _utf8(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {offset + error.start} (counted from 0); convert it, for"
            " example with iconv"
        ) from None


def _lines(path: Path, field: str, piece: Piece) -> Iterator[str]:
    """The lines that begin inside the piece."""
    with path.open("rb") as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline()
        while (start := file.tell()) < piece.stop:
            line = _utf8(file.readline(), path, start)
            if line.isspace():
                continue
            try:
                text = json.loads(line)[field]
                text.encode("utf-8")  # JSON can spell half a character, which UTF-8 cannot
            except ValueError as error:
                raise UserError(f"{_line(path, start)} cannot be read: {error}") from None
            except (KeyError, TypeError, AttributeError, IndexError):
                raise UserError(
                    f"{_line(path, start)} has no text in a field {field!r}; name the right one in"
                    " download.text_field"
                ) from None
            yield text


def _line(path: Path, start: int) -> str:
    with path.open("rb") as file:
        number = 1
        while file.tell() < start:
            file.readline()
            number += 1
    return f"{path}, line {number},"


def _rows(path: Path, field: str, piece: Piece) -> Iterator[str]:
    table = _parquet(path)
    columns = {column.name: column.type for column in table.schema_arrow}
    if field not in columns:
        raise UserError(
            f"{path} has no column {field!r}, its columns: {', '.join(columns)}; name the right one"
            " in download.text_field"
        )
    row = sum(table.metadata.row_group(group).num_rows for group in range(piece.start))
    groups = range(piece.start, piece.stop)
    for batch in table.iter_batches(batch_size=256, row_groups=groups, columns=[field]):
        for value in batch.column(0):
            try:
                text = value.as_py()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, row {row} (counted from 0), is not UTF-8: {error}"
                ) from None
            if not isinstance(text, str):
                raise UserError(
                    f"{path}, row {row} (counted from 0), holds {text!r:.50}, not a text"
                )
            yield text
            row += 1


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet  # costs a second; only who needs it waits for it

    try:
        return parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise UserError(f"{path} is not a parquet file: {error}") from None
