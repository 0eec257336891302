"""What trainings and tokenizing go on from: listed with its size, and removed when asked.

nanogpt clean --states
nanogpt clean --states --remove data/shakespeare/state/0123456789abcdef
nanogpt clean --states --remove                 # all that no process works on
"""

import re
import time
from collections.abc import Collection
from pathlib import Path

from nanogpt.common import states
from nanogpt.common.errors import UserError
from nanogpt.common.place import root
from nanogpt.text.writing.scratch import PREFIX
from nanogpt.training.checkpoint import latest

# all that a training or tokenizing writes there: a folder with anything else in it is not ours
OURS = re.compile(
    r"journal\.jsonl|run\.json|lineage|finished\.json|save-\d{8}(\.partial)?|\d{8}|"
    r"\.nanogpt-[0-9a-f]{16}\.partial"
)


def clean(named: Collection[Path], remove: bool) -> None:
    """List the states below `data/`, or those named; remove them if asked.

    Raises:
        UserError: what was named is no state, or a process works on it.
    """
    top = root()
    known = {folder.resolve(): folder for folder in find(top / "data")}
    for path in named:
        if path.resolve() not in known:
            raise UserError(f"{path} is no state; `nanogpt clean --states` lists those there are")
    total = 0
    for folder in [known[path.resolve()] for path in named] or known.values():
        where = folder.relative_to(top).as_posix()
        size = _size(folder)
        line = f"{where}  {size / 1e6:,.1f} MB, {_about(folder)}"
        if remove and not states.remove(folder):
            if named:
                raise UserError(f"{where} stays: a process works on it")
            print(f"{line}, stays")
            continue
        total += size
        print(f"{line}, removed" if remove else line)
    done = "are free now" if remove else "in all; --remove removes them"
    print(f"{total / 1e6:,.1f} MB {done}")


def find(data: Path) -> list[Path]:
    """The states below `data`."""
    return sorted(
        folder
        for folder in data.glob("**/state/*")
        if re.fullmatch(f"({PREFIX})?[0-9a-f]{{16}}", folder.name)
        and folder.is_dir()
        and all(OURS.fullmatch(path.name) for path in folder.iterdir())
    )


def _about(folder: Path) -> str:
    days = (time.time() - folder.stat().st_mtime) / 86400
    if folder.name.startswith(PREFIX):
        busy = states.in_use(folder)
        when = "being made" if busy else f"stopped {days:.1f} days ago"
        return f"{len([*folder.glob('[0-9]*')]):,} shards of tokens, {when}"
    if states.in_use(folder):
        return f"in training, at step {latest(folder):,} or later"
    if (folder / states.FINISHED).exists():
        return "finished; goes by itself when dvc.lock has the result"
    if latest(folder) < 0:
        return "nothing saved"
    return f"stopped at step {latest(folder):,}, {days:.1f} days ago"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
