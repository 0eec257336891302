"""A comparison of two models as a page of Markdown."""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from nanogpt.scoring.blocks import Scores
from nanogpt.scoring.paired import ENOUGH
from nanogpt.scoring.reading import scored
from nanogpt.text.tokens import HeldOut

MOST = 5  # rows, of each direction
EXCERPT = 60  # characters
WIDTH = 50  # characters of a sample beside another
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """Cells must be safe already: see `code`."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def code(text: str) -> str:
    """A text, whatever is in it, as code in a cell of a table, in one line."""
    line = "".join(
        c if c.isprintable() else "\N{SYMBOL FOR NEWLINE}" if c == "\n" else " " for c in text
    )
    line = line.replace("|", "\N{BROKEN BAR}")
    if not line.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def differences(text: HeldOut, a: Scores, b: Scores) -> Iterator[str]:
    """Two tables of where one model's loss is furthest below the other's, in bits per byte."""
    text = scored(text)
    whole = len(text.starts) >= ENOUGH
    # the first block of each document, or each block
    first = np.flatnonzero(np.diff(a.document, prepend=-1)) if whole else np.arange(len(a.nats))
    sizes = np.add.reduceat(a.bytes, first)
    bits = [np.add.reduceat(model.nats, first) / sizes / math.log(2) for model in (a, b)]
    begins = (np.cumsum(a.bytes) - a.bytes)[first]
    documents = a.document[first]
    gain = bits[0] - bits[1]
    order = np.argsort(-gain, kind="stable")
    if not whole:  # the end of a document may be so short that it says little
        order = order[sizes[order] > sizes.max() // 2]
    what = "document" if whole else "block"
    for best, other, chosen in (
        ("B", "A", [i for i in order[:MOST] if gain[i] > 0]),
        ("A", "B", [i for i in order[::-1][:MOST] if gain[i] < 0]),
    ):
        yield f"## Where {best} is furthest ahead of {other}\n"
        rows = []
        for i in chosen:
            part, document = slice(begins[i], begins[i] + sizes[i]), documents[i]
            place = f"{document + 1}"
            if not whole:
                place += f", byte {begins[i] - text.starts[document]:,}"
            figures = [f"{bits[0][i]:.3f}", f"{bits[1][i]:.3f}", f"{gain[i]:+.3f}"]
            rows.append([place, *figures, code(excerpt(text.data[part]))])
        head = ["document", "A: bits per byte", "B", "A - B", f"how the {what} begins"]
        yield table(head, rows) if rows else f"In no {what}.\n"


def excerpt(data: bytes) -> str:
    """The first characters of a part of a text, which may begin inside one."""
    return data[: 4 * EXCERPT].decode("utf-8", "ignore").strip()[:EXCERPT]


def side_by_side(a: str, b: str) -> str:
    """Two texts, line by line."""
    columns = [
        [row for line in text.splitlines() for row in textwrap.wrap(line, WIDTH) or [""]]
        for text in (a, b)
    ]
    return table(["A", "B"], [[code(x), code(y)] for x, y in zip_longest(*columns, fillvalue="")])
