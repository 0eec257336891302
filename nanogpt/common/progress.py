"""A progress bar with rate and remaining time: drawn on a terminal, lines in a log."""

import sys
from typing import Any, TextIO

from tqdm import tqdm


class _Lines:
    """Gives each state of a bar a line of its own, where a carriage return would not erase."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def bar(total: int | None, what: str, unit: str, initial: int = 0, **options: Any) -> "tqdm[Any]":
    """A bar that counts `unit`s up to `total`; `options` are tqdm's."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        initial=initial,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.1 if terminal else 10,
        dynamic_ncols=terminal,
        **options,
    )
