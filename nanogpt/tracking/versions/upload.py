"""A model directory → a logged model of MLflow, with the code that serves it and no pickle."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.common.secrets import public
from nanogpt.tracking import datasets
from nanogpt.tracking.client import every, patient

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUIREMENTS = (  # to serve
    "fonttools",
    "gguf",
    "jinja2",
    "mlflow",
    "numpy",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "tiktoken",
    "tokenizers",
    "torch",
    "tqdm",
)
# tags of a run that its model has too: by whom it was made, and by what
MADE = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
SAMPLING = {
    "temperature": "double",
    "top_k": "long",
    "top_p": "double",
    "min_p": "double",
    "repetition_penalty": "double",
    "stop": "string",
    "tokens": "long",
    "seed": "long",
}


def upload(
    client: "MlflowClient",
    run_id: str,
    name: str,
    folder: Path,
    step: int,
    tags: Mapping[str, str],
    sampling: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> str:
    """Upload a model directory once, with the code that loads it and without any pickle.

    Args:
        dataset: that the validation at `step`, which chose these weights, was of.

    Returns:
        The model's id.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    query = f"source_run_id = '{run_id}'"
    for model in [*every(client.search_logged_models, [experiment_id], query)]:
        if model.tags.get("weights_sha256") == tags["weights_sha256"]:
            if model.status == "READY":
                return str(model.model_id)
            client.delete_logged_model(model.model_id)  # its upload was cut off
    made = {key: run.data.tags[key] for key in MADE if key in run.data.tags}
    model = client.create_logged_model(
        experiment_id, name, run_id, made | dict(tags), run.data.params
    )
    model_id = str(model.model_id)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    _log_validation(client, run_id, model_id, step, dataset)

    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # MLflow knows no null
    values = {key: off.get(key) if sampling[key] is None else sampling[key] for key in SAMPLING}
    text = Schema([ColSpec("string")])
    schema = ParamSchema(
        [
            ParamSpec(key, kind, values[key], (-1,) if isinstance(values[key], list) else None)
            for key, kind in SAMPLING.items()
        ]
    )
    # not by `Model.log`: it gives the model all metrics of the step, and none its data set, and
    # would load the model and generate, to see whether the example can be served
    with tempfile.TemporaryDirectory() as place:
        mlflow.pyfunc.save_model(
            saved := Path(place, "model"),
            mlflow_model=Model(
                model.artifact_location, run_id, model_uuid=model_id, model_id=model_id
            ),
            loader_module="nanogpt.serving.pyfunc",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[2])],
            signature=ModelSignature(text, text, schema),
            input_example=[public(sampling["prompt"])],
            # given, so that mlflow does not load the model in another process to find them out
            pip_requirements=[f"{lib}=={importlib.metadata.version(lib)}" for lib in REQUIREMENTS],
        )
        for compiled in saved.rglob("__pycache__"):
            shutil.rmtree(compiled)
        largest = max(path.stat().st_size for path in saved.rglob("*"))
        with patient(largest):
            client.log_model_artifacts(model_id, str(saved))
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _log_validation(
    client: "MlflowClient", run_id: str, model_id: str, step: int, dataset: Mapping[str, Any]
) -> None:
    """Give a model the validation of its step, as its run has it."""
    from mlflow.entities import Metric

    points = [
        point
        for key in ("val_loss", "val_bits_per_byte")
        for point in client.get_metric_history(run_id, key)
        if point.step == step
    ]
    data = datasets.reference(dataset)
    metrics = [Metric(p.key, p.value, p.timestamp, p.step, model_id, **data) for p in points]
    client.log_batch(run_id, metrics)
