"""What a training leaves in its folder and in MLflow: whole, and to be compared."""

import csv
import json
from typing import Any

from mlflow import MlflowClient
from safetensors.torch import load_file

from nanogpt.formats.weights import load_model
from tests.kit.recipes import Recipe


def every_file_is_readable(recipe: Recipe) -> None:
    """Every file and folder that does not say it is partial is whole."""
    for path in recipe.folder.glob("data/**/*"):
        if path.is_dir() or ".partial" in str(path):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().split("\n")[:-1]:
                json.loads(line)
        elif path.suffix == ".safetensors":
            assert load_file(path)
        elif path.suffix == ".csv":
            assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) == 1
    for save in recipe.data.glob("state/*/save-????????"):
        if ".partial" in str(save):  # what was being removed
            continue
        assert (save / "progress.json").exists(), save
        assert list(save.glob("*.safetensors")), save
    if (recipe.data / "model").exists():
        load_model(recipe.data / "model")


def everything(recipe: Recipe) -> dict[str, bytes]:
    """What a training leaves behind, but for its duration and what it resumes from."""
    return {
        str(path.relative_to(recipe.folder)): path.read_bytes()
        for path in recipe.folder.glob("data/**/*")
        if path.is_file() and path.name != "seconds.json" and "state" not in path.parts
    }


def tracked(recipe: Recipe) -> dict[str, Any]:
    """What MLflow has of the one run: status, versions, and the values of each curve."""
    client = MlflowClient(f"sqlite:///{recipe.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions("name = 'nanogpt-test'")
    ours = ("train_loss", "val_loss", "learning_rate", "grad_norm", "skipped_steps")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "versions": [(v.version, v.run_id == run.info.run_id, v.tags) for v in versions],
        "candidate": client.get_model_version_by_alias("nanogpt-test", "candidate").version,
    } | {
        key: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]
        for key in ours
    }
