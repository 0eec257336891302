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

from nanogpt.common.errors import NotNow, UserError
from nanogpt.common.files import digest_files, list_files
from nanogpt.formats.weights import weights_sha256
from nanogpt.tracking import location
from nanogpt.tracking.client import every, usable
from nanogpt.tracking.run import RECORDS
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions.names import resolve
from nanogpt.tracking.versions.record import Record, diff_name, load

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Found:
    """A model's record, and where it is known; `folder` holds the record's files."""

    run_id: str
    name: str | None  # of the registered model
    version: str | None
    tags: dict[str, str]  # of the version, or of the run
    record: Record
    folder: Path


@contextmanager
def of(model: str) -> Iterator[Found]:
    """Fetch the record of a model, for the while.

    Raises:
        UserError: MLflow has no such model, or no record of it.
        NotNow: MLflow does not answer.
    """
    client = usable()
    try:
        run_id, version = _find(client, model)
        tags = version.tags if version else client.get_run(run_id).data.tags
    except UserError:
        raise
    except Exception as error:
        raise _unknown(model, error) from None
    with tempfile.TemporaryDirectory() as temporary:
        folder = _download(client, run_id, Path(temporary), model)
        name, number = (version.name, str(version.version)) if version else (None, None)
        yield Found(run_id, name, number, dict(tags), load(folder), folder)


def _find(client: "MlflowClient", model: str) -> tuple[str, Any]:
    """The run that trained a model, and its version if it is registered."""
    if RUN.fullmatch(model):
        return model, _newest(client, f"run_id = '{model}'")
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
        raise UserError(f"{model} was registered without a run, so nothing is known of its making")
    return str(version.run_id), version


def _of_directory(client: "MlflowClient", folder: Path) -> Any:
    """The version that a model directory is: all its files are the same, or else its weights."""
    digests = {
        "model_sha256": digest_files(list_files(folder)),
        "weights_sha256": weights_sha256(folder),
    }
    for tag, digest in digests.items():
        if version := _newest(client, f"tags.{tag} = '{digest}'"):
            return version
    raise UserError(
        f"MLflow at {location.address()} knows no version with the weights of {folder}"
        f" (SHA-256 {digests['weights_sha256']})"
    )


def _newest(client: "MlflowClient", query: str) -> Any:
    found = every(client.search_model_versions, query)
    return max(found, key=lambda version: int(version.creation_timestamp), default=None)


def _download(client: "MlflowClient", run_id: str, place: Path, model: str) -> Path:
    """Fetch a run's record into `place`; what is not as it was is refused."""
    try:
        names = [file.path for file in client.list_artifacts(run_id, RECORDS)]
        if f"{RECORDS}/record.json" not in names:
            raise UserError(
                f"{model} has no record of its making: its run {run_id} is of code that kept none,"
                f" or somebody deleted the artifact {RECORDS}/"
            )
        folder = Path(client.download_artifacts(run_id, RECORDS, str(place)))
        for number, code in enumerate(load(folder).code):
            path = folder / diff_name(number)
            actual = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            if code.diff_sha256 != actual:
                state = "is not as it was recorded" if actual else "is missing"
                raise UserError(f"{model}: the artifact {RECORDS}/{path.name} {state}")
    except UserError:
        raise
    except Exception as error:
        raise _unknown(model, error) from None
    return folder


def _unknown(model: str, error: Exception) -> UserError:
    trouble = explain(error)
    kind = NotNow if trouble.passing else UserError
    return kind(f"{model}: MLflow at {location.address()}: {trouble.reason}")
