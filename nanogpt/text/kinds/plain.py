""".txt and .md: a document a file, or what stands between separators.

Of a file that is one document, a piece is the characters that begin inside it: joined, the pieces
are the document. Where there is a separator, a piece has the documents that begin inside it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nanogpt.text.kinds.found import (
    MARK,
    PIECE,
    Fault,
    Piece,
    Text,
    Unreadable,
    head_of,
    unix,
    utf8,
)
from nanogpt.text.kinds.packed import open_bytes
from nanogpt.text.raw import Reading, kind_of

BLOCK = 1 << 20  # bytes
CHARACTER = 4  # bytes of the longest in UTF-8
AFTER = re.compile(rb"[\x80-\xbf]{0,3}")  # what of a character is not its first byte


def read(path: Path, reading: Reading, piece: Piece) -> Iterator[Text | Fault]:
    head, packed = head_of(path), bool(kind_of(path.name)[1])
    with open_bytes(path) as file:
        if reading.separator is not None:
            yield from _documents(file, reading, piece, head, packed)
        elif packed:
            yield from _stream(file, reading)
        else:
            yield Text(0, _part(file, reading, piece, head), None, piece.goes_on)


def _part(file: BinaryIO, reading: Reading, piece: Piece, head: bytes) -> str:
    mark = len(MARK) * head.startswith(MARK)  # the same text has the same pieces without it
    before = file.seek(max(mark + piece.start - 1, 0))
    begin, end = mark + piece.start - before, mark + piece.stop - before
    data = file.read(end + CHARACTER - 1)
    last = data[begin - 1 : begin]
    if piece.start:
        begin = _next(data, begin)
    text = utf8(data[begin : _next(data, end)], before + begin, head)
    if reading.newlines == "unix":
        text = unix(text.removeprefix("\n") if last == b"\r" else text)
    return text


def _next(data: bytes, at: int) -> int:
    """Where the first character begins that does not begin before `at`."""
    found = AFTER.match(data, at)
    return found.end() if found else at


def _stream(file: BinaryIO, reading: Reading) -> Iterator[Text]:
    """A file that is one document, in the parts that the pieces of it have if it is not packed."""
    rest = file.read(len(MARK))
    mark = len(MARK) * (rest == MARK)
    rest, at, stop, after_return = rest[mark:], 0, PIECE, False
    while True:
        data = rest + file.read(stop - at - len(rest) + CHARACTER - 1)
        more = len(data) > stop - at
        end = _next(data, stop - at) if more else len(data)
        text = utf8(data[:end], mark + at, b"" if at else data[:CHARACTER])
        if reading.newlines == "unix":
            ends = text.endswith("\r")
            text = unix(text.removeprefix("\n") if after_return else text)
            after_return = ends
        yield Text(0, text, None, at > 0)
        if not more:
            return
        at, stop, rest = at + end, stop + PIECE, data[end:]


def _documents(
    file: BinaryIO, reading: Reading, piece: Piece, head: bytes, packed: bool
) -> Iterator[Text | Fault]:
    assert reading.separator is not None
    for where, data in _between(file, reading.separator, piece, packed):
        begins = len(MARK) if not where and data.startswith(MARK) else 0
        try:
            text = utf8(data[begins:], where + begins, head)
        except Unreadable as error:
            yield error.at(where)
            continue
        if text and not text.isspace():
            yield Text(where, unix(text) if reading.newlines == "unix" else text)


def _between(
    file: BinaryIO, separator: str, piece: Piece, packed: bool
) -> Iterator[tuple[int, bytes]]:
    r"""Where documents begin that begin inside a piece, and their bytes.

    Separators that overlap or touch are one border: so several blank lines are, and a border is the
    same wherever the reading began. Line ends in a separator may be those of Windows.
    """
    escaped = re.escape(separator.encode())
    line_end = re.escape(b"\n")
    inner = escaped.removeprefix(line_end).replace(line_end, b"\r?\n")
    pattern = re.compile(line_end * escaped.startswith(line_end) + inner)
    longest = len(separator.encode()) + separator.count("\n")
    base = 0 if packed else file.seek(max(piece.start - longest, 0))
    begin = None if piece.start else 0  # of the document that is open, in the buffer
    buffer, searched, ended = b"", 0, False
    while True:
        border = pattern.search(buffer, searched)
        stop = _border_end(pattern, buffer, border) if border else len(buffer)
        if not ended and stop + longest > len(buffer):  # it may go on
            if begin is None and base + searched >= piece.stop and not packed:
                return
            keep = min(border.start() if border else max(len(buffer) - longest, searched), stop)
            drop = keep if begin is None else begin
            block = file.read(max(BLOCK, len(buffer) - drop))  # doubled: long texts in linear time
            ended = not block
            buffer = buffer[drop:] + block
            base, searched, begin = base + drop, keep - drop, None if begin is None else 0
            continue
        if begin is not None:
            data = buffer[begin : border.start() if border else None]
            crlf = border and separator.startswith("\n")
            yield base + begin, data.removesuffix(b"\r") if crlf else data
        if not border or (base + stop >= piece.stop and not packed):
            return
        searched = stop
        begin = stop if base + stop >= piece.start else None


def _border_end(pattern: re.Pattern[bytes], buffer: bytes, border: re.Match[bytes]) -> int:
    """The end of the last of the separators that overlap or touch, from this one on."""
    at, end = border.start() + 1, border.end()
    while at <= end:
        if again := pattern.match(buffer, at):
            end = max(end, again.end())
        at += 1
    return end
