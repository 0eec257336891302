"""The one record of a training's metrics: a row a step, on disk together with the saved state.

    journal = Journal(state / "journal.jsonl", rows)      # of the saved state; None: nothing saved
    journal.record(250, {"train_loss": 1.9})
    rows = journal.save()                     # then the state is saved, then MLflow may be told
    write_curves(read(state / "journal.jsonl"), folder)

What DVC plots and MLflow is sent is read from this file, so all of them agree.
"""

import csv
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nanogpt.common.errors import UserError

# Only values that are the same in every run. Speeds differ, so they stay out of cached files.
CURVES = {
    "train.csv": ("train_loss", "learning_rate", "grad_norm"),
    "val.csv": ("val_loss", "val_bits_per_byte"),
}


@dataclass(frozen=True)
class Row:
    """The metrics of one step; `time` is in milliseconds since 1970, as MLflow wants it."""

    step: int
    time: int
    metrics: dict[str, float]


class Journal:
    """Appends rows, in the order of their steps.

    Call `save` before the state is saved: then the rows of a state that is on disk are on disk
    too, and those of a state that never got there are dropped by the next opening.
    """

    def __init__(self, path: Path, rows: int | None) -> None:
        """Open, and drop what came after the `rows` of the saved state (None: everything).

        Raises:
            UserError: there is a saved state, but its journal is gone or cut off.
        """
        self._path = path
        if rows is None:
            path.write_bytes(b"")
        saved = _lines(path)[:rows] if path.exists() else []
        if len(saved) < (rows or 0):
            raise UserError(
                f"{path} is missing or cut off, so the saved training beside it is not whole;"
                f" remove {path.parent} to train anew from the start"
            )
        os.truncate(path, sum(map(len, saved)))
        self._count = len(saved)
        self._rows: dict[int, Row] = {}
        self._step = json.loads(saved[-1])["step"] if saved else -1

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of `step`, in memory until `save`.

        What is not a finite number is left out: JSON has no word for it.
        """
        if step < self._step:
            raise ValueError(f"step {step} is recorded after a later one was")
        self._step = step
        row = self._rows.setdefault(step, Row(step, time.time_ns() // 1_000_000, {}))
        row.metrics.update({k: v for k, v in metrics.items() if math.isfinite(v)})

    def save(self) -> int:
        """Put the rows on disk; returns how many there are now.

        Raises:
            OSError: the disk is full; the file is as before and the rows are still in memory.
        """
        end = self._path.stat().st_size
        try:
            with self._path.open("ab") as file:
                for row in self._rows.values():
                    file.write(json.dumps(vars(row), allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self._path, end)
            raise
        self._count += len(self._rows)
        self._rows.clear()
        return self._count


def read(path: Path, skip: int = 0) -> list[Row]:
    """The whole rows of a journal but the first `skip`; it may be in the middle of a `save`."""
    return [Row(**json.loads(line)) for line in _lines(path)[skip:]]


def _lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")]


def write_curves(rows: Iterable[Row], folder: Path) -> None:
    """Write `train.csv` and `val.csv`, the curves that DVC plots, into `folder`."""
    rows = list(rows)
    known_keys = dict.fromkeys(key for row in rows for key in row.metrics)
    for name, always in CURVES.items():
        # and those of each corpus of several, such as val_loss/plays
        parts = [key for key in known_keys if key.partition("/")[0] in always and "/" in key]
        columns = (*always, *parts)
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("step", *columns))
            for row in rows:
                if columns[0] in row.metrics:
                    known = {key: f"{value:.7g}" for key, value in row.metrics.items()}
                    values = (known.get(column, "") for column in columns)
                    writer.writerow((row.step, *values))
