"""The five stages: arguments → settings → one call → files.

Each is a module with one `main`, run as `python -m nanogpt.stages.<name>` by `dvc.yaml`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nanogpt.config import Settings
from nanogpt.errors import Stopped, UserError
from nanogpt.files import write_text
from nanogpt.params import load

# torch warns of its own insides, such as an address that has no name; read when it is imported
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run(
    main: Callable[[argparse.Namespace, Settings], None], parser: argparse.ArgumentParser
) -> None:
    """Run a stage as a command: parse, load the settings, call, time it; one line for an error.

    Exit codes: 0 done; 2 the user can mend it (settings, input, network); 1 the machine must be
    (a full disk); 130 Ctrl-C, 143 SIGTERM.
    """
    parser.add_argument("--params", default="params.yaml", help="the recipe's settings")
    args = parser.parse_args()
    stage = Path(sys.argv[0]).stem
    started = time.perf_counter()
    try:
        settings = load(args.params)
        main(args, settings)
    except UserError as error:
        sys.exit(_say(stage, str(error), 2))
    except OSError as error:
        sys.exit(_say(stage, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 1))
    except Stopped as stopped:
        message = f"{stopped}; run the same command to go on"
        sys.exit(_say(stage, message, 128 + stopped.signal))
    except KeyboardInterrupt:
        sys.exit(_say(stage, "stopped; run the same command to go on", 130))
    if int(os.environ.get("RANK", "0")) == 0:
        _record_time(Path(settings.data), stage, time.perf_counter() - started)


def _say(stage: str, message: str, code: int) -> int:
    if (
        code == 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0
    ):  # not the same line from all processes
        print(f"{stage}: {message}", file=sys.stderr, flush=True)
    return code


def _record_time(folder: Path, stage: str, seconds: float) -> None:
    """Keep each stage's last duration beside its artifacts, out of DVC: times differ every run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seconds.json"
    times = json.loads(path.read_text()) if path.exists() else {}
    write_text(path, json.dumps(times | {stage: round(seconds, 2)}, indent=1))
