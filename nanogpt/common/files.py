"""Files and folders that appear whole or not at all, and what is in them."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nanogpt.common.manifest import File


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it takes its name, and the place of an older one, when complete."""
    partial = folder.with_name(folder.name + ".partial")
    older = folder.with_name(folder.name + ".older.partial")
    for left in (partial, older):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors writes for its owner alone
                sync(path)
        if folder.exists():
            folder.rename(older)
        partial.rename(folder)
        sync(folder.parent)
    finally:
        for left in (partial, older):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write; it takes its name, and the place of an older one, when complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, in such a way that a kill never leaves half of it."""
    going = folder.with_name(folder.name + ".partial")
    shutil.rmtree(going, ignore_errors=True)
    if folder.exists():
        folder.rename(going)
        shutil.rmtree(going)


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
    found = []
    for path in (root / below).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(root).as_posix()
            found.append(File(name=name, bytes=path.stat().st_size, sha256=sha256))
    return tuple(sorted(found, key=lambda file: file.name))


def digest_files(files: Iterable[File]) -> str:
    """SHA-256 of what `sha256sum` would print of listed files."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
