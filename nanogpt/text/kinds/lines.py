""".jsonl: a document a line; a piece has the lines that begin inside it."""

from collections.abc import Iterator
from pathlib import Path

from nanogpt.text.kinds.found import MARK, MEND, Fault, Piece, Text, Unreadable, head_of, utf8
from nanogpt.text.kinds.packed import open_bytes
from nanogpt.text.kinds.values import decode, document_of
from nanogpt.text.raw import Reading, kind_of

ARRAY = f"begins an array, which is no line of a .jsonl; call it .json{MEND}"


def read(path: Path, reading: Reading, piece: Piece) -> Iterator[Text | Fault]:
    head, packed = head_of(path), bool(kind_of(path.name)[1])
    with open_bytes(path) as file:
        at = 0
        if piece.start:
            at = file.seek(piece.start - 1)
            # of a longer line, no more than its part
            at += len(file.readline(piece.stop - piece.start + 1))
        while packed or at < piece.stop:
            where, data = at, file.readline()
            if not data:
                return
            at += len(data)
            line = ""
            try:
                line = utf8(data.removeprefix(MARK), where, head)
                if line and not line.isspace():
                    yield Text(where, *document_of(decode(line), reading))
            except Unreadable as fault:
                array = not where and line.startswith("[")
                yield Fault(where, "broken JSON", ARRAY) if array else fault.at(where)


def line_number(path: Path, where: int) -> int:
    """That of the line which begins at a byte of what is in the file, counted from 1."""
    with open_bytes(path) as file:
        number, at = 1, 0
        while at < where and (data := file.readline(min(where - at, 1 << 20))):
            number += data.endswith(b"\n")
            at += len(data)
    return number
