"""What a text is written in: its characters by Unicode's property Script.

    counts = count("Ёж, Igel")              # (len(SCRIPTS),) int64
    by_name(counts)                         # {"Latin": 4, "Cyrillic": 2, "Common": 2}

`Common` are blanks, digits, marks and symbols of no one script, `Inherited` the accents that stand
apart from a letter, `Unknown` what Unicode has given to nobody, or left to private use.

Source: https://www.unicode.org/reports/tr24/ and the data of the package fontTools.
"""

import string

import numpy as np
from fontTools.unicodedata import Scripts
from numpy.typing import NDArray

CODES = sorted(Scripts.NAMES)
SCRIPTS = tuple(Scripts.NAMES[code] for code in CODES)
LATIN, COMMON = SCRIPTS.index("Latin"), SCRIPTS.index("Common")
LETTERS = string.ascii_letters.encode()
BLOCK = 1 << 18  # characters at a time: counting needs twelve bytes for each

# by code point: (0x110000,) uint8
TABLE = np.repeat(
    np.array([CODES.index(code) for code in Scripts.VALUES], np.uint8),
    np.diff([*Scripts.RANGES, 0x110000]),
)


def count(text: str) -> NDArray[np.int64]:
    """How many characters of a text are of each of SCRIPTS: (len(SCRIPTS),) int64."""
    counts = np.zeros(len(SCRIPTS), np.int64)
    if text.isascii():
        data = text.encode()
        counts[COMMON] = len(data.translate(None, LETTERS))
        counts[LATIN] = len(data) - counts[COMMON]
        return counts
    for begin in range(0, len(text), BLOCK):
        codes = np.frombuffer(text[begin : begin + BLOCK].encode("utf-32-le"), "<u4")
        counts += np.bincount(TABLE[codes], minlength=len(SCRIPTS))
    return counts


def by_name(counts: NDArray[np.int64]) -> dict[str, int]:
    """The scripts that a text has, the commonest first."""
    order = np.argsort(-counts, kind="stable").tolist()
    return {SCRIPTS[i]: int(counts[i]) for i in order if counts[i]}
