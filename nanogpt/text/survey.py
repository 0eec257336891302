"""The first reading of a corpus: its documents, its characters, and what in it may not be meant.

    found = survey(raw, corpus.text_field, pieces, characters=True)

Nothing odd is changed here, or refused: it is counted, and told once with its first place.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt.text.documents import Piece, place, texts
from nanogpt.text.library import ENDS, EOT

# controls but for tab, line ends and form feed; marks of byte order; what could not be read once
ODD = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffd-\uffff]")
PAGES = ("<!doctype html", "<html")

NONE = "no text (empty, blank or null): left out"
RETURNS = "line ends of Windows (\\r\\n): kept, and \\r is a character of its own"
CONTROLS = "characters that are seldom text, such as {}: kept"
APART = "accents apart from their letters (not Unicode's NFC): kept, as other characters"
SPECIAL = "{} written in them ({{}}): kept as letters, which are not that token"
BETWEEN = "; to separate documents, give each a file, or a line of .jsonl, of its own"
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


def survey(
    raw: Path,
    text_field: str,
    pieces: Iterable[Piece],
    characters: bool,
    special: Collection[str] = (EOT,),
) -> Survey:
    """Read pieces of a corpus.

    Args:
        characters: collect them too.
        special: texts that a reader may take for tokens.

    Raises:
        UserError: a text cannot be read; says where.
    """
    found = Survey()
    longest = sorted(filter(None, special), key=len, reverse=True)
    tokens = [  # by their first letter: a common beginning is looked for ten times as fast
        re.compile("|".join(re.escape(token) for token in longest if token[0] == first))
        for first in sorted({token[0] for token in longest})
    ]
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
            hits = (hit[0] for some in tokens for hit in some.finditer(text))
            for token, count in Counter(hits).items():
                line = text.count("\n", 0, text.index(token)) + 1
                what = SPECIAL.format(repr(token).replace("{", "{{").replace("}", "}}"))
                detail = f"{count:,} times there, first in line {line:,}"
                found.note(what + BETWEEN * (token in ENDS), piece.file, where, detail)
            if text[:100].lstrip().lower().startswith(PAGES):
                found.note(PAGE, piece.file, where)
    return found


def warn(message: str) -> None:
    print(f"tokenize: warning: {message}", file=sys.stderr, flush=True)
