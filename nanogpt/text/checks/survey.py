"""The first reading of a corpus: its documents, its characters, and what in it may not be meant.

    found = survey(raw, part.reading, pieces, characters=True)

Nothing odd is changed here, or refused: it is counted, and told once with its first place.
"""

import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanogpt.text.checks import scripts
from nanogpt.text.checks.profile import PLACES, Noted
from nanogpt.text.documents import Piece, place, texts
from nanogpt.text.raw import Reading
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.words.library import ENDS, EOT

# controls but for tab, line ends and form feed; marks of byte order; what could not be read once
ODD = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffd-\uffff]")
# to leave these out is ten times as fast as to look for the others
PLAIN = bytes(byte for byte in range(128) if not ODD.match(chr(byte)))
LOST = "\N{REPLACEMENT CHARACTER}"
PAGES = ("<!doctype html", "<html")

NONE = "no text"
SPECIAL = "the text of "  # and a token
TOLD = {
    NONE: "no text (empty, blank or null): left out",
    "carriage returns": "carriage returns (\\r, as in Windows' line ends): kept, as a character of"
    " their own; download.newlines: unix makes them \\n",
    "seldom characters": "characters that are seldom text, such as {detail}: kept",
    "accents apart": "accents apart from their letters (not Unicode's NFC): kept, as characters of"
    " their own",
    "web pages": "the beginning of a web page: kept, with its markup",
    SPECIAL: "{token} written in them ({times:,} times there, first in line {line:,}): kept as"
    " letters, which are not that token",
}
BETWEEN = "; where it separates documents, set download.separator to it"


@dataclass(frozen=True)
class Place:
    """Where something odd is."""

    file: str
    where: int  # what `texts` calls it
    detail: str = ""
    times: int = 0  # in that text, of what is counted there
    line: int = 0  # of the text, counted from 1, of the first


@dataclass
class Odd:
    """One kind of it."""

    texts: int
    places: list[Place]  # the first


@dataclass
class Survey:
    """What some texts are.

    `+=` adds texts that come after these, and `|=` a later part of the same text.
    """

    documents: int = 0
    characters: set[str] = field(default_factory=set)
    scripts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(scripts.SCRIPTS), int))
    replaced: int = 0  # characters U+FFFD
    lines: int = 0  # line ends
    odd: dict[str, Odd] = field(default_factory=dict)
    skipped: dict[str, Odd] = field(default_factory=dict)  # what could not be read

    def __iadd__(self, later: "Survey") -> "Survey":
        self.documents += later.documents
        if later.documents:  # what is in a text that is left out is not in the corpus
            self._add_characters(later)
            _add(self.odd, later.odd)
        elif NONE in later.odd:
            _add(self.odd, {NONE: later.odd[NONE]})
        _add(self.skipped, later.skipped)
        return self

    def __ior__(self, later: "Survey") -> "Survey":
        self.skipped = later.skipped | self.skipped
        self.documents = 0 if self.skipped else max(self.documents, later.documents)
        self._add_characters(later)
        for kind, odd in later.odd.items():
            (there,) = odd.places
            if kind in self.odd:
                (ours,) = self.odd[kind].places
                there = replace(ours, times=ours.times + there.times)
            elif there.times:
                there = replace(there, line=there.line + self.lines)
            self.odd[kind] = Odd(1, [there])
        if self.documents or self.skipped:  # not all of it is blank
            self.odd.pop(NONE, None)
        self.lines += later.lines
        return self

    def _add_characters(self, later: "Survey") -> None:
        self.characters |= later.characters
        self.scripts += later.scripts
        self.replaced += later.replaced

    def tell(self, raw: Path) -> None:
        """Warn of all that is odd, a line each."""
        left_out = [odd.texts for odd in self.skipped.values()]
        total = self.documents + sum(left_out) + (self.odd[NONE].texts if NONE in self.odd else 0)
        for kind, odd in self.skipped.items():
            where = place(raw / odd.places[0].file, odd.places[0].where)
            warn(f"{odd.texts:,} of {total:,} texts left out: {kind} (first {where})")
        for kind, odd in self.odd.items():
            there = odd.places[0]
            if kind.startswith(SPECIAL):
                token = kind.removeprefix(SPECIAL)
                said = TOLD[SPECIAL].format(token=token, times=there.times, line=there.line)
                said += BETWEEN * (token in map(repr, ENDS))
            elif kind in TOLD:
                said = TOLD[kind].format(detail=there.detail)
            else:
                said = kind  # a reader's own words
            warn(
                f"{odd.texts:,} of {total:,} texts (first {place(raw / there.file, there.where)})"
                f" {'has' if odd.texts == 1 else 'have'} {said}"
            )


def noted(raw: Path, kinds: Mapping[str, Odd]) -> dict[str, Noted]:
    """For the manifest, with places in a raw folder."""
    return {
        kind: Noted(
            texts=odd.texts,
            places=tuple(
                place(raw / there.file, there.where).removeprefix(f"{raw}/") for there in odd.places
            ),
        )
        for kind, odd in kinds.items()
    }


def _add(kinds: dict[str, Odd], later: Mapping[str, Odd]) -> None:
    for kind, odd in later.items():
        ours = kinds.setdefault(kind, Odd(0, []))
        ours.texts += odd.texts
        ours.places = [*ours.places, *odd.places][:PLACES]


class Surveyor:
    """Looks at texts for a reader to whom some `special` texts may be tokens."""

    def __init__(self, characters: bool, special: Collection[str] = (EOT,)) -> None:
        self.characters = characters  # whether to collect them
        longest = sorted(filter(None, special), key=len, reverse=True)
        self.tokens = [  # by their first letter: a common beginning is looked for ten times as fast
            re.compile("|".join(re.escape(token) for token in longest if token[0] == first))
            for first in sorted({token[0] for token in longest})
        ]

    def look(
        self,
        text: str | None,
        file: str,
        where: int,
        begins: bool = True,
        fault: str | None = None,
    ) -> Survey:
        """What a text is, or a part of it, which may be its beginning.

        Args:
            fault: in a reader's words; without a text, why it could not be read.
        """
        here = [Place(file, where)]
        if text is None and fault:
            return Survey(skipped={fault: Odd(1, here)})
        if not text:
            return Survey(odd={NONE: Odd(1, here)})
        places = {
            kind: Place(file, where, detail, times, line)
            for kind, detail, times, line in self._odd(text, begins)
        }
        if fault:
            places[fault] = here[0]
        return Survey(
            documents=int(not text.isspace()),
            characters=set(text) if self.characters else set(),
            scripts=scripts.count(text),
            replaced=text.count(LOST),
            lines=text.count("\n"),
            odd={kind: Odd(1, [there]) for kind, there in places.items()},
        )

    def _odd(self, text: str, begins: bool) -> Iterator[tuple[str, str, int, int]]:
        """Kind, detail, how many times, line of the first."""
        if text.isspace():
            yield NONE, "", 0, 0
        if "\r" in text:
            yield "carriage returns", "", 0, 0
        plain = text.isascii() and not text.encode().translate(None, PLAIN)
        if not plain and (odd := ODD.search(text)):
            yield "seldom characters", f"U+{ord(odd[0]):04X}", 0, 0
        # shorter by it: other spellings, as of pointed Arabic and Hebrew, are everybody's
        if not unicodedata.is_normalized("NFC", text) and (
            len(unicodedata.normalize("NFC", text)) < len(text)
        ):
            yield "accents apart", "", 0, 0
        hits: dict[str, int] = {}
        for some in self.tokens:
            for hit in some.finditer(text):
                hits[hit[0]] = hits.get(hit[0], 0) + 1
        for token, times in hits.items():
            line = text.count("\n", 0, text.index(token)) + 1
            yield f"{SPECIAL}{token!r}", "", times, line
        if begins and text[:100].lstrip().lower().startswith(PAGES):
            yield "web pages", "", 0, 0


def survey(
    raw: Path,
    reading: Reading,
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
    found, surveyor = Survey(), Surveyor(characters, special)
    for piece in pieces:
        for where, text, *_ in texts(raw, reading, piece):
            assert not isinstance(text, Conversation)
            found += surveyor.look(text, piece.file, where)
    return found


def warn(message: str) -> None:
    print(f"tokenize: warning: {message}", file=sys.stderr, flush=True)
