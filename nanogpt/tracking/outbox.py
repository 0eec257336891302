"""What MLflow is to be told: on disk first, then sent, and removed when MLflow has it.

    end(run, "FINISHED", model, registration)           # train
    print(evaluated(identity, scores, dataset, trial))  # eval
    sampled(identity, path, table)                      # sample
    locked(identity, model, lock)                       # eval, sample, and `nanogpt report`
    send_all()                                          # `nanogpt sync`

Each call sends what waited before it as well. An entry holds all that it needs, so it can be sent
when the recipe's folder holds another model or is gone, and again after a kill in the middle.

What MLflow does not take waits, where waiting helps; else it is refused, and stays as well: the
stage whose scores it is, and `nanogpt sync`, end with an exit code for that.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanogpt.common.errors import UserError
from nanogpt.tracking import entries, location
from nanogpt.tracking import lock as locks
from nanogpt.tracking.client import connect
from nanogpt.tracking.run import RECORDS, Run
from nanogpt.tracking.sending import Result, send
from nanogpt.tracking.trouble import Trouble, explain
from nanogpt.tracking.versions.registry import Identity
from nanogpt.tracking.versions.trial import Trial
from nanogpt.training import checkpoint, journal

log = logging.getLogger(__name__)

PATIENCE = 60  # seconds; what a stage has not begun to send by then is left to the next one
STOP_SECONDS = {"FINISHED": 30, "FAILED": 5, "KILLED": 5}  # for a request that is under way
LOCK_SECONDS = 10
LATER = "the next stage sends it, or `nanogpt sync`"
REFUSED = 2  # exit code: until somebody mends it


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
        made = Identity(about["recipe"], registration["weights_sha256"]) if registration else None
        name = entries.unique(f"training-{run.training}")
        with entries.new(name, title, makes=made and made.key) as entry:
            shutil.copy(run.folder / "journal.jsonl", entry)
            (entry / "run.json").write_text(
                json.dumps(about | {"registration": registration}), encoding="utf-8"
            )
            if (record := run.folder / RECORDS).exists():
                shutil.copytree(record, entry / RECORDS)
            if model:
                shutil.copytree(model, entry / "model", copy_function=entries.link)
    except (OSError, UserError) as error:
        if status == "FINISHED":
            raise
        # not raised: what ended the training has to be heard, and a resume sends its metrics
        log.warning("MLflow is not told that %s is %s: %s", title, status, error)
        return
    if answers:
        _deliver()
    elif run.trouble and not run.trouble.passing:
        log.warning(_refusal([title], str(run.trouble)))
    else:
        log.warning("MLflow does not answer, so %s waits; %s", title, LATER)


def evaluated(
    identity: Identity,
    metrics: Mapping[str, float],
    dataset: Mapping[str, Any],
    trial: Trial,
) -> str:
    """Record the scores of a model, and have it challenge the champion that there is by then.

    Args:
        metrics: with `eval_bits_per_byte`.
        dataset: that was scored: `name`, `digest` of its text, `source`, and what else is known.
        trial: what the decision is made by.

    Returns:
        What was decided and why, a sentence to print.

    Raises:
        UserError: MLflow refuses them, or the training that they belong to, and no waiting helps.
    """
    values = {"metrics": dict(metrics), "dataset": dict(dataset)}
    title = f"scores of {identity.weights_sha256[:12]}"
    sent = _tell("evaluation", identity, title, values, trial)
    if sent.refused:
        raise UserError(f"not decided: {_refusal([sent.title], sent.says)}")
    return sent.says if sent.done else f"not decided: MLflow does not have the scores ({sent.says})"


def sampled(identity: Identity, path: Path, table: Mapping[str, Sequence[str]]) -> None:
    """Keep samples with the run that made these weights: as a text file, and as a table.

    Args:
        table: columns by name, all of one length.
    """
    values = {"name": path.name, "text": path.read_text("utf-8"), "table": dict(table)}
    _tell("sample", identity, f"{path.name} of {identity.weights_sha256[:12]}", values)


def locked(identity: Identity, model: Path, lock: Path) -> None:
    """Add to the record of a model what DVC has written down since of the stages around it.

    Nothing, where the stages are run by hand, or the lock is of another model.
    """
    if stages := locks.of_model(locks.read(lock), model):
        title = f"{lock.name} of {identity.weights_sha256[:12]}"
        _tell("lock", identity, title, {"stages": locks.dump(stages)})


def deliver(patience: float) -> Iterator[Result]:
    """Send what waits, in order; nothing is begun after `patience` seconds."""
    if not entries.waiting():
        return
    deadline = time.monotonic() + patience
    # while another process sends the same; it may be slow, so not for ever
    lock = FileLock(location.outbox().with_name(".outbox.lock"), timeout=LOCK_SECONDS)
    blocked, client = None, None
    try:
        try:
            lock.acquire()
            client = connect()
        except Timeout:
            blocked = Trouble("another process is sending", True)
        except Exception as error:
            blocked = explain(error)
        trainings: dict[str, Trouble] = {}  # that MLflow does not have, by what they made
        seen: set[Path] = set()
        left: list[tuple[Path, dict[str, Any]]] = []
        while True:
            # anew while it is sent: others send, take back, and tell more in the meantime
            if not left or (client and not blocked):
                left = [each for each in entries.waiting() if each[0] not in seen]
            if not left:
                break
            entry, about = left.pop(0)
            seen.add(entry)
            if client and time.monotonic() > deadline:
                blocked = Trouble("MLflow is slow", True)
            server = about["server"]
            if server not in (None, location.address()):
                trouble = Trouble(f"it is for {server}; set MLFLOW_TRACKING_URI to that", False)
                result = Result(entry.name, about["title"], str(trouble), trouble)
            elif blocked or client is None:
                result = Result(entry.name, about["title"], str(blocked), blocked)
            else:
                result = send(client, entry, about["title"], trainings)
            if result.trouble and not entry.exists():
                continue  # its training goes on, or a newer one took its place
            if result.trouble and about.get("makes"):
                trainings[about["makes"]] = result.trouble
            yield result
    finally:
        lock.release()


def _tell(
    kind: str,
    identity: Identity,
    title: str,
    values: Mapping[str, Any],
    trial: Trial | None = None,
) -> Result:
    """Put an entry about a model into the outbox, in the place of an older one, and send."""
    # of other trainings with the same weights none takes another's place
    which = f"{identity.key[:-48]}-{(identity.fingerprint or 'unknown')[:16]}"
    name = entries.unique(f"{kind}-{which}")
    with entries.new(name, title) as entry:
        text = json.dumps({"identity": asdict(identity), **values})
        (entry / "values.json").write_text(text, encoding="utf-8")
        if trial:
            trial.save(entry)
    told = Result(name, title, "another process has told MLflow")
    return next((result for result in _deliver() if result.entry == name), told)


def _deliver() -> list[Result]:
    """Send what waits, and warn of what still does, and of what is refused."""
    results = list(deliver(PATIENCE))
    waiting = [result for result in results if result.trouble and result.trouble.passing]
    refused = [result for result in results if result.refused]
    if waiting:
        titles = ", ".join(result.title for result in waiting)
        log.warning("MLflow does not have %s: %s; %s", titles, waiting[0].says, LATER)
    if refused:
        log.warning(_refusal([result.title for result in refused], refused[0].says))
    return results


def _refusal(titles: list[str], says: str) -> str:
    """What a person reads of what waiting does not help."""
    return f"MLflow does not take {', '.join(titles)}: {says}; then `nanogpt sync`"


def send_all() -> int:
    """Send all that waits, with a line for each entry.

    Returns:
        The exit code: 0 if nothing waits now, EX_TEMPFAIL if the same command helps later, and
        REFUSED if something else has to be done first, which the line says.
    """
    code = 0
    for result in deliver(math.inf):
        print(result, flush=True)
        if result.refused:
            code = REFUSED
        elif not result.done:
            code = code or os.EX_TEMPFAIL
    return code
