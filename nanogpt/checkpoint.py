"""Resumable state: folders of safetensors, whole or not there, never a pickle.

    saver = Saver(folder, world)
    saver.save(tensors, progress, keep, then)  # copies, then writes in a thread
    saver.wait()

A save is `save-<step>/`: safetensors files of each process, which `torch.distributed.checkpoint`
writes so that any other number of processes can read them, and `progress.json`. It is written under
another name first. The newest and those to keep stay; what is older goes.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
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

from nanogpt.distributed import World, lost_peer
from nanogpt.errors import UserError
from nanogpt.files import remove_folder, sync, write_text

FILE_BYTES = 1 << 26  # of tensors in a file: its writer keeps two more copies of one file's
ANEW = "remove the folder that it is in to train anew from the start"


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: trainings with the same one are the same training."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_path(folder: Path, step: int) -> Path:
    """Where the save of a step is."""
    return folder / f"save-{step:08}"


def latest(folder: Path) -> int:
    """The step of the newest whole save; -1: there is none."""
    saves = (path.name for path in folder.glob("save-*") if not path.suffix)
    return max((int(name.removeprefix("save-")) for name in saves), default=-1)


class Saver:
    """Writes saves, one at a time, in a thread; the training goes on as soon as they are copied."""

    def __init__(self, folder: Path, world: World) -> None:
        # of one process, which is what was meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or")
        self._folder = folder
        self._world = world
        self._thread = ThreadPoolExecutor(1, "save")
        self._pending: Future[None] | None = None

    def save(
        self,
        tensors: Mapping[str, Tensor],
        progress: Mapping[str, Any],
        keep: Collection[int],
        then: Callable[[], None],
    ) -> None:
        """Save `tensors` (all processes, with their shards) and the plain data `progress`.

        Args:
            progress: with `step`, which names the save.
            keep: steps whose saves stay, besides this one.
            then: called, in the thread of the first process, when the save is on the disk.

        Raises:
            OSError: the save before this one failed.
        """
        self.wait()
        partial = save_path(self._folder, progress["step"]).with_suffix(".partial")
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
        values = dict(progress)  # the training changes its own
        self._pending = self._thread.submit(self._finish, written, partial, values, {*keep}, then)

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            OSError: it failed; the one before it is untouched.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def _finish(
        self,
        written: Any,
        partial: Path,
        progress: dict[str, Any],
        keep: set[int],
        then: Callable[[], None],
    ) -> None:
        try:
            try:
                written.result()
            except CheckpointException as error:
                raise next(iter(error.failures.values()))[0] from None
            if self._world.rank > 0:
                return
            write_text(partial / "progress.json", json.dumps(progress))
            sync(partial)
            whole = partial.with_suffix("")
            partial.rename(whole)
            sync(self._folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            if lost_peer(error):
                raise
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                getattr(error, "errno", None),
                f"cannot save: {error}; the save before it is untouched",
                str(partial),
            ) from None
        then()
        stay = {whole, *(save_path(self._folder, step) for step in keep)}
        for old in self._folder.glob("save-*"):
            if old not in stay:
                remove_folder(old)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed, here or beside."""
    for partial in (*folder.glob("save-*.partial"), *folder.parent.glob("*.partial")):
        shutil.rmtree(partial, ignore_errors=True)


def read_progress(save: Path) -> dict[str, Any]:
    """The plain data of a save.

    Raises:
        UserError: it is damaged.
    """
    try:
        return dict(json.loads((save / "progress.json").read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{save}/progress.json cannot be read ({error}); {ANEW}") from None


def fill(save: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill `tensors`, or this process's shards of them, with those of a save.

    Raises:
        UserError: the save is truncated, damaged or of another model.
    """
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


def read_whole(save: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Tensors of a save, whole, however many processes wrote it.

    Raises:
        UserError: the save is truncated or damaged.
    """
    sizes = _sizes(save)
    if missing := [name for name in names if name not in sizes]:
        raise UserError(f"{save} is not a whole save: {missing[0]} is missing; {ANEW}")
    tensors = {name: torch.empty(sizes[name]) for name in names}
    load(tensors, storage_reader=HuggingFaceStorageReader(str(save)), no_dist=True)
    return tensors


def _sizes(save: Path) -> dict[str, torch.Size]:
    try:
        known = HuggingFaceStorageReader(str(save)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{save} is not a whole save ({error}); {ANEW}") from None
    return {k: v.size for k, v in known.items() if isinstance(v, TensorStorageMetadata)}
