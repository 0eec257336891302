"""Fetch a model from MLflow's registry into a folder.

    python -m nanogpt.tracking.versions.fetch models:/nanogpt-shakespeare@champion FOLDER

Prints the model directory in there, or why there is none. Exit codes: 2 it is not a model of this
project's, 69 MLflow does not have it, 75 another attempt may go better.
"""

import os
import sys
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.sources.fetch import SourceError
from nanogpt.tracking import location
from nanogpt.tracking.client import connect
from nanogpt.tracking.trouble import explain


def download_registered(name: str, folder: Path) -> Path:
    """Fill `folder` with what MLflow has of `models:/...`; returns the model directory in there.

    Raises:
        SourceError: MLflow does not answer, or has no such model.
        UserError: it is not a model of this project's.
    """
    try:
        connect()
        from mlflow.artifacts import download_artifacts

        download_artifacts(artifact_uri=name, dst_path=str(folder))
    except Exception as error:
        trouble = explain(error)
        raise SourceError(
            f"MLflow at {location.address()}: {trouble.reason}; its names, versions and"
            " aliases are in `nanogpt ui`, another server is named by MLFLOW_TRACKING_URI",
            passing=trouble.passing,
        ) from None
    models = [path.parent for path in folder.rglob("config.json")]
    if len(models) != 1:
        raise UserError(f"it holds {len(models)} folders with a config.json, and not one")
    return models[0]


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
