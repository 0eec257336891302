"""What must hold in a checkout before anything is installed, fetched or read: one list.

    python -m nanogpt.common.ready      # every make target asks this first; it needs no package

Every stage and every command asks too. What can be put right is put right for this process and
those that it starts; what cannot is told at once, and not after the work that it makes useless.
"""

import errno
import getpass
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from configparser import ConfigParser
from configparser import Error as NotIni
from contextlib import suppress
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.place import root

ROOM = 100 << 20  # bytes: less holds no recipe's results
PACKAGES, WHEELS = 3 << 30, 1 << 30  # bytes: with a CPU's torch the packages take 2.3 GiB
# in MLflow %41 becomes A, a ? ends the path, and a quote ends a word of SQL; a colon ends a folder
# of the search path, where `python` would then be another one
ODD = r"%[0-9A-Fa-f]{2}|[?:'\x00-\x1f\x7f]"
LONGEST = 480  # bytes of a path: SQLite opens files of 512
EFFECTIVE = os.access in os.supports_effective_ids
OPEN_FILES = 256  # MLflow and its database, and threads that read and save, hold about a hundred


def check(data: str | None) -> None:
    """Refuse a place where the work would fail later, or be lost in silence.

    Args:
        data: where a recipe's artifacts go, seen from the root; None for what only reads them.

    Raises:
        UserError: all that is wrong with this place, a line each, and what to do.
    """
    check_system()
    _refuse(RULES if data is None else RULES + WRITING, Path(data or "data"))


def _refuse(rules: Iterable["Rule"], data: Path) -> None:
    if faults := [fault for rule in rules for fault in rule(root(), data)]:
        raise UserError("\n".join(faults))


def check_system() -> None:
    """Refuse native Windows, before imports that fail there in words of their own.

    Raises:
        UserError: this is native Windows.
    """
    if os.name == "nt":
        raise UserError(
            "native Windows has not the locks, links and signals that this needs; install WSL"
            " (`wsl --install`), clone this into its own file system and run it there"
        )


def put_right() -> None:
    """Let a nameless user have a name, any text be printed, and enough files be open."""
    if os.name == "nt":
        return
    import resource

    try:
        getpass.getuser()
    except (KeyError, OSError):  # `docker run --user 12345`; DVC, MLflow and torch ask for it
        os.environ["LOGNAME"] = str(os.getuid())
    for stream in (sys.stdout, sys.stderr):  # samples may hold what the terminal has no letters for
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _git(place: Path, _: Path) -> Iterator[str]:
    """DVC wants a git repository, or to be told that there is none."""
    if any((folder / ".git").exists() for folder in (place, *place.parents)):
        return
    settings = ConfigParser(interpolation=None)
    try:
        settings.read(place / ".dvc" / name for name in ("config", "config.local"))
    except (NotIni, UnicodeDecodeError):
        return  # DVC says it better
    if settings.get("core", "no_scm", fallback="").lower() != "true":
        yield (
            f"{place} is in no git repository, as a download without .git is not, and DVC needs"
            " one: `git init`, then the same command again"
        )


def _path(place: Path, _: Path) -> Iterator[str]:
    """Characters that MLflow, DVC or the search path take for something else."""
    text = os.fsencode(place).decode("utf-8", "backslashreplace")
    found = list(dict.fromkeys(re.findall(ODD, str(place))))
    if text != str(place):
        found.append("bytes that are not UTF-8")
    if len(os.fsencode(place)) > LONGEST:
        found.append(f"more than {LONGEST} bytes")
    if found:
        yield (
            f"the path {text!r} cannot be worked in for {' and '.join(map(repr, found))}, which"
            " programs read in another way; rename or move the folder"
        )


def _links(place: Path, data: Path) -> Iterator[str]:
    """DVC stops at an output below a link, after the stage has made it."""
    for below in reversed((data, *data.parents)):
        if (place / below).is_symlink():
            yield (
                f"{below} is a link to {os.readlink(place / below)}, and DVC keeps nothing below a"
                f" link; move the whole folder {place} to that disk, or mount the disk at {below}"
                " (`mount --bind`)"
            )


def _writable(place: Path, data: Path) -> Iterator[str]:
    """Where results, locks, caches and records go."""
    names = (".", "data", data, "data/.outbox", ".dvc", ".dvc/tmp", ".dvc/cache")
    local = () if os.environ.get("MLFLOW_TRACKING_URI") else ("mlruns", "mlflow.db")
    for path in dict.fromkeys(place / name for name in (*names, *local)):
        needed = os.W_OK | (os.X_OK if path.is_dir() else 0)
        if path.exists() and not os.access(path, needed, effective_ids=EFFECTIVE):
            if os.statvfs(path).f_flag & os.ST_RDONLY:
                yield f"{path} is on a disk that is mounted read-only; copy the folder to another"
                return
            yield (
                f"{path} cannot be written by user {os.geteuid()}, it is that of user"
                f" {path.stat().st_uid}; give it to this user: sudo chown -R {os.geteuid()} {path}"
            )


def _disk(place: Path, _: Path) -> Iterator[str]:
    """A new file can be made, locked and filled."""
    import fcntl

    if (free := shutil.disk_usage(place).free) < ROOM:
        yield f"the disk of {place} has {free >> 20} MiB left; make room: 100 MiB are the least"
        return
    try:
        # a training and the outbox take the one, DVC and MLflow's database the other; a file for
        # each, since on macOS, NFS and SMB one kind of lock excludes the other
        for lock in (fcntl.flock, fcntl.lockf):
            with tempfile.TemporaryFile(dir=place) as file:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return  # said above
        yield (
            f"a file in {place} cannot be made and locked ({error.strerror}): two programs could"
            " write into one file; move the folder to a local disk, or mount this one with locks"
        )


def _temporary(_: Path, __: Path) -> Iterator[str]:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        yield f"{error.strerror}; make /tmp, or name a folder that can be written in TMPDIR"
        return
    if (free := shutil.disk_usage(folder).free) < ROOM // 10:
        yield (
            f"{folder}, for temporary files, has {free >> 20} MiB left; make room, or name another"
            " folder in TMPDIR"
        )


Rule = Callable[[Path, Path], Iterator[str]]  # the root, where artifacts go → what is wrong
RULES: tuple[Rule, ...] = (_path, _temporary)
WRITING: tuple[Rule, ...] = (_links, _writable, _disk)


def _installation(place: Path, _: Path) -> Iterator[str]:
    """Room for the packages: pip fetches all of them before it finds that they do not fit."""
    target = place / sys.argv[1]
    folders = {next(f for f in (target, *target.parents) if f.exists()): PACKAGES}
    with suppress(FileNotFoundError):  # said above
        folders.setdefault(Path(tempfile.gettempdir()), WHEELS)
    for folder, needed in folders.items():
        if (free := shutil.disk_usage(folder).free) < needed:
            yield (
                f"{folder} has {free >> 20:,} MiB left, and the packages need {needed >> 20:,} MiB"
                " there, or several times that where torch brings CUDA; make room, or name another"
                + (" folder in VENV" if needed == PACKAGES else " folder in TMPDIR")
            )


def main() -> None:
    """Ask all of it, as make does; an argument is the folder of an environment to be made."""
    try:
        check_system()
        # DVC has asked for git itself by the time that it runs a stage
        first = (_installation,) if sys.argv[1:] else ()
        _refuse((_git, *RULES, *WRITING, *first), Path("data"))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
