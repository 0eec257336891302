"""How an entry of the outbox is sent to MLflow, and what becomes of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from nanogpt.common.errors import UserError
from nanogpt.tracking import entries
from nanogpt.tracking import lock as locks
from nanogpt.tracking.run import Training
from nanogpt.tracking.trouble import Trouble, explain
from nanogpt.tracking.versions import history, names, registry
from nanogpt.tracking.versions.registry import Identity
from nanogpt.tracking.versions.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Result:
    """What became of an entry: MLflow's answer, or why it does not have it."""

    entry: str
    title: str
    says: str
    trouble: Trouble | None = None

    @property
    def done(self) -> bool:
        return self.trouble is None

    @property
    def refused(self) -> bool:
        """Whether it is of no use to wait."""
        return self.trouble is not None and not self.trouble.passing

    def __str__(self) -> str:
        state = "" if self.done else "refused: " if self.refused else "waits: "
        return f"{self.title}: {state}{self.says}"


def send(
    client: "MlflowClient", entry: Path, title: str, trainings: Mapping[str, Trouble]
) -> Result:
    """Send an entry and remove it.

    Args:
        trainings: that MLflow does not have, and why, by what they made.
    """
    try:
        if entries.kind(entry) == "training":
            says = _send_training(client, entry)
        elif entries.kind(entry) == "lock":
            says = _send_lock(client, entry, trainings)
        else:
            says = _send_result(client, entry, trainings)
    except _TrainingFirst as error:
        says = f"MLflow does not have its training: {error.trouble}"
        return Result(entry.name, title, says, error.trouble)
    except Exception as error:
        trouble = explain(error)
        return Result(entry.name, title, str(trouble), trouble)
    entries.remove(entry)
    return Result(entry.name, title, says)


def _send_training(client: "MlflowClient", entry: Path) -> str:
    training = Training(entry)
    if "datasets" not in training.about:
        raise _strange(entry)
    run_id = training.open(client)
    training.end(client, run_id)
    if not training.about["registration"]:
        return str(training.about["status"])
    recipe, model = training.about["recipe"], entry / "model"
    data = {"dataset": training.about["datasets"]["validation"]}
    told = training.about["registration"] | data
    version = registry.register(client, run_id, recipe, model, **told)
    return f"{training.about['status']}, registered as version {version}"


def _send_result(client: "MlflowClient", entry: Path, trainings: Mapping[str, Trouble]) -> str:
    try:
        values = json.loads((entry / "values.json").read_text("utf-8"))
        identity = Identity(**values.pop("identity"))
        scored = entries.kind(entry) == "evaluation"
        first, second = ("metrics", "dataset") if scored else ("text", "table")
        values[first], values[second]
        if scored:
            values["trial"] = Trial.load(entry)
    except (FileNotFoundError, KeyError, TypeError, ValueError, EOFError, BadZipFile):
        raise _strange(entry) from None
    if trouble := trainings.get(identity.key):
        raise _TrainingFirst(trouble)
    history.notice(client, f"{names.PREFIX}{identity.recipe}")
    run = registry.run_of(client, identity)
    if scored:
        return registry.record_evaluation(client, run, identity, **values).reason
    registry.record_samples(client, run, **values)
    return "it is with its run"


def _send_lock(client: "MlflowClient", entry: Path, trainings: Mapping[str, Trouble]) -> str:
    try:
        values = json.loads((entry / "values.json").read_text("utf-8"))
        identity, stages = Identity(**values["identity"]), locks.parse(values["stages"])
    except (KeyError, TypeError, ValueError):
        raise _strange(entry) from None
    if trouble := trainings.get(identity.key):
        raise _TrainingFirst(trouble)
    run = registry.run_of(client, identity, make=False)
    if run is None:
        return "its run is gone"
    locks.add(client, run.info.run_id, stages)
    return "it is with its run"


def _strange(entry: Path) -> UserError:
    return UserError(
        f"{entry} is damaged, or of another version of this code: `nanogpt sync` of that version"
        " sends it; or remove it and run its stage again"
    )


class _TrainingFirst(Exception):
    """What a training made that MLflow does not have yet, and why it does not."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
