"""The one record of a training's metrics: a row a step, on disk together with the saved state.

    journal = Journal(state / "journal.jsonl", step=saved.step)   # step=None: nothing saved yet
    journal.record(250, {"train_loss": 1.9})
    journal.save()                            # then the state is saved, then MLflow may be told
    write_curves(read(state / "journal.jsonl"), folder)

What is drawn, plotted by DVC and sent to MLflow is read from this file, so all of them agree.
"""

import csv
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Only what is the same in every repetition: speeds differ and stay out of files that DVC caches.
CURVES = {
    "train.csv": ("train_loss", "learning_rate", "grad_norm"),
    "val.csv": ("val_loss",),
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

    def __init__(self, path: Path, step: int | None) -> None:
        """Open, and drop what was recorded after the saved state's `step` (None: everything).

        Raises:
            UserError: there is a saved state, but its journal is gone.
        """
        if step is not None and not path.exists():
            raise UserError(
                f"{path} is missing, so the saved training beside it is not whole;"
                f" remove {path.parent} to train anew from the start"
            )
        self._path = path
        self._saved = -1 if step is None else step
        self._rows: dict[int, Row] = {}
        path.touch()
        kept = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["step"] > self._saved:
                break
            kept += len(line)
        os.truncate(path, kept)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of `step`, in memory until `save`."""
        if step <= self._saved or step < max(self._rows, default=0):
            raise ValueError(f"step {step} is recorded after a later one was")
        row = self._rows.setdefault(step, Row(step, time.time_ns() // 1_000_000, {}))
        row.metrics.update(metrics)

    def save(self) -> None:
        """Put the rows on disk.

        Raises:
            OSError: the disk is full; the file is as before and the rows are still in memory.
        """
        end = self._path.stat().st_size
        try:
            with self._path.open("ab") as file:
                for row in self._rows.values():
                    file.write(json.dumps(vars(row)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self._path, end)
            raise
        self._saved = max(self._rows, default=self._saved)
        self._rows.clear()


def read(path: Path, skip: int = 0) -> list[Row]:
    """The whole rows of a journal but the first `skip`; it may be in the middle of a `save`."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [Row(**json.loads(line)) for line in lines[skip:] if line.endswith(b"\n")]


def write_curves(rows: Iterable[Row], folder: Path) -> None:
    """Write `train.csv` and `val.csv`, the curves that DVC plots, into `folder`."""
    rows = list(rows)
    for name, columns in CURVES.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("step", *columns))
            for row in rows:
                if columns[0] in row.metrics:
                    values = (f"{row.metrics[column]:.7g}" for column in columns)
                    writer.writerow((row.step, *values))


def draw(rows: Iterable[Row]) -> "Figure":
    """Draw the losses, the learning rate and the gradient's norm over the steps."""
    # not pyplot, whose figures belong to the process and may open windows
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, norm = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    for axes, name, style in (
        (loss, "train_loss", "C0-"),
        (loss, "val_loss", "C1o-"),
        (rate, "learning_rate", "C2-"),
        (norm, "grad_norm", "C3-"),
    ):
        points = [(row.step, row.metrics[name]) for row in rows if name in row.metrics]
        axes.plot(*zip(*points, strict=True), style, label=name, linewidth=1, markersize=4)
        axes.set_ylabel(name.replace("_", " "))
        axes.grid(alpha=0.3)
    loss.set_ylabel("nats a token")
    loss.legend()
    rate.set_ylim(bottom=0)
    norm.set_ylim(bottom=0)
    norm.set_xlabel("step")
    return figure
