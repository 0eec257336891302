""".csv: a document a row, below a row of names; commas between cells; in one piece."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nanogpt.common.fields import fields_of
from nanogpt.text.kinds.found import MARK, MEND, Fault, Text, Unreadable, head_of, utf8
from nanogpt.text.kinds.packed import open_bytes
from nanogpt.text.kinds.values import MISSING, document_of, look_up
from nanogpt.text.raw import Reading

OTHERS = {"\t": "tabs", ";": "semicolons", "|": "bars"}  # what else may stand between cells


def read(path: Path, reading: Reading) -> Iterator[Text | Fault]:
    csv.field_size_limit(sys.maxsize)  # of all tables in this process; a text may be long
    with open_bytes(path) as file:
        rows = csv.reader(_Lines(file, head_of(path)), strict=True)
        try:
            names = next(rows, None)
        except csv.Error as error:
            raise _broken(error) from None
        if names is None:
            return
        _check_names(names, reading)
        while True:
            where = rows.line_num + 1
            try:
                cells = next(rows, None)
                if cells is None:
                    return
                if cells:  # no empty line
                    yield Text(where, *document_of(_row(names, cells), reading))
            except csv.Error as error:
                yield _broken(error).at(where)
            except Unreadable as error:
                yield error.at(where)


def _check_names(names: list[str], reading: Reading) -> None:
    example = dict.fromkeys(names, "")
    missing = [name for name in reading.names if look_up(example, name) is MISSING]
    if missing:
        for mark, called in OTHERS.items():
            if len(names) == 1 and mark in names[0]:
                said = f"has {called} between its cells, not commas; write it with commas{MEND}"
                raise Unreadable("broken CSV", said)
    if len(missing) == len(reading.names):
        said = f"has no column {missing[0]!r}; its columns: {fields_of(example, missing[0])}"
        raise Unreadable("no such field", said)
    for name in reading.names:
        if names.count(name) > 1:
            raise Unreadable("broken CSV", f"has {names.count(name)} columns {name!r}{MEND}")


def _row(names: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise _broken(f"it has {len(cells)} cells below {len(names)} names")
    for name, cell in zip(names, cells, strict=True):
        if not cell.isascii() and any("\udc80" <= letter <= "\udcff" for letter in cell):
            said = f"is not UTF-8 in its column {name!r}; convert it, for example with iconv{MEND}"
            raise Unreadable("not UTF-8", said)
    return dict(zip(names, cells, strict=True))


def _broken(error: object) -> Unreadable:
    return Unreadable("broken CSV", f"cannot be read as CSV: {error}{MEND}")


class _Lines:
    """The lines of a file; what in them is not UTF-8 is found in its cell, when that is whole."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self.file, self.head, self.first = file, head, True

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        if self.first:
            self.first = False
            return utf8(line.removeprefix(MARK), 0, self.head)
        return line.decode("utf-8", "surrogateescape")
