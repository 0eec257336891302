"""The flow that runs a recipe: one task a stage, hanging together as in DVC's graph.

    python -m pipelines.flows                              # the recipe of the current folder
    python -m pipelines.flows pipelines/gpt2_openwebtext
    python -m pipelines.flows --overrides '{"train.steps": 100}'
    prefect deployment run 'pipeline/shakespeare' --watch  # after `make deploy`

DVC decides what is to be done; Prefect decides when and where, shows it, and tries again.
"""

import argparse
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_client, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from pipelines import artifacts
from pipelines.graph import (
    RecipeError,
    Stage,
    adopt,
    find_recipe,
    name_of,
    one_line,
    root,
    stages,
)
from pipelines.local import Local, no_proxy
from pipelines.overrides import experiment, refuse_secrets, title, words
from pipelines.repro import TOLD, WAITING, WRONG_INPUT, StageFailed, repro

NOTHING: dict[str, Any] = {}  # a default that the form shows as JSON to write into
STARTUP = 180  # seconds for Prefect's temporary server: its own 20 are few on a busy machine

DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
}


def _worth_another_try(_task: Any, _run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.code not in {WRONG_INPUT, *TOLD}


@task(
    name="stage",
    task_run_name="{stage.name}",
    cache_policy=NO_CACHE,
    retry_condition_fn=_worth_another_try,
)
def run_stage(stage: Stage, recipe: str, top: Path, experiment: str | None) -> State[None]:
    """Bring one stage up to date; the state is named `Cached` where its command need not run.

    Raises:
        StageFailed: DVC, or the command that it ran, ended with an error.
    """
    try:
        ran = repro(stage, top, experiment)
    except StageFailed as error:
        with _or_a_warning():
            artifacts.show_failure(recipe, stage, top, str(error))
        raise
    with _or_a_warning():
        artifacts.show_results(recipe, stage, top)
    if ran:
        return Completed(message="its command ran")
    return Completed(name="Cached", message="DVC had nothing to do")


@contextmanager
def _or_a_warning() -> Iterator[None]:
    """What a run shows of itself is no reason for it to fail."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("something is not shown: %s: %s", type(error).__name__, error)


def _without_traceback(record: logging.LogRecord) -> bool:
    """What was said is enough: through which functions of Prefect it came helps nobody."""
    if record.exc_info and isinstance(record.exc_info[1], StageFailed | RecipeError):
        record.msg, record.args = str(record.exc_info[1]), ()
        record.exc_info = None
    return True


def _title() -> str:
    given = runtime.flow_run.parameters
    return title(given["recipe"], given["overrides"])


@flow(name="pipeline", flow_run_name=_title)
def pipeline(recipe: str = ".", overrides: dict[str, Any] = NOTHING) -> None:
    """Bring a recipe up to date, stage by stage; what is up to date already is `Cached`.

    Args:
        recipe: the name of a recipe, or its folder.
        overrides: settings that differ from its params.yaml, such as `{"train.steps": 100}`. The
            run then takes place in a copy of the checkout, and is kept as a DVC experiment.

    Raises:
        RecipeError: there is no such recipe, or a setting is refused.
        StageFailed: a stage failed, and no retry helped.
    """
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    refuse_secrets(overrides)
    folder = find_recipe(recipe)
    name = name_of(folder)
    _tag(name, overrides)
    if not overrides:
        _run_stages(folder.resolve(), name, root(), None)
        return
    with experiment(folder, overrides) as copy:
        _run_stages(copy.top / folder.resolve().relative_to(root()), name, copy.top, copy.name)
    get_run_logger().info("kept as an experiment: dvc exp show; dvc exp apply %s", copy.name)


def _run_stages(folder: Path, name: str, top: Path, experiment: str | None) -> None:
    """Run the stages of the recipe in `folder`, one after the other, at the root `top`."""
    adopt(folder, top)
    with _or_a_warning():
        artifacts.show_settings(name, folder, top)
    done: dict[str, State[Any]] = {}
    for stage in stages(folder, top):
        waits = [done[address] for address in stage.needs]  # the lines between the tasks
        task = run_stage.with_options(
            tags=[name],
            retries=stage.meta.get("retries", 0),
            retry_delay_seconds=exponential_backoff(stage.meta.get("backoff", 10)),
        )
        done[stage.address] = task(stage, name, top, experiment, wait_for=waits, return_state=True)
        done[stage.address].result()  # raises what the stage did
    with _or_a_warning():
        artifacts.show_links(name, folder, top)


def _tag(name: str, overrides: Mapping[str, Any]) -> None:
    """Have the run found by its recipe and by each setting that it changes."""
    tags = {*runtime.flow_run.tags, name, *words(overrides)}
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=sorted(tags))


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


def run(recipe: str, overrides: str) -> None:
    """Run the flow; the exit code is that of the stage that failed."""
    try:
        pipeline(recipe, json.loads(overrides))
    except StageFailed as error:
        sys.exit(error.code or 1)  # its log has said the rest
    except RecipeError:
        sys.exit(WRONG_INPUT)


def _settings(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if isinstance(found, dict):
        return found
    raise argparse.ArgumentTypeError(f'{text!r} is not of the form {{"train.steps": 100}}')


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a recipe as a Prefect flow.")
    parser.add_argument("recipe", nargs="?", default=".", help="its folder (default: this) or name")
    parser.add_argument(
        "--overrides",
        type=_settings,
        default={},
        metavar="JSON",
        help="settings for this run alone, kept as an experiment: '{\"train.steps\": 100}'",
    )
    args = parser.parse_args()
    with one_line("flow"):
        # what is wrong is said before Prefect's server takes its time to start
        recipe = find_recipe(args.recipe)
        refuse_secrets(args.overrides)
        if not args.overrides:  # which are run in a copy: here the recipe may stay hidden from DVC
            adopt(recipe)
            stages(recipe)
    find_server()
    # In a session of its own: Ctrl-C would end Prefect's temporary server, which is the flow's
    # child, before the flow could tell it how the run ended.
    code = "import sys; from pipelines.flows import run; run(*sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, args.recipe, json.dumps(args.overrides)],
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
