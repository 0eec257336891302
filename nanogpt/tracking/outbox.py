"""What MLflow is to be told: on disk first, then sent, and removed when MLflow has it.

    end(run, "FINISHED", model, registration)           # train
    print(evaluated(weights_sha256, scores, text))      # eval
    sampled(weights_sha256, path)                       # sample
    send_all()                                          # `nanogpt sync`

Each call sends what waited before it as well. An entry holds all that it needs, so it can be sent
when the recipe's folder holds another model or is gone, and again after a kill in the middle.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nanogpt.common.errors import UserError
from nanogpt.common.files import remove_folder, whole_folder
from nanogpt.tracking import location, registry
from nanogpt.tracking.run import Run, Training, connect, explain
from nanogpt.training import checkpoint, journal

if TYPE_CHECKING:
    from nanogpt.tracking.run import MlflowClient

log = logging.getLogger(__name__)

KINDS = ("training", "evaluation", "sample")  # in the order in which they need each other
PATIENCE = 60  # seconds; what a stage has not begun to send by then is left to the next one
STOP_SECONDS = {"FINISHED": 30, "FAILED": 5, "KILLED": 5}  # for a request that is under way
LOCK_SECONDS = 10
LATER = "the next stage sends it, or `nanogpt sync`"


@dataclass(frozen=True)
class Result:
    """What became of an entry: MLflow's answer, or why it waits."""

    entry: str
    title: str
    done: bool
    says: str


def end(
    run: Run,
    status: str,
    model: Path | None = None,
    registration: Mapping[str, Any] | None = None,
) -> None:
    """End a training as FINISHED, FAILED or KILLED, and register its model.

    Takes two seconds where MLflow is known to be down. Afterwards the training's folder is of no
    use but to resume it.

    Args:
        model: the directory that was published.
        registration: the named arguments of `registry.register`.

    Raises:
        OSError: the disk is full.
    """
    answers = run.stop(STOP_SECONDS[status])
    title = f"training {run.name}"
    try:
        about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        rows = len(journal.read(run.folder / "journal.jsonl"))
        if status != "FINISHED":  # a resume repeats what no save covers
            rows = min(rows, checkpoint.covered(run.folder))
        about |= {"status": status, "durable": rows, "ended": time.time_ns() // 1_000_000}
        with _new(f"training-{run.training}", title) as entry:
            shutil.copy(run.folder / "journal.jsonl", entry)
            (entry / "run.json").write_text(
                json.dumps(about | {"registration": registration}), encoding="utf-8"
            )
            if model:
                shutil.copytree(model, entry / "model", copy_function=_link)
    except (OSError, UserError) as error:
        if status == "FINISHED":
            raise
        # not raised: what ended the training has to be heard, and a resume sends its metrics
        log.warning("MLflow is not told that %s is %s: %s", title, status, error)
        return
    if answers:
        _deliver()
    else:
        log.warning("MLflow does not answer, so %s waits; %s", title, LATER)


def evaluated(weights_sha256: str, metrics: Mapping[str, float], text_sha256: str) -> str:
    """Record the scores of these weights; they become `champion` if they beat the one there is.

    Args:
        metrics: with `eval_bits_per_byte`, by which champions are chosen.
        text_sha256: of the text that was scored; only scores of the same text are compared.

    Returns:
        What was decided and why, a sentence to print.
    """
    values = {"metrics": dict(metrics), "text_sha256": text_sha256}
    sent = _tell("evaluation", weights_sha256, f"scores of {weights_sha256[:12]}", values)
    return sent.says if sent.done else f"not decided: MLflow does not have the scores ({sent.says})"


def sampled(weights_sha256: str, path: Path) -> None:
    """Keep a text file with the run that made these weights."""
    values = {"name": path.name, "text": path.read_text("utf-8")}
    _tell("sample", weights_sha256, f"{path.name} of {weights_sha256[:12]}", values)


def deliver(patience: float) -> Iterator[Result]:
    """Send what waits, in order; nothing is begun after `patience` seconds."""
    if not _entries():
        return
    deadline = time.monotonic() + patience
    # while another process sends the same; it may be slow, so not for ever
    lock = FileLock(location.outbox().with_name(".outbox.lock"), timeout=LOCK_SECONDS)
    with ExitStack() as stack:
        blocked, client = "", None
        try:
            stack.enter_context(lock)
            client = connect()
        except Timeout:
            blocked = "another process is sending"
        except Exception as error:
            blocked = explain(error)
        # anew: another process may have sent some in the meantime
        for entry, about in _entries():
            title, server = about["title"], about["server"]
            if client and time.monotonic() > deadline:
                blocked = "MLflow is slow"
            if server not in (None, location.server()):
                says = f"it is for {server}; set MLFLOW_TRACKING_URI to that"
                yield Result(entry.name, title, False, says)
            elif blocked or client is None:
                yield Result(entry.name, title, False, blocked)
            else:
                yield Result(entry.name, title, *_send(client, entry, about))


def _send(client: "MlflowClient", entry: Path, about: Mapping[str, Any]) -> tuple[bool, str]:
    """Send an entry and remove it; returns whether it is done with, and what came of it."""
    try:
        if entry.name.startswith("training-"):
            says = _send_training(client, entry)
        else:
            values = json.loads((entry / "values.json").read_text(encoding="utf-8"))
            if entry.name.startswith("evaluation-"):
                says = registry.record_evaluation(client, **values).reason
            else:
                registry.record_text(client, **values)
                says = "it is with its run"
    except registry.UnknownWeights as error:
        if any(
            path.name.startswith("training-") for path, _ in _entries()
        ):  # it may have made them
            return False, str(error)
        says = f"given up: {error}"
    except Exception as error:
        return False, explain(error)
    with suppress(FileNotFoundError):
        if _about(entry) == about:  # else a newer one took its place, and goes out next time
            remove_folder(entry)
    return True, says


def _send_training(client: "MlflowClient", entry: Path) -> str:
    training = Training(entry)
    run_id = training.open(client)
    training.end(client, run_id)
    if not training.about["registration"]:
        return str(training.about["status"])
    recipe, model = training.about["recipe"], entry / "model"
    version = registry.register(client, run_id, recipe, model, **training.about["registration"])
    return f"{training.about['status']}, registered as version {version}"


def _tell(kind: str, weights_sha256: str, title: str, values: Mapping[str, Any]) -> Result:
    """Put an entry about these weights into the outbox, in the place of an older one, and send."""
    name = f"{kind}-{weights_sha256[:16]}"
    with _new(name, title) as entry:
        text = json.dumps({"weights_sha256": weights_sha256, **values})
        (entry / "values.json").write_text(text, encoding="utf-8")
    told = Result(name, title, True, "another process has told MLflow")
    return next((result for result in _deliver() if result.entry == name), told)


def _deliver() -> list[Result]:
    """Send what waits, and warn of what still does."""
    results = list(deliver(PATIENCE))
    waiting = [result for result in results if not result.done]
    if waiting:
        log.warning(
            "MLflow does not have %s: %s; %s",
            ", ".join(result.title for result in waiting),
            waiting[0].says,
            LATER,
        )
    return results


@contextmanager
def _new(name: str, title: str) -> Iterator[Path]:
    """The folder of an entry, to be filled; whole, it takes the place of an older one."""
    about = {"title": title, "server": location.server(), "at": time.time_ns()}
    with whole_folder(location.outbox() / name) as entry:
        (entry / "about.json").write_text(json.dumps(about), encoding="utf-8")
        yield entry


def _link(source: str, target: str) -> None:
    """A second name for a file, since nobody writes into it; where that cannot be, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _about(entry: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    return about


def _entries() -> list[tuple[Path, dict[str, Any]]]:
    """What waits, in the order in which it is to be sent: by kind, then by age."""
    found = []
    for path in location.outbox().glob("*-*"):
        if path.suffix != ".partial":
            with suppress(FileNotFoundError):  # another process has just sent it
                found.append((path, _about(path)))
    kinds = {path: KINDS.index(path.name.partition("-")[0]) for path, _ in found}
    return sorted(found, key=lambda entry: (kinds[entry[0]], entry[1]["at"]))


def send_all() -> int:
    """Send all that waits, with a line for each entry.

    Returns:
        The exit code: 0 if nothing waits now, else 1.
    """
    code = 0
    for result in deliver(math.inf):
        print(f"{result.title}: {'' if result.done else 'waits: '}{result.says}", flush=True)
        code = code if result.done else 1
    return code
