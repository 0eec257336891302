"""Where a model comes from, and what was made from something.

nanogpt lineage models:/nanogpt-shakespeare@champion
nanogpt lineage models:/nanogpt-shakespeare/3 --json --out lineage-of-3
"""

import json
import shutil
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_folder
from nanogpt.tracking.versions import ancestors
from nanogpt.tracking.versions.ancestors import Found
from nanogpt.tracking.versions.record import RECORD


def show(model: str, out: Path | None, as_json: bool) -> None:
    """Print where a model comes from; with `out` write its record and all that belongs to it.

    Raises:
        UserError: there is no such model, or no record of it; `out` is something else's.
    """
    if out and out.exists() and not (out / RECORD).exists() and (out.is_file() or any_in(out)):
        raise UserError(f"--out {out} is not empty, and holds no {RECORD}; name another folder")
    with ancestors.of(model) as found:
        if out:
            with whole_folder(out.absolute()) as new:
                shutil.copytree(found.folder, new, dirs_exist_ok=True)
        if as_json:
            print(json.dumps(as_values(found), indent=1, ensure_ascii=False))


def as_values(found: Found) -> dict[str, object]:
    """The record, and with it under `of` which version and run it is of."""
    where = {"name": found.name, "version": found.version, "run_id": found.run_id}
    return found.record.model_dump(mode="json") | {"of": where}


def any_in(folder: Path) -> bool:
    return any(folder.iterdir())
