"""A real MLflow server behind a front that can fail, and a model to register."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.front import Front, mlflow_server
from tests.kit.trainings import TIMEOUT, client, make_model


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with mlflow_server(folder) as port:
        yield port


@pytest.fixture
def front(server: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    front = Front(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", front.uri)
    monkeypatch.setenv(TIMEOUT, "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield front
    front.mend()
    for experiment in client().search_experiments():  # the next test finds an empty server
        if experiment.experiment_id != "0":
            client().rename_experiment(experiment.experiment_id, os.urandom(8).hex())
            client().delete_experiment(experiment.experiment_id)
    for model in client().search_registered_models():
        client().delete_registered_model(model.name)
    front.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")
