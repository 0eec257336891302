"""A bar with rate and remaining time: drawn on a terminal, a line every ten seconds in a log.

    with bar(windows, "eval test", "window") as progress:
        progress.update(done)

    with filling(folder, size, "write"):        # what another library writes there
        save_file(tensors, folder / "model.safetensors")

What is done within a second on a terminal, or within ten in a log, shows none.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

LOOK_SECONDS = 0.2


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
        delay=1 if terminal else 10,
        mininterval=0.1 if terminal else 10,
        miniters=1,  # else tqdm waits for as many as came in the last interval
        dynamic_ncols=terminal,
        **options,
    )


@contextmanager
def filling(folder: Path, total: int | None, what: str) -> Iterator[None]:
    """Show how many bytes of `total` come into a folder, while something else writes them."""
    done, before = threading.Event(), _blocks(folder)

    def look() -> None:
        with bar(total, what, "B") as progress:
            while not done.wait(LOOK_SECONDS):
                size = _blocks(folder) - before
                progress.update(max(0, min(size, total or size) - progress.n))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _blocks(folder: Path) -> int:
    """Bytes on the disk: a file may have its whole size before anything is in it."""
    size = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it has been moved
                size += 512 * os.lstat(os.path.join(top, name)).st_blocks
    return size
