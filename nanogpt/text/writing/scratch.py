"""Where shards wait until all of them are there: `<data>/state/tokens-<fingerprint>/`.

A run that was killed leaves them, and the same run again, of the same text, settings and code, goes
on with them. It holds the lock beside the folder, as a training does that of its state.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from nanogpt.common import states
from nanogpt.common.errors import UserError
from nanogpt.common.files import remove_folder

PREFIX = "tokens-"
PATIENCE = 10  # seconds: a killed run needs a moment to end
CODE = Path(__file__).parents[1]  # nanogpt/text, which decides what is in a shard


def code_digest() -> str:
    """Of the code that decides what is in a shard."""
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(CODE.rglob("*.py"))]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


@contextmanager
def scratch(place: Path, *key: Any) -> Iterator[Path]:
    """A folder for the shards of a run.

    Args:
        place: the folder in which it is, with those of others.
        key: plain data that says which run it is.

    Raises:
        UserError: another process does the same at the same time.
    """
    name = hashlib.sha256(json.dumps([code_digest(), *key]).encode()).hexdigest()[:16]
    folder = place / f"{PREFIX}{name}"
    place.mkdir(parents=True, exist_ok=True)
    lock = states.lock_of(folder)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UserError(
            f"another process makes these very tokens, in {folder}; wait for it"
        ) from None
    done = False
    try:
        folder.mkdir(exist_ok=True)
        yield folder
        done = True
    finally:
        if done or not any(folder.glob("[0-9]*")):
            remove_folder(folder)
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        if done:  # what runs with other settings or texts left
            for other in place.glob(f"{PREFIX}*"):
                if other.is_dir():
                    states.remove(other)
        with suppress(OSError):  # it is not empty
            place.rmdir()
