"""Results find the very training that they are of, whatever else has its weights or was deleted."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nanogpt.settings import load
from nanogpt.tracking import outbox
from nanogpt.tracking.run import FINGERPRINT
from nanogpt.tracking.versions import registry
from nanogpt.tracking.versions.identity import identify
from nanogpt.tracking.versions.registry import Identity
from tests.kit.recipes import Recipe
from tests.kit.trainings import SAMPLES, begin, client, identity, registration, runs, scored, trial

NAME = "nanogpt-plays"


def of(model: Path, training: str) -> Identity:
    return identity(model, **{FINGERPRINT: training})


@pytest.fixture
def twins(root: Path, model: Path) -> dict[str, str]:
    """Two trainings of one recipe with equal weights, as of one base without a step; their runs."""
    for training in ("first", "second"):
        run = begin(root / training, 4, fingerprint=training)
        outbox.end(run, "FINISHED", model, registration(model, 2.0))
    return {run.data.tags[FINGERPRINT]: run.info.run_id for run in runs()}


def tell(model: Path, training: str, bits: float) -> str:
    metrics = {"eval_bits_per_byte": bits}
    return outbox.evaluated(of(model, training), metrics, scored("text"), trial(bits))


def scores() -> dict[str, str | None]:
    """The score of each version, by its number."""
    found = client().search_model_versions(f"name = '{NAME}'")
    return {str(v.version): v.tags.get("eval_bits_per_byte") for v in found}


def test_results_go_to_the_run_of_their_settings(twins: dict[str, str], model: Path) -> None:
    tell(model, "first", 2.5)
    outbox.sampled(of(model, "first"), model / "config.json", SAMPLES)
    assert scores() == {"1": "2.5", "2": None}
    assert client().get_run(twins["first"]).data.metrics["eval_bits_per_byte"] == 2.5
    assert "eval_bits_per_byte" not in client().get_run(twins["second"]).data.metrics
    assert client().list_artifacts(twins["second"], "samples.json") == []
    assert [registry.summary(of(model, t))["version"] for t in ("first", "second")] == ["1", "2"]
    tell(model, "second", 2.4)
    assert scores() == {"1": "2.5", "2": "2.4"}
    # of a training that is not known here: the newest that has its weights
    assert registry.summary(identity(model))["version"] == "2"
    assert registry.summary(of(model, "settings that were edited since"))["version"] == "2"


def test_results_of_a_deleted_run_go_to_its_version(twins: dict[str, str], model: Path) -> None:
    client().delete_run(twins["first"])
    tell(model, "first", 2.5)
    tell(model, "first", 2.3)  # again, to the run of their own
    assert scores() == {"1": "2.3", "2": None}
    assert "eval_bits_per_byte" not in client().get_run(twins["second"]).data.metrics
    assert len(runs()) == 2
    assert registry.summary(of(model, "first"))["version"] == "1"


def test_results_of_a_deleted_version_promote_no_other(twins: dict[str, str], model: Path) -> None:
    client().delete_model_version(NAME, "1")
    said = tell(model, "first", 2.5)
    assert said == "the weights are not registered, so there is nothing to promote"
    assert client().get_run(twins["first"]).data.metrics["eval_bits_per_byte"] == 2.5
    assert scores() == {"2": None}
    assert "champion" not in client().get_registered_model(NAME).aliases


def test_a_deleted_experiment_comes_back_with_its_runs(twins: dict[str, str], model: Path) -> None:
    found = client().get_experiment_by_name("plays")
    client().delete_experiment(found.experiment_id)
    assert registry.summary(of(model, "first")) == {}
    tell(model, "first", 2.5)
    assert client().get_run(twins["first"]).data.metrics["eval_bits_per_byte"] == 2.5
    assert len(runs()) == 2


def test_a_training_is_found_among_thousands_of_its_weights(
    twins: dict[str, str], model: Path
) -> None:
    found = client().get_run(twins["first"])
    place, weights = found.info.experiment_id, found.data.tags["weights_sha256"]
    others = [f"{number:032x}" for number in range(1100)]
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.executemany(  # newer, so these are listed first
            "INSERT INTO runs (run_uuid, status, start_time, user_id, lifecycle_stage,"
            " artifact_uri, experiment_id) VALUES (?, 'FINISHED', 9e12, '', 'active', '/at', ?)",
            [(run_id, place) for run_id in others],
        )
        connection.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
            [("weights_sha256", weights, run_id) for run_id in others],
        )
    assert len(client().search_runs([place])) == 1000
    tell(model, "first", 2.5)
    assert scores() == {"1": "2.5", "2": None}


def test_scores_of_both_wait_while_mlflow_is_away(
    twins: dict[str, str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "connect", away)
        tell(model, "first", 2.5)
        tell(model, "second", 2.4)
    assert all(result.done for result in outbox.deliver(60))
    assert scores() == {"1": "2.5", "2": "2.4"}


def away() -> None:
    raise ConnectionRefusedError


@pytest.mark.slow
def test_stages_know_the_training_by_its_settings(tokenized: Path, tmp_path: Path) -> None:
    """How often a training says how far it is changes no weight, and is another training."""
    shutil.copytree(tokenized, tmp_path / "recipe", symlinks=True)
    for interval in (1, 2, 1):
        told = {"download__corpus": "text/*.txt", "train__log_interval": interval}
        recipe = Recipe(tmp_path / "recipe", **told)
        recipe.run("train")
    recipe.run("eval")
    settings = load(recipe.folder / "params.yaml")
    known = identify(settings, recipe.folder)
    mlflow = MlflowClient(f"sqlite:///{recipe.folder}/mlflow.db")
    versions = mlflow.search_model_versions("name = 'nanogpt-test'")
    assert {v.tags["weights_sha256"] for v in versions} == {known.weights_sha256}
    (own,) = [v for v in versions if "eval_bits_per_byte" in v.tags]
    assert known.is_of(mlflow.get_run(own.run_id).data.tags)
    shutil.rmtree(recipe.data / "tokens")
    assert identify(settings, recipe.folder).lineage == {}
