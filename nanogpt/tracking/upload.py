"""A model directory → a logged model of MLflow, with the code that serves it and no pickle."""

import importlib.metadata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.tracking.client import every

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUIREMENTS = (  # to serve
    "gguf",
    "mlflow",
    "numpy",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "tiktoken",
    "tokenizers",
    "torch",
)
SAMPLING = {
    "temperature": "double",
    "top_k": "long",
    "top_p": "double",
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
) -> str:
    """Upload a model directory once, with the code that loads it and without any pickle.

    Returns:
        The model's id.
    """
    import mlflow.pyfunc
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
    model = client.create_logged_model(experiment_id, name, run_id, dict(tags), run.data.params)

    off = {"top_k": 0, "top_p": 1.0}  # MLflow knows no null
    values = {key: off.get(key) if sampling[key] is None else sampling[key] for key in SAMPLING}
    text = Schema([ColSpec("string")])
    schema = ParamSchema([ParamSpec(key, kind, values[key]) for key, kind in SAMPLING.items()])
    with warnings.catch_warnings():
        # with an example mlflow would load the model and generate, to see whether it can
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        Model.log(
            None,
            mlflow.pyfunc,
            model_id=model.model_id,
            run_id=run_id,
            step=step,
            loader_module="nanogpt.serving.pyfunc",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[1])],
            signature=ModelSignature(text, text, schema),
            # given, so that mlflow does not load the model in another process to find them out
            pip_requirements=[f"{lib}=={importlib.metadata.version(lib)}" for lib in REQUIREMENTS],
        )
    return str(model.model_id)
