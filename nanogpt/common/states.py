"""States that trainings resume from: `<data>/state/<fingerprint>/`, its lock a file beside it.

A training that has published keeps its state until `dvc.lock` holds the result: killed before that,
the next `dvc repro` finds nothing left to train, and publishes the same again.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nanogpt.common.files import remove_folder, write_text

FINISHED = "finished.json"  # in the state of a training that has published


def lock_of(folder: Path) -> FileLock:
    """Held by the process that trains from the state in `folder`."""
    return FileLock(folder.with_suffix(".lock"))


def finish(folder: Path, published: Mapping[str, Path]) -> None:
    """Mark a state as finished.

    Args:
        published: by the paths that `dvc.lock` gives them, what tells this result from others.
    """
    hashes = {name: dvc_md5(path) for name, path in published.items()}
    write_text(folder / FINISHED, json.dumps(hashes, indent=1))


def dvc_md5(path: Path) -> str:
    """The hash that DVC gives a file, or a folder of files."""
    if path.is_file():
        return _md5_of(path)
    files = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.is_file()}
    listed = [{"md5": _md5_of(file), "relpath": name} for name, file in sorted(files.items())]
    return f"{_md5(json.dumps(listed, sort_keys=True).encode())}.dir"


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def remove_held(params: Path, data: Path) -> None:
    """Remove the states of finished trainings of a recipe whose result its `dvc.lock` holds."""
    if marks := list(data.glob(f"state/*/{FINISHED}")):
        held = _held(params.with_name("dvc.lock"))
        for mark in marks:
            with suppress(FileNotFoundError):  # another process has just removed it
                if json.loads(mark.read_text(encoding="utf-8")).items() <= held.items():
                    remove(mark.parent)


def _held(lock: Path) -> dict[str, str]:
    """The hashes of what `train` wrote, as they stand in a dvc.lock."""
    try:
        stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))["stages"]
        return {os.path.normpath(out["path"]): out["md5"] for out in stages["train"]["outs"]}
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError):
        return {}  # there is none, or none that DVC could read


def remove(folder: Path) -> bool:
    """Remove a state with its lock, unless a process trains from it; whether it is gone."""
    try:
        with lock_of(folder).acquire(timeout=0) as lock:
            try:
                remove_folder(folder)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                shutil.rmtree(folder)  # no room even for a new name
            # before the release: a process that waits then finds no file, and makes a new one
            Path(lock.lock_file).unlink(missing_ok=True)
        return True
    except Timeout:
        return False


def in_use(folder: Path) -> bool:
    """Whether a process trains from a state."""
    lock = lock_of(folder)
    if not Path(lock.lock_file).exists():
        return False  # looking makes no file
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
