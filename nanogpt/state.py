"""The state of one training on disk: held by one process group, resumed, saved, removed.

state = State(Path("data/shakespeare/state/0123456789abcdef"), world, patience=10)
if state.step >= 0:
    progress, rows = state.resume(tensors)
state.save(tensors, progress, rows, then)
state.remove()
"""

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from nanogpt import checkpoint
from nanogpt.distributed import World
from nanogpt.errors import UserError
from nanogpt.files import remove_folder
from nanogpt.trainer import Progress


class State:
    """The saves of a training, and the lock that keeps a second one away.

    Args:
        folder: of this very training; made if it is not there.
        patience: seconds to wait for the lock: workers of a killed training need a moment to end,
            and a file server keeps the lock of a machine that lost its power for a minute and more.

    Raises:
        UserError: another process is training this very model.
    """

    def __init__(self, folder: Path, world: World, patience: int) -> None:
        self.folder = folder
        self._world = world
        newest = -1
        if world.rank == 0:
            self._lock = _hold(folder, patience)
            checkpoint.clean(folder)
            newest = checkpoint.latest(folder)
        # the first process's view: a file server may lag behind
        self.step = int(world.largest(newest)[0])  # of the newest save; -1: there is none
        self._saver = checkpoint.Saver(folder, world)

    def resume(self, tensors: Mapping[str, Tensor]) -> tuple[Progress, int]:
        """Fill `tensors` from the newest save; returns its progress and the journal's rows."""
        save = checkpoint.save_path(self.folder, self.step)
        about = checkpoint.read_progress(save)
        with torch.no_grad():
            checkpoint.fill(save, dict(tensors), self._world)
        rows = about.pop("rows")
        return Progress(**about), rows

    def save(
        self,
        tensors: Mapping[str, Tensor],
        progress: Progress,
        rows: int = 0,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Save beside the training; `then` is called when the save is on the disk."""
        if progress.saved_step == progress.step:
            return  # it was stopped before this step was scored: these weights are on the disk
        progress.saved_step = progress.step
        about = vars(progress) | {"rows": rows}
        self._saver.save(tensors, about, [progress.best_step], then)

    def wait(self) -> None:
        """Wait until the last save is on the disk."""
        self._saver.wait()

    def best(self, progress: Progress, names: list[str]) -> dict[str, Tensor]:
        """The best weights, whole, however many processes saved them."""
        return checkpoint.read_whole(checkpoint.save_path(self.folder, progress.best_step), names)

    def remove(self) -> None:
        """Remove all of it: the training is done."""
        remove_folder(self.folder)
        self._lock.close()


def _hold(folder: Path, seconds: int) -> TextIO:
    for _ in range(10 * seconds):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock  # and not that of a folder which a finished training has just removed
        except BlockingIOError:
            time.sleep(0.1)
        lock.close()
    raise UserError(f"another process is training this very model, in {folder}; wait for it")
