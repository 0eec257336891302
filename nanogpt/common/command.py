"""A command from its start to its exit code: one line for what went wrong, and no traceback."""

import argparse
import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from nanogpt.common import states
from nanogpt.common.errors import NotNow, Stopped, Told, UserError
from nanogpt.common.files import write_text
from nanogpt.common.place import check_code
from nanogpt.common.ready import check, put_right
from nanogpt.common.secrets import hide_in_tracebacks
from nanogpt.common.told import follow_ancestors, raise_when_told, stops

# torch warns of its own insides, such as an address that has no name; read when it is imported
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# what libraries define stays; looking for garbage among it every 700 objects is a fifth of a start
gc.set_threshold(50_000)

FULL = re.compile("[Nn]o space left on device|disk is full|Disk quota exceeded|File too large")
NO_MEMORY = re.compile(
    "can't allocate memory|Cannot allocate memory|(CUDA|MPS backend|CUDA error:) out of memory"
    "|Cuda failure .*'out of memory'|CUBLAS_STATUS_ALLOC_FAILED"
)


class _Settings(Protocol):
    @property
    def params(self) -> str: ...

    @property
    def data(self) -> str: ...


S = TypeVar("S", bound=_Settings)


def run_stage(load: Callable[[str], S], main: Callable[[S], None]) -> None:
    """Run a stage as `dvc.yaml` says: `python -m nanogpt.stages.<name> <params.yaml>`.

    How long it took is kept beside the recipe's artifacts.
    """
    stage = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m nanogpt.stages.{stage}")
    parser.add_argument("params", help="params.yaml of a recipe, seen from the repository's root")
    path = parser.parse_args().params
    started = time.perf_counter()
    try:
        with one_line(stage):
            raise_when_told()
            gc.freeze()  # what is imported by now is never looked through again
            if "RANK" not in os.environ:  # the launcher looks after the processes of a training
                follow_ancestors(stage)
            check_code()
            settings = load(path)
            check(settings.data)
            if "RANK" not in os.environ:
                states.remove_held(Path(settings.params), Path(settings.data))
            main(settings)
            if int(os.environ.get("RANK", "0")) == 0:
                _record_time(Path(settings.data), stage, time.perf_counter() - started)
    finally:
        for number in stops():  # told once more while Python ends, it would end without its code
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def one_line(command: str) -> Iterator[None]:
    """Leave a command with one line for what went wrong.

    Exit codes: 2 no other attempt helps before somebody mends it (settings, input); 75 another
    attempt may go better (network); 1 the machine must be mended (a full disk); 130 Ctrl-C, 143
    SIGTERM, 129 SIGHUP.
    """
    put_right()
    hide_in_tracebacks()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of a stage's imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except UserError as error:
        message, code = str(error), os.EX_TEMPFAIL if isinstance(error, NotNow) else 2
    except OSError as error:
        said = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
        message, code = _shortage(error) or said, 1
        if message != said and error.strerror != os.strerror(error.errno or 0):
            message = f"{said}; {message}"  # ours, which says what became of the work
    except Stopped as stopped:
        message, code = f"{stopped}; run the same command to go on", 128 + stopped.signal
    except KeyboardInterrupt as told:
        number = told.signal if isinstance(told, Told) else signal.SIGINT
        message, code = "stopped; run the same command to go on", 128 + number
    except Exception as error:
        if not (shortage := _shortage(error)):
            raise
        message, code = shortage, 1
    else:
        return
    # one process prints it, not all processes of a training
    if code == 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"{command}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _shortage(error: BaseException | None) -> str | None:
    """What to say of a full disk or memory, of which each library has an error of its own."""
    while error:
        if found := FULL.search(str(error)):
            room = ", ".join(
                f"{shutil.disk_usage(folder).free >> 20} MiB are free in {folder}"
                for folder in (Path.cwd(), tempfile.gettempdir())
            )
            return f"{found[0]}: {room}; make room, and run the same command to go on"
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return (
                "there is not enough memory; stop what else takes it, take a smaller model or a"
                " bigger machine, and run the same command to go on"
            )
        error = error.__cause__ or error.__context__
    return None


def _record_time(folder: Path, stage: str, seconds: float) -> None:
    """Keep each stage's last duration out of DVC: times differ every run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seconds.json"
    times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps(times | {stage: round(seconds, 2)}, indent=1))
