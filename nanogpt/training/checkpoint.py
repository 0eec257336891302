"""Resumable state of one training: folders of safetensors, whole or not there, never a pickle.

    saves = Saves(Path("data/shakespeare/state/0123456789abcdef"), world, patience=10)
    if saves.step >= 0:
        progress, rows = saves.resume(tensors)
    saves.save(tensors, progress, rows)  # copies the tensors, then writes in a thread
    saves.wait()
    saves.finish({"data/shakespeare/train.json": Path("data/shakespeare/train.json")})

A save is `save-<step>/`: safetensors files of each process, which `torch.distributed.checkpoint`
writes so that any other number of processes can read them, and `progress.json`. It is written under
another name first. The newest and the best stay; what is older goes. A finished training leaves its
state to be removed when DVC has the result (`common/states.py`).
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from nanogpt.common import states
from nanogpt.common.errors import UserError
from nanogpt.common.files import clear, remove_folder, sync, write_text
from nanogpt.gradients import GuardState
from nanogpt.machine.distributed import World, lost_peer
from nanogpt.settings import Settings
from nanogpt.trainer import Progress

FILE_BYTES = 1 << 26  # of tensors in one file; its writer holds two more copies of these
ANEW = "remove the folder that it is in to train anew from the start"


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: trainings with the same one are the same training."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_of(settings: Settings, tokens: str, base: str | None) -> str:
    """The fingerprint of the training that these settings ask for.

    Args:
        tokens: their digest.
        base: its digest, if there is one.
    """
    return fingerprint(settings.model_dump(include={"seed", "model", "train"}), tokens, base)


class Saves:
    """The saves of a training, written one at a time, and the lock that keeps a second one away.

    Args:
        folder: of this very training; made if it is not there.
        patience: seconds to wait for the lock: workers of a killed training need a moment to end,
            and a file server keeps the lock of a machine that lost its power for a minute and more.

    Raises:
        UserError: another process is training this very model.
    """

    def __init__(self, folder: Path, world: World, patience: int) -> None:
        # it warns that there is only one process; that is intended
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or")
        self.folder = folder
        self._world = world
        self._lock = states.lock_of(folder)
        self._thread = ThreadPoolExecutor(1, "save")
        self._pending: Future[None] | None = None
        newest = -1
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=patience)
            except Timeout:
                raise UserError(
                    f"another process is training this very model, in {folder}; wait for it"
                ) from None
            folder.mkdir(exist_ok=True)  # another process has just removed it
            # remove what a killed process left half-written or half-removed, here or beside
            for partial in folder.glob("save-*.partial"):
                shutil.rmtree(partial, ignore_errors=True)
            clear(folder)
            clear(folder.parent)
            newest = latest(folder)
        # what the first process sees: on a file server the others may see it later
        self.step = int(world.largest(newest)[0])  # of the newest save; -1: there is none

    def resume(self, tensors: Mapping[str, Tensor]) -> tuple[Progress, int]:
        """Fill `tensors` from the newest save; returns its progress and the journal's rows.

        Raises:
            UserError: the save is truncated, damaged, of another model or version of this code.
        """
        save = _path(self.folder, self.step)
        about = _read_progress(save)
        with torch.no_grad():
            _fill(save, tensors, self._world)
        rows = about.pop("rows")
        try:
            return Progress(**about | {"guard": GuardState(**about["guard"])}), rows
        except (KeyError, TypeError):
            raise UserError(f"{save} is of another version of this code; {ANEW}") from None

    def save(self, tensors: Mapping[str, Tensor], progress: Progress, rows: int) -> None:
        """Save `tensors` (all processes, with their shards) in the background.

        Args:
            rows: of the journal, that belong to this save and are on the disk.

        Raises:
            OSError: the save before this one failed.
        """
        self.wait()
        if progress.saved_step == progress.step:
            return  # it was stopped before this step was scored: these weights are saved already
        progress.saved_step = progress.step
        partial = _path(self.folder, progress.step).with_suffix(".partial")
        starts = accumulate((tensor.nbytes for tensor in tensors.values()), initial=0)
        files = {
            name: 1 + start // FILE_BYTES for name, start in zip(tensors, starts, strict=False)
        }
        written = async_save(
            dict(tensors),
            storage_writer=HuggingFaceStorageWriter(str(partial), files, save_distributed=True),
            process_group=self._world.saving,
            no_dist=self._world.size == 1,
        )
        about = asdict(progress) | {"rows": rows}  # a copy: the training goes on changing its own
        self._pending = self._thread.submit(self._finish, written, partial, about)

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            OSError: it failed; the one before it is untouched.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def best(self, progress: Progress, names: Collection[str]) -> dict[str, Tensor]:
        """The best weights, whole, however many processes saved them.

        Raises:
            UserError: the save is truncated or damaged.
        """
        save = _path(self.folder, progress.best_step)
        sizes = _sizes(save)
        if missing := [name for name in names if name not in sizes]:
            raise UserError(f"{save} is not a whole save: {missing[0]} is missing; {ANEW}")
        tensors = {name: torch.empty(sizes[name]) for name in names}
        load(tensors, storage_reader=HuggingFaceStorageReader(str(save)), no_dist=True)
        return tensors

    @property
    def finished(self) -> bool:
        """Whether this training has published before."""
        return (self.folder / states.FINISHED).exists()

    def finish(self, published: Mapping[str, Path]) -> None:
        """Mark the training as finished: `states.finish`."""
        states.finish(self.folder, published)

    def leave(self) -> None:
        """Let another process have the folder; it is gone if nothing was saved in it."""
        if self._world.rank == 0:
            with suppress(OSError):
                self.folder.rmdir()
                # before the release: a process that waits then finds no file, and makes a new one
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _finish(self, written: Any, partial: Path, about: dict[str, Any]) -> None:
        try:
            try:
                written.result()
            except CheckpointException as error:
                raise next(iter(error.failures.values()))[0] from None
            if self._world.rank > 0:
                return
            write_text(partial / "progress.json", json.dumps(about))
            sync(partial)
            whole = partial.with_suffix("")
            partial.rename(whole)
            sync(self.folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            if lost_peer(error):
                raise
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                getattr(error, "errno", None),
                f"cannot save: {error}; the save before it is untouched",
                str(partial),
            ) from None
        for old in self.folder.glob("save-*"):
            if old not in (whole, _path(self.folder, about["best_step"])):
                remove_folder(old)


def latest(folder: Path) -> int:
    """The step of the newest whole save in a training's folder; -1: there is none."""
    saves = (path.name for path in folder.glob("save-*") if not path.suffix)
    return max((int(name.removeprefix("save-")) for name in saves), default=-1)


def covered(folder: Path) -> int:
    """How many rows of the journal the newest whole save covers; 0: there is none.

    Raises:
        UserError: it is damaged, or was just replaced by a newer one.
    """
    step = latest(folder)
    return int(_read_progress(_path(folder, step))["rows"]) if step >= 0 else 0


def _path(folder: Path, step: int) -> Path:
    return folder / f"save-{step:08}"


def _read_progress(save: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((save / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{save}/progress.json cannot be read ({error}); {ANEW}") from None


def _fill(save: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill `tensors`, or this process's shards of them, with those of a save."""
    saved = _sizes(save)
    for name, tensor in tensors.items():
        if saved.get(name) != tensor.shape:
            there = tuple(saved[name]) if name in saved else "missing"
            raise UserError(
                f"{save} is not a whole save of this model: {name} is {there} there and"
                f" {tuple(tensor.shape)} here; {ANEW}"
            )
    load(
        dict(tensors),
        storage_reader=HuggingFaceStorageReader(str(save)),
        process_group=world.saving,
        no_dist=world.size == 1,
    )


def _sizes(save: Path) -> dict[str, torch.Size]:
    try:
        known = HuggingFaceStorageReader(str(save)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{save} is not a whole save ({error}); {ANEW}") from None
    return {k: v.size for k, v in known.items() if isinstance(v, TensorStorageMetadata)}
