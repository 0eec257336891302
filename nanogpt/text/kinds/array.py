""".json: a document an element of an array, or one object; read a block at a time, in one piece."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt.text.kinds.found import FILE, MEND, Fault, Text, Unreadable, head_of, utf8
from nanogpt.text.kinds.packed import open_bytes
from nanogpt.text.kinds.values import document_of
from nanogpt.text.raw import Reading

BLOCK = 1 << 20  # bytes
BLANKS = re.compile(r"[ \t\r\n]+")
NEAR = 12  # characters: nearer to the end of what is read, a fault may be that the rest is missing
DECODER = json.JSONDecoder()


def read(path: Path, reading: Reading) -> Iterator[Text | Fault]:
    with open_bytes(path) as file:
        values = _Values(file, head_of(path))
        if values.peek() == "[":
            elements = _elements(values)
        elif values.peek() == "":
            return
        else:
            elements = _only(values)
        for where, value in elements:
            try:
                yield Text(where, *document_of(value, reading))
            except Unreadable as error:
                yield error.at(where)


def _elements(values: "_Values") -> Iterator[tuple[int, Any]]:
    values.take()
    where = 0
    while values.peek() != "]" or where:
        value = values.value(where)
        yield where, value
        where += 1
        match values.peek():
            case ",":
                values.take()
            case "]":
                break
            case "":
                raise values.broken(where, "the array is not ended")
            case found:
                raise values.broken(where, f"{found!r} stands where ',' or ']' should")
    values.take()
    if found := values.peek():
        raise values.broken(FILE, f"{found!r} stands after the end of the array")


def _only(values: "_Values") -> Iterator[tuple[int, Any]]:
    value = values.value(FILE)
    if values.peek():
        raise values.broken(FILE, "more than one value; with one a line, call it .jsonl")
    yield FILE, value


class _Values:
    """The values in a file, one after another; no more is in memory than the longest of them."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self.file, self.head = file, head
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.ended, self.bytes = "", 0, False, 0

    def peek(self) -> str:
        """The next character that is not blank; none at the end."""
        while True:
            if blanks := BLANKS.match(self.text, self.at):
                self.at = blanks.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more()

    def take(self) -> None:
        self.at += 1

    def value(self, where: int) -> Any:
        """The value that begins with what `peek` gave."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated") or error.pos + NEAR > len(self.text)
                if self.ended or not open_end:
                    raise self.broken(where, error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self.broken(where, str(error)) from None
            else:
                if end < len(self.text) or self.ended:  # else a number may go on
                    self.at = end
                    return value
            self._more()

    def broken(self, where: int, reason: str) -> Unreadable:
        return Unreadable("broken JSON", f"cannot be read as JSON: {reason}{MEND}", where)

    def _more(self) -> None:
        # as much again: what is long is looked at a few times only
        block = self.file.read(max(BLOCK, len(self.text) - self.at))
        self.ended = not block
        try:
            text = self.decode(block, self.ended)
        except UnicodeDecodeError as error:
            # of what was read before, `object` may begin with the first bytes of a character
            offset = self.bytes + len(block) - len(error.object) + error.start
            utf8(error.object[error.start :], offset, self.head)
            raise
        self.bytes += len(block)
        self.text, self.at = self.text[self.at :] + text, 0
