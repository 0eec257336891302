"""What a corpus is: a part of the manifest of its tokens, and what `nanogpt tokens` shows.

It is the same however many workers read the text, and in whatever pieces.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.manifest import Manifest

NO_LETTERS = "Common", "Inherited", "Unknown"  # what Unicode calls what is of no one script
PLACES = 3  # of each kind that are noted
BINS = 63  # powers of two: no document is longer


class Noted(Manifest):
    """Texts of which one thing was noted."""

    texts: int
    places: tuple[str, ...]  # the first PLACES


class Profile(Manifest):
    """What is known of the documents beside their number and size, which the splits have."""

    characters: int  # of all that was read, copies too, as are `scripts` and `replaced`
    scripts: dict[str, int]  # Unicode's Script → characters, the commonest first
    replaced: int  # characters U+FFFD: what could not be read once
    odd: dict[str, Noted]  # what may not be meant: kept
    skipped: dict[str, Noted]  # what could not be read: left out
    copies: int  # documents that are another one word for word: left out
    near_copies: int | None  # that are almost another one; None: nobody looked
    sizes: tuple[int, ...]  # documents of 1 byte, of 2 to 3, of 4 to 7 ...: a power of two each
    lengths: tuple[int, ...]  # the same in tokens, with those that stand around a text
    unknown: int  # tokens that stand for what the vocabulary does not have
    turned_back: int  # texts whose tokens were decoded again
    changed: int  # of these, texts that did not come back as they were

    @property
    def letters(self) -> dict[str, float]:
        """The share of each script among the characters that are of one."""
        found = {name: count for name, count in self.scripts.items() if name not in NO_LETTERS}
        return {name: count / sum(found.values()) for name, count in found.items()}


def histogram(sizes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of some sizes are 0 or 1, 2 to 3, 4 to 7 ...: (BINS,) int64, to be added up."""
    bins = np.maximum(np.frexp(np.asarray(sizes, np.float64))[1] - 1, 0)
    return np.bincount(bins, minlength=BINS).astype(np.int64)


def shortened(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """A histogram without the empty bins at its end."""
    return tuple(np.trim_zeros(counts, "b").tolist())


def label(i: int) -> str:
    """What a bin holds."""
    return f"{2**i:,} to {2 ** (i + 1) - 1:,}" if i else "1"
