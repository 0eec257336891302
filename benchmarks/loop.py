"""Seconds that the training loop takes with everything on, and with parts of it taken away.

    python -m benchmarks.loop KIND:PARAMS…       # in a checkout; prints JSON: seconds, in order

The stage `train` runs in this one process again and again, on recipes that have their tokens;
`whole` times its loop as it is, `bare` without recording, saving, tracking and progress bar.
"""

import json
import runpy
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import Mock, patch

from nanogpt.common.progress import bar
from nanogpt.trainer import Hooks, Trainer

STAGE = "nanogpt.stages.train"
fit = Trainer.fit


class Stopped(Exception):
    """After a bare loop there is nothing to publish."""


def no_bar(*given: Any, **options: Any) -> Any:
    return bar(*given, **(options | {"disable": True}))


def seconds(kind: str, params: str) -> float:
    taken = 0.0

    def timed(trainer: Trainer) -> None:
        nonlocal taken
        if kind == "bare":
            trainer.hooks = Hooks(lambda *_: None, lambda *_: None, lambda loss, part: loss)
        started = time.perf_counter()
        fit(trainer)
        taken = time.perf_counter() - started
        if kind == "bare":
            raise Stopped

    sys.argv = [STAGE, params]
    with ExitStack() as stack:
        stack.enter_context(patch.object(Trainer, "fit", timed))
        if kind == "bare":
            stack.enter_context(patch("nanogpt.tracking.run.start", Mock()))
            stack.enter_context(patch("nanogpt.tracking.outbox.end", Mock()))
            stack.enter_context(patch("nanogpt.trainer.bar", no_bar))
        with suppress(Stopped):
            runpy.run_module(STAGE, run_name="__main__", alter_sys=True)
    if not taken:
        sys.exit("the stage did not train in its own process, where it can be timed")
    return taken


if __name__ == "__main__":
    jobs = [argument.partition(":") for argument in sys.argv[1:]]
    print(json.dumps([seconds(kind, params) for kind, _, params in jobs]))
