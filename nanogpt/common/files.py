"""Files and folders that appear whole or not at all, and what is in them.

What is being made or removed lies in a workshop: a folder beside its place, under a name that
nobody else gives, whose lock is held while its process lives. So two processes at once are not in
each other's way, and what a killed one left can be told from what belongs to anybody else.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOTEMPTY
from itertools import count
from pathlib import Path

from nanogpt.common.manifest import File
from nanogpt.common.progress import bar

WORKSHOP = ".nanogpt-{}.partial"  # with 16 random digits
LOCK = "lock"
BLOCK = 1 << 20  # bytes read at a time


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it takes its name, and the place of an older one, when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _workshop(folder.parent) as workshop:
        new = workshop / f"new-{folder.name}"
        new.mkdir()
        yield new
        mode = new.stat().st_mode & 0o666
        for path in new.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors writes for its owner alone
                sync(path)
        for turn in count():
            with suppress(FileNotFoundError):
                folder.rename(workshop / f"old-{turn}")
            try:
                new.rename(folder)
                break
            except OSError as error:
                if error.errno not in (EEXIST, ENOTEMPTY):
                    with suppress(FileNotFoundError):
                        (workshop / f"old-{turn}").rename(folder)
                    raise  # else another process has just put its own there: the last one stays
        sync(folder.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write; it takes its name, and the place of an older one, when complete."""
    with _workshop(path.parent) as workshop:
        new = workshop / f"new-{path.name}"
        yield new
        sync(new)
        new.replace(path)
        sync(path.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, in such a way that a kill never leaves half of it."""
    if folder.exists():
        with _workshop(folder.parent) as workshop:
            folder.rename(workshop / "old")


@contextmanager
def _workshop(place: Path) -> Iterator[Path]:
    """A locked folder in `place`, for what is on its way to a name there or away from it."""
    clear(place)
    workshop = place / WORKSHOP.format(secrets.token_hex(8))
    workshop.mkdir()
    try:
        with (workshop / f"{LOCK}.new").open("w", encoding="utf-8") as lock:
            # locked before it has its name; where a file system has no locks it never gets it
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.rename(lock.name, workshop / LOCK)
            yield workshop
    finally:
        _demolish(workshop)


def clear(place: Path) -> None:
    """Remove from a folder what killed processes were making or removing there.

    This alone decides what may be removed as somebody's remains: a workshop whose lock can be had.
    """
    for workshop in place.glob(WORKSHOP.format("[0-9a-f]" * 16)):
        if workshop.is_symlink():
            continue
        with suppress(OSError), (workshop / LOCK).open("r+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else its process lives
            _demolish(workshop)


def _demolish(workshop: Path) -> None:
    """Remove a workshop; its lock at last, so that the rest can be told after a kill in here."""
    with suppress(FileNotFoundError):  # another process, which takes it for remains, is faster
        for path in workshop.glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
    shutil.rmtree(workshop, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole, and never into an older one: DVC's cache may share its bytes."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_files(root: Path, below: str = ".") -> tuple[File, ...]:
    """Every file below root/below, by name (seen from `root`)."""
    paths = [path for path in (root / below).rglob("*") if path.is_file()]
    with bar(sum(path.stat().st_size for path in paths), "digests", "B") as progress:
        names = (path.relative_to(root).as_posix() for path in paths)
        found = [describe(root, name, progress.update) for name in names]
    return tuple(sorted(found, key=lambda file: file.name))


def describe(root: Path, name: str, advance: Callable[[int], object] = lambda size: None) -> File:
    """A file by its name, seen from `root`; `advance` hears of each part how many bytes it has."""
    size, digest = 0, hashlib.sha256()
    with (root / name).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
            advance(len(block))
    return File(name=name, bytes=size, sha256=digest.hexdigest())


def digest_files(files: Iterable[File]) -> str:
    """SHA-256 of what `sha256sum` would print of listed files."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
