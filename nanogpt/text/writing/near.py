"""Documents that are almost the same: MinHash signatures, compared by locality-sensitive hashing.

Source of the method: Broder, "On the resemblance and containment of documents", 1997; the numbers
are about those of FineWeb (Penedo et al., arXiv 2406.17557): words in fives, three quarters alike.
"""

import re
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 64
SHINGLE = 5  # words in a row
ALIKE = 0.75  # share of common shingles from which on two documents are near copies
BLOCK = 1 << 12  # shingles at a time
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # over all 64 bits
TABLES = 12, 5  # bands, and rows of each: of pairs that are just so much alike they find 96 %
NEED = 4500  # bytes of memory for a document
MOST = 1 << 18  # documents
# a word; where a script has no blanks between words, a character is one
WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]|\w+"
)


def signature(text: str) -> NDArray[np.uint32]:
    """MinHash of the words of a text in fives: (PERMUTATIONS,)."""
    found = _hash()
    found_words = WORD.findall(text.lower()) or [text]  # what has no word is all of one
    words = np.array([zlib.crc32(word.encode()) for word in found_words], np.uint64)
    count = max(1, len(words) - SHINGLE + 1)
    shingles = np.zeros(count, np.uint64)
    for i in range(min(SHINGLE, len(words))):
        shingles = shingles * SPREAD + words[i : i + count]
    if len(words) == 1:  # a word's number is of the 32 bits that are left out below
        shingles = words * SPREAD
    shingles >>= np.uint64(32)
    for start in range(0, count, BLOCK):
        found.update_batch(shingles[start : start + BLOCK].tolist())
    hashes: NDArray[np.uint32] = found.hashvalues.astype(np.uint32)
    return hashes


class Seen:
    """Documents that were seen, to be asked whether another one is almost one of them."""

    def __init__(self) -> None:
        from datasketch import MinHashLSH

        self._tables = MinHashLSH(num_perm=PERMUTATIONS, params=TABLES)
        self._signatures: list[NDArray[np.uint32]] = []

    def add(self, signature: NDArray[np.uint32]) -> None:
        self._tables.insert(len(self._signatures), _hash(signature), check_duplication=False)
        self._signatures.append(signature)

    def has(self, signature: NDArray[np.uint32]) -> bool:
        """Whether one is alike; the tables find candidates, the signatures decide."""
        least = ALIKE * PERMUTATIONS
        return any(
            np.count_nonzero(self._signatures[i] == signature) >= least
            for i in self._tables.query(_hash(signature))
        )


def check_number(documents: int) -> None:
    """Refuse more documents than there is memory for.

    Raises:
        UserError: it says how much they would need.
    """
    if documents > MOST:
        raise UserError(
            f"tokenize.near_duplicates: {documents:,} documents need about"
            f" {documents * NEED / 1e9:.0f} GB of memory to be compared, and {MOST:,} are the most;"
            " set it to ignore, and look for near copies before, with a tool such as datatrove"
        )


@lru_cache(maxsize=1)
def _first() -> "MinHash":
    """A signature of nothing, whose permutations all others have."""
    # it imports scipy: a second and 60 MB, in each worker, for those alone who look for copies
    from datasketch import MinHash

    return MinHash(PERMUTATIONS, seed=1, scheme="affine32")


def _hash(signature: NDArray[np.uint32] | None = None) -> "MinHash":
    first = _first()
    return type(first)(
        hashfunc=int,
        hashvalues=signature,
        permutations=first.permutations,
        scheme=first.scheme,
        num_perm=PERMUTATIONS,
    )
