"""raw/ → documents: .txt and .md a document a file, .jsonl one a line, .parquet one a row.

    corpus = open_raw(raw)
    for piece in pieces(raw, corpus.files):
        for text in documents(raw, corpus.text_field, piece):

Pieces are small and can be read at the same time, by any process that sees the folder. Texts are
taken as they are: no newline is translated. A byte order mark at the start of a file is not text.
What has no character, or blanks alone, is no document.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nanogpt.common.errors import UserError
from nanogpt.common.fields import fields_of
from nanogpt.common.manifest import File

PIECE = 1 << 21  # bytes of a .jsonl in one piece
MARK = b"\xef\xbb\xbf"  # the byte order mark in UTF-8
MEND = "; mend it, or the file that it is a copy of, and run the same command again"
KINDS = {  # how files begin that are no text
    b"\xff\xfe": "UTF-16: `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "UTF-16: `iconv -f UTF-16 -t UTF-8`",
    b"\x1f\x8b": "gzip: `gunzip`",
    b"PK\x03\x04": "a zip archive, as office documents are",
    b"%PDF": "PDF: `pdftotext`",
    b"PAR1": "parquet: call it .parquet",
}

Text = tuple[int, str | None]  # where in its file, as `place` reads it, and what; null in the file


class Piece(NamedTuple):
    """Part of a file, from `start` up to `stop`: bytes, but of a .parquet row groups."""

    file: str
    start: int
    stop: int
    size: int  # bytes, before compression


def pieces(raw: Path, files: Iterable[File]) -> Iterator[Piece]:
    """Everything in the files of a corpus, in their order.

    Raises:
        UserError: a file is of no known kind, or is no parquet.
    """
    for file in files:
        name, size = file.name, file.bytes
        match Path(name).suffix.lower():
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
    """The documents of a piece in their order.

    Raises:
        UserError: a text is not UTF-8, has no field `text_field`, or that is no text; says where.
    """
    return (text for _, text in texts(raw, text_field, piece) if text and not text.isspace())


def texts(raw: Path, text_field: str, piece: Piece) -> Iterator[Text]:
    """As `documents`, with those that are empty, blank or null."""
    path = raw / piece.file
    match path.suffix.lower():
        case ".jsonl":
            return _lines(path, text_field, piece)
        case ".parquet":
            return _rows(path, text_field, piece)
        case _:
            with path.open("rb") as file:
                data = file.read(piece.stop).removeprefix(MARK)
            return iter([(0, _utf8(data, path, 0, whole=piece.stop == piece.size))])


def place(path: Path, where: int) -> str:
    """The file and, if it holds several texts, the line or the row."""
    match path.suffix.lower():
        case ".jsonl":
            with path.open("rb") as file:
                number = 1
                while file.tell() < where and file.readline():
                    number += 1
            return f"{path}, line {number}"
        case ".parquet":
            return f"{path}, row {where} (counted from 0)"
        case _:
            return str(path)


def _utf8(data: bytes, path: Path, offset: int, whole: bool = True) -> str:
    try:
        text, _ = codecs.utf_8_decode(data, "strict", whole)  # else it may end inside a character
        if data.count(0) * 4 < len(data) or not data:
            return text
        fault = "has more null bytes than a text has; is it UTF-16, which `iconv` converts, or none"
    except UnicodeDecodeError as error:
        with path.open("rb") as file:
            head = file.read(4)
        kinds = [kind for start, kind in KINDS.items() if head.startswith(start)]
        fault = f"is not UTF-8 at byte {offset + error.start} (counted from 0); " + (
            f"it looks like {kinds[0]}" if kinds else "convert it, for example with iconv"
        )
    raise UserError(f"{path} {fault}{MEND}")


def _lines(path: Path, field: str, piece: Piece) -> Iterator[Text]:
    """The lines that begin inside the piece."""
    with path.open("rb") as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline(piece.stop - piece.start + 1)  # of a longer line, no more than its part
        while (start := file.tell()) < piece.stop:
            line = _utf8(file.readline().removeprefix(MARK), path, start)
            if not line or line.isspace():
                continue
            try:
                yield start, _field(line, field)
            except ValueError as error:
                raise UserError(f"{place(path, start)}, {error}") from None


def _field(line: str, field: str) -> str | None:
    """The text in a line of JSON; raises ValueError."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read as JSON: {error}{MEND}") from None
    if not isinstance(values, dict):
        raise ValueError(f"is no JSON object that has a text in a field {field!r}{MEND}")
    text = values.get(field, ...)
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(
            f"has no text in a field {field!r}; its fields: {fields_of(values, field)}"
        )
    try:
        text.encode("utf-8")  # JSON can spell half a character, which UTF-8 cannot
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}{MEND}") from None
    return text


def _rows(path: Path, field: str, piece: Piece) -> Iterator[Text]:
    table = _parquet(path)
    if field not in table.schema_arrow.names:
        raise UserError(
            f"{path} has no column {field!r}; its columns: {_columns(table, path, field)}"
        )
    row = sum(table.metadata.row_group(group).num_rows for group in range(piece.start))
    groups = range(piece.start, piece.stop)
    batches = table.iter_batches(batch_size=256, row_groups=groups, columns=[field])
    while (batch := _next(batches, path)) is not None:
        for value in batch.column(0):
            try:
                text = value.as_py()
            except UnicodeDecodeError as error:
                raise UserError(f"{place(path, row)}, is not UTF-8: {error}{MEND}") from None
            if not isinstance(text, str | None):
                raise UserError(
                    f"{place(path, row)}, holds {text!r:.50} in its column {field!r}, not a text;"
                    f" its columns: {_columns(table, path, field)}"
                )
            yield row, text
            row += 1


def _columns(table: Any, path: Path, wanted: str) -> str:
    """The columns of a table, each with what its first row holds."""
    first = _next(table.iter_batches(batch_size=1), path)
    return fields_of(first.to_pylist()[0] if first else {}, wanted)


def _next(batches: Iterator[Any], path: Path) -> Any:
    from pyarrow import ArrowException

    try:
        return next(batches, None)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk's own
            raise
        raise UserError(f"{path} is damaged: {error}{MEND}") from None


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet  # costs a second; only who needs it waits for it

    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(f"{path} is not a parquet file: {error}{MEND}") from None
