"""What `make run` and `make join` do, stopped in good order by a signal that comes here alone.

    python -m pipelines.run repro pipelines/finetune_shakespeare    # dvc repro, then the report
    python -m pipelines.run join .       # the train stage on one of several machines, dvc commit

`kill`, Docker and Slurm tell the outermost process alone to stop, make tells this one and waits for
it, and DVC would tell nobody. So this tells all that runs below, and waits until it has saved.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports, which take time

import psutil
from dvc.cli import main as dvc
from dvc.lock import LockError, make_lock
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

from pipelines.exits import STOPS, dvc_and_code
from pipelines.graph import (
    RecipeError,
    adopt,
    dvc_environment,
    find_recipe,
    one_line,
    root,
    stages,
)

TELL_SECONDS = 1  # DVC may have started another stage in the meantime
PUBLISHED = "NANOGPT_PUBLISHED"  # names a file that the train stage makes where it published


@contextmanager
def telling_on() -> Iterator[None]:
    """Send SIGTERM and SIGHUP on to what runs below, and end as told after all of it.

    Ctrl-C, which a terminal sends to all of them, ends this once it is no longer ignored.
    """
    told: list[int] = []
    family: set[psutil.Process] = set()

    def hear(number: int, _: FrameType | None) -> None:
        if number != signal.SIGALRM:
            told.append(number)
        below = list(_below(psutil.Process()))
        family.update(psutil.Process().children(recursive=True))
        for process in below:  # each of them sees to its own
            with suppress(psutil.NoSuchProcess):
                process.send_signal(told[0])
        signal.setitimer(signal.ITIMER_REAL, TELL_SECONDS if below else 0)
        if not below:
            raise KeyboardInterrupt  # DVC itself is at work, and gives back its locks

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
            signal.signal(number, hear)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        told.append(signal.SIGINT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if told:
            psutil.wait_procs(family)
            leave(told[0])


def leave(number: int) -> NoReturn:
    """End as this signal asked for, with 128 and its number as the code.

    Make, which waits for this, would write `Error 143` below what was said, and end with 2. So it
    is sent the signal, which ends it once this has ended: its caller sees 143 too. It does not
    ignore the signal where this could hear it, and as a container's first process it would.
    """
    for each in STOPS:  # which make hands back
        signal.signal(each, signal.SIG_IGN)
    above = psutil.Process().parent()
    if above and above.pid != 1 and above.name() in ("make", "gmake"):
        above.send_signal(number)
        sys.exit(0)
    sys.exit(128 + number)


def _below(process: psutil.Process) -> Iterator[psutil.Process]:
    """The children of a process; in the place of a shell, those that it waits for.

    Our stages start with `exec` and have no shell; those of a person's own may.
    """
    for child in process.children():
        try:
            shell = child.name().endswith("sh")  # sh, bash, dash, zsh …: a signal ends it alone
            behind = list(_below(child)) if shell else []
        except psutil.NoSuchProcess:
            continue
        yield from behind or [child]


def mend_locks(top: Path) -> None:
    """Remove DVC's list of who is at work on what, if a signal came while it was being written.

    DVC would refuse all work until somebody does.
    """
    folder = top / ".dvc" / "tmp"
    guard = make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder))
    with suppress(FileNotFoundError, LockError), guard:  # nothing ran here yet; or DVC is at work
        try:
            json.loads((folder / RWLOCK_FILE).read_bytes())
        except ValueError:
            (folder / RWLOCK_FILE).unlink()


def repro(recipe: Path) -> int:
    """Bring a recipe up to date, and show what came out.

    Returns:
        The exit code of the stage that failed, or of DVC.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; all of it has ended since.
    """
    code = dvc_and_code(["repro", f"{recipe}/dvc.yaml"])
    return code or wait_for("-m", "nanogpt.commands", "report", f"--recipe={recipe}")


def join(recipe: Path) -> int:
    """Train with the other machines; where the model was published, tell DVC that it is there.

    Raises:
        RecipeError: settings were changed in the meantime.
    """
    params = recipe / "params.yaml"
    before = params.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        published = Path(folder, "published")
        os.environ[PUBLISHED] = str(published)
        code = wait_for("-m", "nanogpt.stages.train", str(params))
        if code or not published.exists():
            return code
    if params.read_bytes() != before:
        raise RecipeError(
            f"{params} was changed during the training, so DVC is not told that the model"
            " belongs to it; put it back and run the same command: it publishes again"
        )
    return int(dvc(["commit", "--force", f"{recipe}/dvc.yaml:train"]))


def wait_for(
    *words: str,
    folder: Path | None = None,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run python with these words, and wait for its end, however often Ctrl-C is pressed.

    Args:
        env: its environment, in place of one in which the `python` of dvc.yaml is this one.

    Returns:
        Its exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; it has ended since.
    """
    pressed: list[int] = []
    with subprocess.Popen([python, *words], cwd=folder, env=env or dvc_environment()) as process:
        before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
        code = process.wait()
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
    return code if code >= 0 else 128 - code


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a recipe.")
    parser.add_argument("action", choices=["repro", "join"])
    parser.add_argument("recipe", help="its folder or its name")
    args = parser.parse_args()
    with one_line(args.action):
        recipe = find_recipe(args.recipe)
        mend_locks(root())
        adopt(recipe)
        stages(recipe)  # what is wrong with a graph is said in one line
        os.environ.update(dvc_environment())
        with telling_on():
            sys.exit({"repro": repro, "join": join}[args.action](recipe))


if __name__ == "__main__":
    main()
