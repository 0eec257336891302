"""What rebuilds of a registered version came to: the tag `reproduced` of the version.

known = about("models:/nanogpt-shakespeare@champion")
keep(known.model, "identical", "2026-11-26 12:00 UTC, AMD EPYC")
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanogpt.common.errors import NotNow, UserError
from nanogpt.tracking.client import usable
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions.names import Version, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "reproduced"
KEPT = 5  # verdicts, the newest first


@dataclass(frozen=True)
class Known:
    """A version, wherever its aliases are by then."""

    model: str  # models:/<name>/<version>
    val_loss: str | None  # nats a token, as it was registered
    verdicts: tuple[str, ...]  # the newest first


def about(model: str) -> Known:
    """What is known of a version.

    Raises:
        UserError: there is none.
        NotNow: MLflow does not answer.
    """
    found = _find(usable(), model)
    tags = found.about.tags
    return Known(found.uri, tags.get("val_loss"), tuple(tags.get(TAG, "").splitlines()))


def keep(model: str, verdict: str) -> None:
    """Keep one more verdict, a line.

    Raises:
        UserError: MLflow does not take it.
        NotNow: or not now.
    """
    client = usable()
    found = _find(client, model)
    older = found.about.tags.get(TAG, "").splitlines()
    text = "\n".join([verdict, *older][:KEPT])
    try:
        client.set_model_version_tag(found.name, found.number, TAG, text)
    except Exception as error:
        raise _refused(model, error) from None


def _find(client: "MlflowClient", model: str) -> Version:
    try:
        return resolve(client, model)
    except UserError:
        raise
    except Exception as error:
        raise _refused(model, error) from None


def _refused(model: str, error: Exception) -> UserError:
    trouble = explain(error)
    return (NotNow if trouble.passing else UserError)(f"{model}: {trouble}")
