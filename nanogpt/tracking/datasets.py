"""Splits of a corpus as the data sets that MLflow lists, and that metrics belong to.

about = describe(tokens, "val")     # plain data: it waits in the outbox with the rest
about = profile(tokens)
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanogpt.common.secrets import public
from nanogpt.text.checks.profile import label
from nanogpt.text.tokens import Name, Tokens

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

DIGEST, NAME = 36, 500  # characters, MLflow's limits


def describe(tokens: Tokens, name: Name) -> dict[str, Any]:
    """A split's `name`, `digest` (of its text), `source`, and its sizes.

    MLflow keeps what was first said of a name and a digest: so nothing of the vocabulary.
    """
    split = tokens.manifest.splits[name]
    return {
        "name": f"{tokens.manifest.corpus}, {name}",
        "digest": split.text_sha256,
        "source": tokens.manifest.corpus,
        "documents": split.documents,
        "bytes": split.bytes,
    }


def profile(tokens: Tokens) -> dict[str, Any]:
    """The whole corpus as these tokens are, with its profile.

    Flat, as MLflow's pages cut what is nested after 80 characters.
    """
    manifest, known = tokens.manifest, tokens.manifest.profile
    total = sum(split.tokens for split in manifest.splits.values())
    size = sum(split.bytes for split in manifest.splits.values())
    counted = sum(split.counted for split in manifest.splits.values())
    found: dict[str, Any] = {
        "name": manifest.corpus,
        "digest": tokens.digest,
        "source": manifest.corpus,
        "documents": sum(split.documents for split in manifest.splits.values()),
        "bytes": size,
        "tokens": total,
        "bytes_per_token": round(size / max(1, counted), 3),
        "characters": known.characters,
        "copies_left_out": known.copies,
    }
    if known.near_copies is not None:
        found["near_copies"] = known.near_copies
    found |= {f"{name}_characters": count for name, count in known.scripts.items()}
    found |= {
        f"documents_of_{label(i)}_{unit}": count
        for unit, counts in (("bytes", known.sizes), ("tokens", known.lengths))
        for i, count in enumerate(counts)
        if count
    }
    found |= {f"documents_with_{kind}": noted.texts for kind, noted in known.odd.items()}
    found |= {f"documents_skipped,_{kind}": noted.texts for kind, noted in known.skipped.items()}
    for name in ("replaced", "unknown", "changed"):
        if count := getattr(known, name):
            found[name] = count
    return found


def as_input(dataset: Mapping[str, Any], use: str) -> "DatasetInput":
    """A data set as an input of a run; `use` is training, validation, evaluation or corpus."""
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
