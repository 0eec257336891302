"""The folders of what MLflow is to be told: whole or not there, each with a name of its own.

Several processes write, send and remove them at once: a training, `nanogpt sync`, DVC's
experiments in other folders. So no entry is ever changed; a newer one has another name.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanogpt.common.files import remove_folder, whole_folder
from nanogpt.tracking import location

KINDS = ("training", "lock", "evaluation", "sample")  # in the order in which they need each other


def unique(key: str) -> str:
    """A name for an entry that tells what `key` is about."""
    return f"{key}.{uuid.uuid4().hex}"


@contextmanager
def new(name: str, title: str, **more: Any) -> Iterator[Path]:
    """The folder of an entry, to be filled; whole, it takes the place of older ones of its key."""
    older = [*location.outbox().glob(f"{name.rpartition('.')[0]}.*")]
    about = {"title": title, "server": location.address(), "at": time.time_ns(), **more}
    with whole_folder(location.outbox() / name) as entry:
        (entry / "about.json").write_text(json.dumps(about), encoding="utf-8")
        yield entry
    for path in older:
        remove(path)


def waiting() -> list[tuple[Path, dict[str, Any]]]:
    """What waits, in the order in which it is to be sent: by kind, then by age."""
    found = []
    for path in location.outbox().glob("*-*"):
        if kind(path) in KINDS:
            with suppress(FileNotFoundError):  # another process has just sent it
                found.append((path, _about(path)))
    return sorted(found, key=lambda entry: (KINDS.index(kind(entry[0])), entry[1]["at"]))


def _about(entry: Path) -> dict[str, Any]:
    unknown = {"title": entry.name, "server": None, "at": 0}  # whoever sends it will say so
    try:
        about = json.loads((entry / "about.json").read_text("utf-8"))
    except ValueError:
        return unknown
    return unknown | about if isinstance(about, dict) else unknown


def kind(entry: Path) -> str:
    """One of KINDS."""
    return entry.name.partition("-")[0]


def remove(entry: Path) -> None:
    """Remove an entry, which another process may do at this moment, too."""
    with suppress(FileNotFoundError):
        remove_folder(entry)


def link(source: str, target: str) -> None:
    """A second name for a file, since nobody writes into it; where that cannot be, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
