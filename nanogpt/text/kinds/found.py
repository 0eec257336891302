"""What reading a file finds: texts, and what in it cannot be read.

A reader yields a `Fault` in the place of a text that cannot be read, and goes on; it raises
`Unreadable` where nothing more of its piece can be.
"""

import codecs
from pathlib import Path
from typing import NamedTuple

from nanogpt.text.talks.chat import Conversation

Document = str | Conversation

MARK = b"\xef\xbb\xbf"  # the byte order mark in UTF-8
MEND = (
    "; mend it, or the file that it is a copy of, and run the same command again, or have what"
    " cannot be read left out by download.bad_documents: skip"
)
HEADS = {  # how files begin that are no text
    b"\xff\xfe": "UTF-16: `iconv -f UTF-16 -t UTF-8`",
    b"\xfe\xff": "UTF-16: `iconv -f UTF-16 -t UTF-8`",
    b"\x1f\x8b": "gzip: call it .gz after its kind, as in .txt.gz",
    b"\x28\xb5\x2f\xfd": "zstd: call it .zst after its kind, as in .txt.zst",
    b"PK\x03\x04": "a zip archive, as office documents are",
    b"%PDF": "PDF: `pdftotext`",
    b"PAR1": "parquet: call it .parquet",
}
PIECE = 1 << 19  # bytes of a file in one piece: in memory a character may need four
FILE = -1  # the place of what is wrong with a file as a whole


class Piece(NamedTuple):
    """Part of a file, from `start` up to `stop`: bytes, but of a .parquet row groups."""

    file: str
    start: int
    stop: int
    size: int  # bytes; of a .parquet before compression
    goes_on: bool = False  # whether it continues the document that the piece before it ends with


class Text(NamedTuple):
    where: int  # in its file, as `place` reads it
    document: Document | None  # None: null in the file, or not to be read
    fault: str | None = None  # what is wrong with it, in words by which such documents are counted
    goes_on: bool = False  # whether it continues the document of the text before it


class Fault(NamedTuple):
    """A document that cannot be read."""

    where: int
    kind: str  # by which such documents are counted
    said: str  # what a message says after the place


class Unreadable(Exception):
    """What cannot be read, as a `Fault` says it; `where` in its file, if it is not all of it."""

    def __init__(self, kind: str, said: str, where: int = FILE) -> None:
        super().__init__(said)
        self.kind, self.said, self.where = kind, said, where

    def at(self, where: int) -> Fault:
        return Fault(where, self.kind, self.said)


def utf8(data: bytes, offset: int, head: bytes = b"") -> str:
    """The text in some bytes of a file that begins with `head`.

    Raises:
        Unreadable: they are not UTF-8, or hold more null bytes than a text does.
    """
    try:
        text, _ = codecs.utf_8_decode(data, "strict", True)
    except UnicodeDecodeError as error:
        kinds = [kind for start, kind in HEADS.items() if head.startswith(start)]
        hint = f"it looks like {kinds[0]}" if kinds else "convert it, for example with iconv"
        said = f"is not UTF-8 at byte {offset + error.start} (counted from 0); {hint}{MEND}"
        raise Unreadable("not UTF-8", said) from None
    if data.count(0) * 4 < len(data) or not data:
        return text
    said = "has more null bytes than a text has; is it UTF-16, which `iconv` converts, or none"
    raise Unreadable("not UTF-8", said + MEND)


def unix(text: str) -> str:
    r"""The text with each of its line ends (\r\n, \r or \n) as \n."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def head_of(path: Path) -> bytes:
    """The first bytes of a file, by which it can be told what it is."""
    with path.open("rb") as file:
        return file.read(4)
