"""The first reading of a corpus: its documents, its characters, and what in it may not be meant.

    found = survey(raw, corpus.text_field, pieces, characters=True)

Nothing odd is changed here, or refused: it is counted, and told once with its first place.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt.text.documents import Piece, place, texts

# controls but for tab, line ends and form feed; marks of byte order; what could not be read once
ODD = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffd-\uffff]")
PAGES = ("<!doctype html", "<html")

NONE = "no text (empty, blank or null): left out"
RETURNS = "line ends of Windows (\\r\\n): kept, and \\r is a character of its own"
CONTROLS = "characters that are seldom text, such as {}: kept"
APART = "accents apart from their letters (not Unicode's NFC): kept, as other characters"
PAGE = "the beginning of a web page: kept, with its markup"


@dataclass
class Survey:
    """What some texts are; `+=` adds those that come after them."""

    documents: int = 0
    characters: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)  # what is odd → in how many texts
    first: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # file, place, detail

    def note(self, what: str, file: str, where: int, detail: str = "") -> None:
        """Count what is odd about a text."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, (file, where, detail))

    def __iadd__(self, later: "Survey") -> "Survey":
        self.documents += later.documents
        self.characters |= later.characters
        for what, count in later.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
            self.first.setdefault(what, later.first[what])
        return self

    def tell(self, raw: Path) -> None:
        """Warn of all that is odd, a line each."""
        total = self.documents + self.counts.get(NONE, 0)
        for what, count in self.counts.items():
            file, where, detail = self.first[what]
            warn(
                f"{count:,} of {total:,} texts (first {place(raw / file, where)})"
                f" {'has' if count == 1 else 'have'} {what.format(detail)}"
            )


def survey(raw: Path, text_field: str, pieces: Iterable[Piece], characters: bool) -> Survey:
    """Read pieces of a corpus.

    Args:
        characters: collect them too.

    Raises:
        UserError: a text cannot be read; says where.
    """
    found = Survey()
    for piece in pieces:
        for where, text in texts(raw, text_field, piece):
            if not text or text.isspace():
                found.note(NONE, piece.file, where)
                continue
            found.documents += 1
            if characters:
                found.characters.update(text)
            if "\r" in text:
                found.note(RETURNS, piece.file, where)
            if odd := ODD.search(text):
                found.note(CONTROLS, piece.file, where, f"U+{ord(odd[0]):04X}")
            if not unicodedata.is_normalized("NFC", text):
                found.note(APART, piece.file, where)
            if text[:100].lstrip().lower().startswith(PAGES):
                found.note(PAGE, piece.file, where)
    return found


def warn(message: str) -> None:
    print(f"tokenize: warning: {message}", file=sys.stderr, flush=True)
