"""Fetch a model from MLflow's registry into a folder.

    python -m nanogpt.tracking.versions.fetch models:/nanogpt-shakespeare@champion FOLDER

Prints the model directory in there, or why there is none. Exit codes: 2 it is not a model of this
project's, 69 MLflow does not have it, 75 another attempt may go better.
"""

import os
import sys
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.files import describe
from nanogpt.sources.fetch import SourceError
from nanogpt.tracking import location
from nanogpt.tracking.client import connect, patient
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions.names import Version, resolve

SIZE = 2 << 30  # bytes of a file that a server may have to fetch before it hands it on
WEIGHTS = "weights_sha256"  # tag of each version that this project registered
GONE = (
    "; put its files back from a copy, build the version again (`make reproduce`), or take another"
    " version"
)


def download_registered(model: str, folder: Path) -> Path:
    """Fill `folder` with what MLflow has of `models:/...`; returns the model directory in there.

    Raises:
        SourceError: MLflow does not answer, or has no such model, or no longer its files.
        UserError: it is not a model of this project's, or not the one that was registered.
    """
    try:
        found = resolve(connect(), model)
    except UserError as error:
        raise SourceError(str(error)) from None
    except Exception as error:
        trouble = explain(error)
        raise SourceError(f"MLflow at {location.address()}: {trouble}", trouble.passing) from None
    try:
        from mlflow.artifacts import download_artifacts

        with patient(SIZE):
            download_artifacts(artifact_uri=found.uri, dst_path=str(folder))
    except Exception as error:
        trouble = explain(error)
        raise SourceError(
            f"{found.name} has version {found.number}, but MLflow at {location.address()} does not"
            f" hand out its files: {trouble.reason}" + ("" if trouble.passing else GONE),
            trouble.passing,
        ) from None
    return model_in(folder, found)


def model_in(folder: Path, found: Version) -> Path:
    """The model directory in the files of a version.

    Raises:
        UserError: there is none, or its weights are not those that were registered.
    """
    models = [path.parent for path in folder.rglob("config.json")]
    if not models and WEIGHTS in found.about.tags:
        raise UserError(f"the files of {found.name}, version {found.number}, are gone{GONE}")
    if len(models) != 1:
        raise UserError(f"it holds {len(models)} folders with a config.json, and not one")
    _check(found, models[0])
    return models[0]


def _check(found: Version, folder: Path) -> None:
    """Refuse weights that are not those which were registered."""
    registered = found.about.tags.get(WEIGHTS)
    weights = folder / "model.safetensors"
    if registered is None:
        return  # another program registered it
    if not weights.exists():
        raise UserError(f"its {weights.name} is not there any more{GONE}")
    digest = describe(folder, weights.name).sha256
    if digest != registered:
        raise UserError(
            f"its {weights.name} has the SHA-256 {digest[:16]}, and {registered[:16]} was"
            f" registered: it was changed or damaged since{GONE}"
        )


def main() -> None:
    name, folder = sys.argv[1:]
    try:
        print(download_registered(name, Path(folder)))
    except SourceError as error:
        print(error, file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if error.passing else os.EX_UNAVAILABLE)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
