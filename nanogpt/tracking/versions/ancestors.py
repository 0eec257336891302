"""Where a model comes from: its record, fetched from the run that trained it.

    with of("models:/nanogpt-shakespeare@champion") as found:
        found.record, found.folder      # record.json, params.yaml, dvc.lock, code.diff

A model is a version in the registry, a model directory, which is looked for there by its digests,
or the id of a run.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files
from nanogpt.formats.weights import weights_sha256
from nanogpt.tracking import location
from nanogpt.tracking.client import asking, every, usable
from nanogpt.tracking.run import RECORDS
from nanogpt.tracking.versions.names import resolve, there
from nanogpt.tracking.versions.record import RECORD, Record, diff_name, load

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Known:
    """A run that trained a model, and the model's version if it is registered."""

    run_id: str
    name: str | None  # of the registered model
    version: str | None
    tags: dict[str, str]  # of the version, and of the run

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}" if self.name else f"run {self.run_id}"


@dataclass(frozen=True)
class Found(Known):
    """A model with its record; `folder` holds the record's files."""

    record: Record
    folder: Path


class NoRecord(UserError):
    """MLflow knows the model, and not where it comes from."""


@contextmanager
def of(model: str) -> Iterator[Found]:
    """Fetch the record of a model, for the while.

    Raises:
        UserError: MLflow has no such model; NoRecord: or no record of it.
        NotNow: MLflow does not answer.
    """
    client = usable()
    with asking():
        known = find(client, model)
    with tempfile.TemporaryDirectory() as temporary:
        with asking():
            found = fetch(client, known, Path(temporary))
        yield found


def find(client: "MlflowClient", model: str) -> Known:
    """The run that trained a model, and its version if it is registered.

    Raises:
        UserError: MLflow has no such model.
        Exception: MLflow does not answer.
    """
    if RUN.fullmatch(model):
        if there(client.get_run, model) is None:
            raise UserError(f"MLflow at {location.address()} has no run {model}")
        return _known(client, model, _newest(client, f"run_id = '{model}'"))
    if model.startswith("models:"):
        version = resolve(client, model).about
    elif (Path(model) / "config.json").exists():
        version = _of_directory(client, Path(model))
    else:
        raise UserError(
            f"{model} is neither a model in MLflow's registry (models:/<name>@<alias> or"
            " models:/<name>/<version>), nor a folder with a config.json, nor the id of a run"
        )
    if not version.run_id:
        raise NoRecord(f"{model} was registered without a run, so nothing is known of its making")
    return _known(client, version.run_id, version)


def fetch(client: "MlflowClient", known: Known, place: Path) -> Found:
    """Fetch the record of a model into `place`; what is not as it was is refused.

    Raises:
        NoRecord: there is none; UserError: or it is damaged.
        Exception: MLflow does not answer.
    """
    names = {file.path for file in client.list_artifacts(known.run_id, RECORDS)}
    if f"{RECORDS}/{RECORD}" not in names:
        raise NoRecord(
            f"{known} has no record of where it comes from: it was trained before records were"
            f" kept, or the artifact {RECORDS}/{RECORD} of its run was deleted"
        )
    folder = Path(client.download_artifacts(known.run_id, RECORDS, str(place)))
    try:
        record = load(folder)
    except UserError as error:
        raise UserError(f"{known}: {str(error).replace(str(folder), RECORDS)}") from None
    for number, code in enumerate(record.code):
        path = folder / diff_name(number)
        actual = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        if code.diff_sha256 != actual:
            state = "is not as it was recorded" if actual else "is missing"
            raise UserError(f"{known}: the artifact {RECORDS}/{path.name} of its run {state}")
    return Found(**vars(known), record=record, folder=folder)


def _known(client: "MlflowClient", run_id: str, version: Any) -> Known:
    run = there(client.get_run, run_id)  # which may be gone for good
    tags = (run.data.tags if run else {}) | (version.tags if version else {})
    name, number = (version.name, str(version.version)) if version else (None, None)
    return Known(run_id, name, number, tags)


def _of_directory(client: "MlflowClient", folder: Path) -> Any:
    """The version that a model directory is: all its files are the same, or else its weights."""
    digests = {"model_sha256": digest_files(list_files(folder))}
    if (folder / "model.safetensors").exists():
        digests["weights_sha256"] = weights_sha256(folder)
    for tag, digest in digests.items():
        if version := _newest(client, f"tags.{tag} = '{digest}'"):
            return version
    raise NoRecord(
        f"MLflow at {location.address()} knows no version with the weights of {folder}"
        + (f" (SHA-256 {digests['weights_sha256']})" if "weights_sha256" in digests else "")
    )


def _newest(client: "MlflowClient", query: str) -> Any:
    found = every(client.search_model_versions, query)
    return max(found, key=lambda version: int(version.creation_timestamp), default=None)
