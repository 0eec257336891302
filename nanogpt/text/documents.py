"""raw/ → documents: a .txt or .md is one, or several between separators; so is a line of .jsonl, an
element of .json, a row of .csv or .parquet. All but .parquet may be packed, as .gz or .zst.

    for part, files in corpus.by_part():
        for piece in pieces(raw, part.reading, files):
            for document in documents(raw, part.reading, piece):

Pieces are small and can be read at the same time, by any process that sees the folder; but a .json,
a .csv and all that is packed are one piece each. Texts are taken as they are, carriage returns too,
unless they are to be Unix's. A byte order mark at the start of a file is not text. What has no
character, or blanks alone, is no document.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File
from nanogpt.text.kinds import array, lines, plain, rows, table
from nanogpt.text.kinds.found import FILE, PIECE, Document, Fault, Piece, Text, Unreadable
from nanogpt.text.raw import READABLE, Reading, is_readable, kind_of

__all__ = [
    "PIECE",
    "Document",
    "Piece",
    "Text",
    "documents",
    "following",
    "pieces",
    "place",
    "texts",
]

REST = ", with all that follows there"  # where nothing more of a piece can be read


def pieces(raw: Path, reading: Reading, files: Iterable[File]) -> Iterator[Piece]:
    """Everything in the files of a corpus, in their order.

    Raises:
        UserError: a file is of no known kind.
    """
    for file in files:
        name, size = file.name, file.bytes
        match kind_of(name):
            case (".txt" | ".md" | ".jsonl" as kind, ""):
                whole = kind != ".jsonl" and reading.separator is None
                for start in range(0, size or 1, PIECE):
                    stop = min(start + PIECE, size)
                    yield Piece(name, start, stop, stop - start, whole and start > 0)
            case (".parquet", ""):
                try:
                    sizes = rows.groups(raw / name)
                except Unreadable:  # said by whoever reads it
                    sizes = [size]
                for group, bytes in enumerate(sizes):
                    yield Piece(name, group, group + 1, bytes)
            case _ if is_readable(name):
                yield Piece(name, 0, size, size)
            case _:
                raise UserError(f"{raw / name} is not one of {READABLE}")


def following(raw: Path, reading: Reading, piece: Piece) -> Piece | None:
    """The next piece, if it goes on with the document that this one ends with."""
    kind, packing = kind_of(piece.file)
    size = (raw / piece.file).stat().st_size
    if kind not in (".txt", ".md") or packing or reading.separator or piece.stop >= size:
        return None
    stop = min(piece.stop + PIECE, size)
    return Piece(piece.file, piece.stop, stop, stop - piece.stop, True)


def documents(raw: Path, reading: Reading, *some: Piece) -> Iterator[Document]:
    """The documents of some pieces in their order: one that is of several, if all of these are.

    Raises:
        UserError: as `texts`.
    """
    parts: list[str] = []
    for text in chain.from_iterable(texts(raw, reading, piece) for piece in some):
        if not text.goes_on:
            yield from _whole(parts)
            parts = []
        if isinstance(text.document, str):
            parts.append(text.document)
        elif text.document is not None:
            yield text.document
    yield from _whole(parts)


def _whole(parts: list[str]) -> Iterator[str]:
    text = "".join(parts)
    if text and not text.isspace():
        yield text


def texts(raw: Path, reading: Reading, piece: Piece) -> Iterator[Text]:
    """As `documents`, with those that are empty, blank, null or, if these are skipped, bad.

    Raises:
        UserError: a document is not UTF-8, has no field of that name, or that is no text, and bad
            documents are refused; says where.
    """
    path, goes_on = raw / piece.file, piece.goes_on
    alone = kind_of(path.name)[0] in (".txt", ".md") and reading.separator is None
    try:
        for found in _read(path, reading, piece):
            yield _skip(found, path, reading) if isinstance(found, Fault) else found
            goes_on = alone
    except Unreadable as error:  # nor can what comes after it in this piece
        skipped = _skip(error.at(error.where), path, reading)._replace(goes_on=goes_on)
        yield skipped if alone else skipped._replace(fault=f"{error.kind}{REST}")


def _read(path: Path, reading: Reading, piece: Piece) -> Iterator[Text | Fault]:
    match kind_of(path.name)[0]:
        case ".jsonl":
            return lines.read(path, reading, piece)
        case ".json":
            return array.read(path, reading)
        case ".csv":
            return table.read(path, reading)
        case ".parquet":
            return rows.read(path, reading, piece)
        case _:
            return plain.read(path, reading, piece)


def _skip(fault: Fault, path: Path, reading: Reading) -> Text:
    if reading.bad_documents == "refuse":
        there = place(path, fault.where)
        raise UserError(f"{there}{', ' if there != str(path) else ' '}{fault.said}")
    return Text(fault.where, None, fault.kind)


def place(path: Path, where: int) -> str:
    """The file and, if it holds several texts, the line, the element or the row."""
    kind = kind_of(path.name)[0]
    if where == FILE:
        return str(path)
    match kind:
        case ".jsonl":
            return f"{path}, line {lines.line_number(path, where)}"
        case ".csv":
            return f"{path}, line {where}"
        case ".json":
            return f"{path}, element {where} (counted from 0)"
        case ".parquet":
            return f"{path}, row {where} (counted from 0)"
        case _:
            return f"{path}, line {lines.line_number(path, where)}" if where else str(path)
