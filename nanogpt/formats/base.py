"""The base model as the download stage brought it: `data/<recipe>/base`, which may hold none.

base = open_base(Path("data/finetune_shakespeare/base"))
if base.name:
    print(base.digest)
"""

from pathlib import Path

from pydantic import Field

from nanogpt.common.manifest import File, Manifest, read_manifest


class Base(Manifest):
    """Its manifest; all is null where no base was asked for."""

    name: str | None  # as the settings give it
    source: str | None = None
    licence: str | None = None
    hub_id: str | None = None  # by which the hub knows it, wherever it came from
    files: tuple[File, ...] = ()
    digest: str | None = None  # SHA-256 of the list of files
    # MLflow's version that it is, if it is one
    lineage: dict[str, str | None] = Field(default_factory=dict)


def open_base(folder: Path) -> Base:
    """The manifest of what the download stage made of `download.base`.

    Raises:
        UserError: it is not there, or damaged.
    """
    return read_manifest(folder, Base, "download")
