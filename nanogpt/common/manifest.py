"""What a stage says about the folder that it made: `manifest.json`, in a form of its own each."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nanogpt.common.errors import UserError


class Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class File(Manifest):
    """A file of a folder, seen from it."""

    name: str
    bytes: int
    sha256: str


M = TypeVar("M", bound=Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write folder/manifest.json; the same values always give the same bytes."""
    values: dict[str, Any] = manifest.model_dump(mode="json")
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8", newline="\n")


def read_manifest(folder: Path, kind: type[M], stage: str) -> M:
    """Read what the stage of this name said about `folder`.

    Raises:
        UserError: there is no manifest, or it is not of this kind.
    """
    path = folder / "manifest.json"
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the {stage} stage first") from None
    except ValidationError:
        raise UserError(
            f"{path} is not a manifest of the {stage} stage; run that stage again"
        ) from None


def check_sizes(folder: Path, sizes: dict[str, int], stage: str) -> None:
    """Compare files with the sizes in bytes that a manifest gives.

    Raises:
        UserError: a file is missing or of another size.
    """
    for name, size in sizes.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "missing" if actual is None else f"{actual:,} bytes long, not {size:,}"
            raise UserError(f"{path} is {found}; run the {stage} stage again")
