"""Seconds that the training loop takes with everything on, and with parts of it taken away.

    python -m benchmarks.loop KIND:FOLDER…       # prints JSON: KIND → seconds, in their order

Each folder holds a recipe with its tokens. The stage `train` runs in this one process again and
again, as dvc.yaml calls it; `whole` times its loop as it is, `bare` without recording, saving,
tracking and progress bar.
"""

import inspect
import json
import os
import runpy
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import yaml

from benchmarks.processes import ROOT
from nanogpt import trainer
from nanogpt.progress import bar


class Stopped(Exception):
    """After a bare loop there is nothing to publish."""


def no_bar(*given: Any, **options: Any) -> Any:
    return bar(*given, **(options | {"disable": True}))


def seconds(kind: str, folder: Path) -> float:
    taken = 0.0
    fit = trainer.fit

    def timed(*given: Any, **named: Any) -> None:
        nonlocal taken
        arguments = inspect.signature(fit).bind(*given, **named).arguments
        if kind == "bare":
            arguments |= {"record": lambda *_: None, "save": lambda *_: None}
        started = time.perf_counter()
        fit(**arguments)
        taken = time.perf_counter() - started
        if kind == "bare":
            raise Stopped

    command = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["cmd"]
    _, _, module, *words = command.replace("${data}", f"data/{folder.name}").split()
    os.chdir(folder)
    sys.argv = [module, *words]
    with ExitStack() as stack:
        stack.enter_context(patch("nanogpt.trainer.fit", timed))
        if kind == "bare":
            stack.enter_context(patch("nanogpt.tracking.start", Mock()))
            stack.enter_context(patch("nanogpt.outbox.end", Mock()))
            stack.enter_context(patch("nanogpt.trainer.bar", no_bar))
        with suppress(Stopped):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    if not taken:
        sys.exit("the stage did not train in its own process, where it can be timed")
    return taken


if __name__ == "__main__":
    found = []
    for argument in sys.argv[1:]:
        kind, _, folder = argument.partition(":")
        found.append((kind, seconds(kind, Path(folder))))
    print(json.dumps(found))
