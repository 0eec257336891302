"""The flow that runs a recipe: one task a stage, in DVC's order.

    python -m pipelines.flows                              # the recipe of the current folder
    python -m pipelines.flows pipelines/gpt2_openwebtext
    prefect deployment run 'pipeline/shakespeare' --watch  # after `make deploy`

DVC decides what is to be done; Prefect decides when and where, shows it, and tries again.
"""

import argparse
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import suppress
from typing import Any

import psutil
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from pipelines.graph import RecipeError, Stage, dvc_environment, root, stages
from pipelines.local import Local, no_proxy

RAN = re.compile(r"Running stage '.+':")
BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
BLOCKER = re.compile(r"\(PID (\d+)\)")
EXIT_CODE = re.compile(r"exited with (-?\d+)$")

WRONG_INPUT = 2  # exit code of a stage that no second try can help
TOLD = {129, 130, 143}  # exit codes of a stage that was told to stop
WAITING = "NANOGPT_WAITING"  # pids: a stage stops when one of these that it runs below is gone
RUN_ID = "PREFECT__FLOW_RUN_ID"  # set where a worker started this process
BUSY_DELAY = 2  # seconds between two looks at another DVC command that is at work
PATIENCE = 20  # seconds to stop in: less than the 30 that a Prefect worker grants
STARTUP = 180  # seconds for Prefect's temporary server: its own 20 are few on a busy machine

DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
}


class StageFailed(Exception):
    """The last lines that a stage and DVC wrote."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code  # exit code of the stage's command; None when DVC itself gave up


def _worth_another_try(_task: Any, _run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.code not in {WRONG_INPUT, *TOLD}


@task(
    name="stage",
    task_run_name="{stage.name}",
    cache_policy=NO_CACHE,
    retry_condition_fn=_worth_another_try,
)
def run_stage(stage: Stage) -> State[None]:
    """Bring one stage up to date; the state is named `Cached` where its command need not run.

    Raises:
        StageFailed: DVC, or the command that it ran, ended with an error.
    """
    while True:
        code, lines = _repro(stage)
        text = "\n".join(lines)
        if code == 0:
            if any(RAN.fullmatch(line) for line in lines):
                return Completed(message="its command ran")
            return Completed(name="Cached", message="DVC had nothing to do")
        if not BUSY.search(text):
            ended = int(found[1]) if (found := EXIT_CODE.search(text)) else None
            # a signal that ended the shell in between is negative here
            raise StageFailed(text, 128 - ended if ended and ended < 0 else ended)
        blockers = [int(pid) for pid in BLOCKER.findall(text)]
        get_run_logger().warning("another DVC command is at work on this: waiting for its end")
        time.sleep(BUSY_DELAY)
        while any(map(_runs, blockers)):
            time.sleep(BUSY_DELAY)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _repro(stage: Stage) -> tuple[int, list[str]]:
    """Run `dvc repro` for one stage, its output going to the log as it comes.

    Returns:
        DVC's exit code, with the line that says whether the command ran and the last few lines.
    """
    logger = get_run_logger()
    command = ["dvc", "repro", "--single-item", stage.address]
    logger.info("$ %s", " ".join(command))
    ran: list[str] = []
    last: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=root(),
        env=dvc_environment() | {"PYTHONUNBUFFERED": "1", WAITING: _waiting()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C in a terminal then reaches only this process, which passes it on once
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                # of a line that carriage returns overwrote, the log gets what stayed
                line = raw.decode("utf-8", "replace").rstrip().rsplit("\r", 1)[-1]
                if line:
                    logger.info(line)
                    (ran if RAN.fullmatch(line) else last).append(line)
            return process.wait(), [*ran, *last]
        finally:
            if process.poll() is None:
                _stop(process)


def _waiting() -> str:
    """The processes that wait for a stage above DVC's, which is a job of its own; pids."""
    known = os.environ.get(WAITING, "").split()
    # the parent of a flow that runs for a worker is that worker
    return " ".join([*known, str(os.getpid()), str(os.getppid()) if RUN_ID in os.environ else ""])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a process and all its descendants, as Ctrl-C would; end those that stay."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    os.killpg(process.pid, signal.SIGINT)
    _, stubborn = psutil.wait_procs(family, timeout=PATIENCE)
    for member in stubborn:
        member.kill()
    process.wait()


def _without_traceback(record: logging.LogRecord) -> bool:
    """What a stage said is enough: through which functions of Prefect it came helps nobody."""
    if record.exc_info and isinstance(record.exc_info[1], StageFailed):
        record.exc_info = None
    return True


@flow(name="pipeline")
def pipeline(recipe: str = ".") -> None:
    """Bring the recipe in folder `recipe` up to date, stage by stage.

    Raises:
        RecipeError: the folder is not a recipe's.
        StageFailed: a stage failed, and no retry helped.
    """
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    for stage in stages(recipe):
        run_stage.with_options(
            retries=stage.meta.get("retries", 0),
            retry_delay_seconds=exponential_backoff(stage.meta.get("backoff", 10)),
        )(stage)


def find_server() -> None:
    """Have Prefect's server answer, or have none, so that the flow starts a temporary one.

    Otherwise Prefect says so in a page, after the flow was started.
    """
    os.environ |= no_proxy()
    if Local(root(), port=0).gone():
        said = "the server that `make deploy` started is gone: going on with a temporary one"
        print(f"{said}; `make deploy` starts it again", file=sys.stderr)
        return
    if not (address := get_current_settings().api.url):
        return
    try:
        urllib.request.urlopen(f"{address}/health", timeout=20).close()
    except urllib.error.HTTPError as error:
        error.close()  # it answers: what it wants Prefect knows
    except OSError as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # Prefect has settings of its own for certificates
        print(
            f"Prefect's server at {address} does not answer ({error}); start it, or take a"
            " temporary one: PREFECT_API_URL= make flow",
            file=sys.stderr,
        )
        sys.exit(os.EX_TEMPFAIL)


def run(recipe: str) -> None:
    """Run the flow; the exit code is that of the stage that failed."""
    try:
        pipeline(recipe)
    except StageFailed as error:
        sys.exit(error.code or 1)  # its log has said the rest


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a recipe as a Prefect flow.")
    parser.add_argument("recipe", nargs="?", default=".", help="its folder (default: this) or name")
    recipe = parser.parse_args().recipe
    try:
        stages(recipe)  # a wrong folder is said before Prefect's server takes its time to start
    except RecipeError as error:
        sys.exit(str(error))
    find_server()
    # In a session of its own: Ctrl-C would end Prefect's temporary server, which is the flow's
    # child, before the flow could tell it how the run ended.
    code = "import sys; from pipelines.flows import run; run(sys.argv[1])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, recipe],
        env=DEFAULTS | os.environ | {WAITING: str(os.getpid())},
        start_new_session=True,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
            signal.signal(number, lambda *_: child.terminate())
    ended = child.wait()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)  # a flow that a signal ended leaves its server behind
    sys.exit(ended if ended >= 0 else 128 - ended)


if __name__ == "__main__":
    main()
