""".parquet: a document a row; a piece has the rows of some row groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanogpt.common.fields import fields_of
from nanogpt.text.kinds.found import MEND, Fault, Piece, Text, Unreadable
from nanogpt.text.kinds.values import document_of, look_up
from nanogpt.text.raw import Reading, column_of

BATCH = 256  # rows


def groups(path: Path) -> list[int]:
    """The bytes of each group of rows, before compression."""
    metadata = _open(path).metadata
    return [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]


def read(path: Path, reading: Reading, piece: Piece) -> Iterator[Text | Fault]:
    table = _open(path)
    columns = _columns(table, reading)
    shown = ""
    row = sum(table.metadata.row_group(group).num_rows for group in range(piece.start))
    batches = table.iter_batches(
        batch_size=BATCH, row_groups=range(piece.start, piece.stop), columns=columns
    )
    while (batch := _next(batches)) is not None:
        found = {name: batch.column(name) for name in columns}
        for index in range(batch.num_rows):
            try:
                yield Text(row, *_document(found, index, reading))
            except Unreadable as error:
                if error.kind == "not a text":
                    shown = shown or fields_of(_example(table), reading.names[0])  # once: it reads
                    error.said += f"; its columns: {shown}"
                yield error.at(row)
            row += 1


def _document(found: dict[str, Any], index: int, reading: Reading) -> Any:
    try:
        values = {name: column[index].as_py() for name, column in found.items()}
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8", f"is not UTF-8: {error}{MEND}") from None
    try:
        return document_of(values, reading)
    except Unreadable as error:
        for name in reading.names:
            if error.kind == "not a text" and not isinstance(look_up(values, name), str | None):
                value = f"{look_up(values, name)!r:.50}"
                error.said = f"holds {value} in its column {name!r}, not a text"
                break
        raise


def _columns(table: Any, reading: Reading) -> list[str]:
    """The columns that are to be read: those that are named, or have what is named inside them."""
    names = table.schema_arrow.names
    found = [column for name in reading.names if (column := column_of(name, names))]
    if not found:
        wanted = reading.names[0]
        said = f"has no column {wanted!r}; its columns: {fields_of(_example(table), wanted)}"
        raise Unreadable("no such field", said)
    for column in found:
        if names.count(column) > 1:
            raise Unreadable("damaged", f"has {names.count(column)} columns {column!r}{MEND}")
    return list(dict.fromkeys(found))


def _example(table: Any) -> dict[str, Any]:
    """The first row."""
    first = _next(table.iter_batches(batch_size=1))
    return first.to_pylist()[0] if first else dict.fromkeys(table.schema_arrow.names)


def _next(batches: Iterator[Any]) -> Any:
    from pyarrow import ArrowException

    try:
        return next(batches, None)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk's own
            raise
        raise Unreadable("damaged", f"is damaged: {error}{MEND}") from None


def _open(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet  # costs a second; only who needs it waits for it

    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise Unreadable("damaged", f"is not a parquet file: {error}{MEND}") from None
