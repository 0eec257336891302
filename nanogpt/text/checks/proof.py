"""Whether ids are their text: what a tokenizer loses is counted, and told once with an example.

proof = Proof()
proof.look(tokenizer, text, ids)    # without what stands around the text
proof.check()
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.text.checks.survey import warn
from nanogpt.text.words.tokenizer import Tokenizer

SAMPLE = 1 << 16  # tokens that are turned back into text, of each task
ENDS = 1 << 14  # tokens at either end of a long text that are
LEAST, MOST = 1 / 32, 2.0  # tokens a byte; English has about 1/4, letters have 1
ELLIPSIS = 20  # characters around a place


@dataclass
class Proof:
    """What was found out about some texts; `+=` adds others."""

    tokens: int = 0
    bytes: int = 0
    characters: int = 0
    unknown: int = 0  # tokens that stand for what the vocabulary lacks
    looked: int = 0  # tokens that were turned back
    texts: int = 0  # whose tokens were
    changed: int = 0  # that did not come back as they were
    expected: int = 0  # characters of those that were turned back whole
    came: int = 0  # and of what came back
    example: str = ""

    def __iadd__(self, later: "Proof") -> "Proof":
        for name, value in vars(later).items():
            if name != "example":
                setattr(self, name, getattr(self, name) + value)
        self.example = self.example or later.example
        return self

    def look(self, tokenizer: Tokenizer, text: str, ids: NDArray[np.uint32]) -> None:
        """Count the tokens of a text and, of some texts, turn them back."""
        self.tokens += len(ids)
        self.bytes += len(text.encode())
        self.characters += len(text)
        if tokenizer.unknown is not None:
            self.unknown += int(np.count_nonzero(ids == tokenizer.unknown))
        if self.looked >= SAMPLE:
            return
        self.texts += 1
        changed = ""
        for expected, found in self._turn_back(tokenizer, text, ids):
            if expected != found and not changed:
                pairs = enumerate(zip(expected, found, strict=False))
                shorter = min(len(expected), len(found))
                first = next((i for i, (a, b) in pairs if a != b), shorter)
                place = slice(max(0, first - ELLIPSIS // 2), first + ELLIPSIS)
                changed = f"{expected[place]!r} comes back as {found[place]!r}"
        self.changed += bool(changed)
        self.example = self.example or changed

    def _turn_back(
        self, tokenizer: Tokenizer, text: str, ids: NDArray[np.uint32]
    ) -> Iterator[tuple[str, str]]:
        """Pieces of the text, and what their tokens are."""
        self.looked += min(len(ids), 2 * ENDS)
        if len(ids) <= 2 * ENDS:
            found = tokenizer.decode(ids.tolist())
            self.expected += len(text)
            self.came += len(found)
            yield text, found
        else:  # a cut may go through a character
            head = tokenizer.decode(ids[:ENDS].tolist()).rstrip("\ufffd")
            yield text[: len(head)], head
            tail = tokenizer.decode(ids[-ENDS:].tolist()).lstrip("\ufffd")
            yield text[len(text) - len(tail) :], tail

    def check(self) -> None:
        """Warn of what is lost.

        Raises:
            UserError: it is so much that the tokens are not those of the text.
        """
        lost = f", such as {self.example}" if self.example else ""
        proven = self.expected == self.characters and not self.changed
        if not proven and not LEAST <= self.tokens / max(1, self.bytes) <= MOST:
            raise UserError(
                f"the tokenizer makes {self.tokens:,} tokens of {self.bytes:,} bytes of text, which"
                f" is not plausible{lost}; take another base, or another corpus"
            )
        if 2 * self.came < self.expected:
            raise UserError(
                f"of {self.expected:,} characters {self.came:,} come back from their tokens{lost};"
                " take a base whose tokenizer knows this text"
            )
        if self.changed:
            warn(
                f"the tokenizer changes texts: {self.changed:,} of {self.texts:,} that were turned"
                f" back{lost}; the model learns what comes back"
            )
        if self.unknown:
            warn(
                f"{self.unknown:,} of {self.tokens:,} tokens stand for what the vocabulary does not"
                " have; they look all the same to the model"
            )
