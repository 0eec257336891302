"""Splits of a corpus as the data sets that MLflow lists, and that metrics belong to.

about = describe(tokens, "val")     # plain data: it waits in the outbox with the rest
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanogpt.common.secrets import public
from nanogpt.text.tokens import Name, Tokens

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

DIGEST, NAME = 36, 500  # characters, MLflow's limits


def describe(tokens: Tokens, name: Name) -> dict[str, Any]:
    """A split's `name`, `digest` (of its text), `source`, and its sizes."""
    split = tokens.manifest.splits[name]
    return {
        "name": f"{tokens.manifest.corpus}, {name}",
        "digest": split.text_sha256,
        "source": tokens.manifest.corpus,
        "tokens": split.tokens,
        "documents": split.documents,
        "bytes": split.bytes,
    }


def as_input(dataset: Mapping[str, Any], use: str) -> "DatasetInput":
    """A data set as an input of a run; `use` is training, validation or evaluation."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    sizes = {k: v for k, v in dataset.items() if k not in ("name", "digest", "source")}
    known = reference(dataset)
    entity = Dataset(
        known["dataset_name"],
        known["dataset_digest"],
        source_type="corpus",
        source=json.dumps({"uri": public(dataset["source"])}),
        profile=json.dumps(sizes),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", use)])


def reference(dataset: Mapping[str, Any]) -> dict[str, str]:
    """What a metric says of the data set that it is of."""
    return {
        "dataset_name": public(dataset["name"])[-NAME:],
        "dataset_digest": dataset["digest"][:DIGEST],
    }
