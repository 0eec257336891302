"""What rebuilds of a registered version came to: the tag `reproduced` of the version.

known = about("models:/nanogpt-shakespeare@champion")
keep(known.model, "identical", "2026-11-26 12:00 UTC, AMD EPYC")
"""

from dataclasses import dataclass

from nanogpt.tracking.client import asking, usable
from nanogpt.tracking.versions.names import look_up, resolve

TAG = "reproduced"
KEPT = 5  # verdicts, the newest first


@dataclass(frozen=True)
class Known:
    """A version, wherever its aliases are by then."""

    model: str  # models:/<name>/<version>
    val_bits_per_byte: str | None  # as it was registered
    verdicts: tuple[str, ...]  # the newest first


def about(model: str) -> Known:
    """What is known of a version.

    Raises:
        UserError: there is none.
        NotNow: MLflow does not answer.
    """
    found = look_up(model)
    tags = found.about.tags
    return Known(found.uri, tags.get("val_bits_per_byte"), tuple(tags.get(TAG, "").splitlines()))


def keep(model: str, verdict: str) -> None:
    """Keep one more verdict, a line.

    Raises:
        UserError: MLflow does not take it.
        NotNow: or not now.
    """
    client = usable()
    with asking(model):
        found = resolve(client, model)
        older = found.about.tags.get(TAG, "").splitlines()
        text = "\n".join([verdict, *older][:KEPT])
        client.set_model_version_tag(found.name, found.number, TAG, text)
