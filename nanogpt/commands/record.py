"""What an export wrote into a folder, so that the next one removes that and nothing else.

check_free(Path("out"), "hf")        # before the work, and again before its place is taken
keep(folder, "hf")                   # in the folder that is to be there
"""

from pathlib import Path

from pydantic import ValidationError

from nanogpt.common.errors import UserError
from nanogpt.common.files import describe, list_files, write_text
from nanogpt.common.manifest import File, Manifest

RECORD = ".nanogpt-export.json"


class Record(Manifest):
    format: str
    files: tuple[File, ...]


def check_free(out: Path, format: str, name: str | None = None) -> None:
    """Refuse to remove what no export of this format wrote, or what was changed since.

    Args:
        name: of the only file that is to be written; all others stay.

    Raises:
        UserError: `out` holds such a thing, or is one.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise UserError(f"--out {out} is no folder; name another")
    record = _read(out)
    if record and record.format != format:
        raise UserError(f"--out {out} holds an export to {record.format}; name another folder")
    known = {file.name: file for file in record.files} if record else {}
    folders = {parent.as_posix() for file in known for parent in Path(file).parents}
    for path in [out / name] if name else sorted(out.rglob("*")):
        seen = path.relative_to(out).as_posix()
        if path.is_dir() and not path.is_symlink():
            ours = seen in folders
        elif seen == RECORD:
            ours = record is not None
        elif path.is_symlink():
            ours = False
        else:  # of one name, it may be absent
            file = known.get(seen)
            ours = not path.exists() or (
                file is not None
                and path.stat().st_size == file.bytes
                and describe(out, seen) == file
            )
        if not ours:
            raise UserError(
                f"--out {out} holds {seen}, which no export wrote, or which was changed since;"
                " name another folder, or remove it yourself"
            )


def keep(folder: Path, format: str, name: str | None = None) -> None:
    """Write the record of a folder: of all that is in it, or of one more file."""
    record = _read(folder) if name else None
    others = [file for file in (record.files if record else ()) if file.name != name]
    files = [*others, describe(folder, name)] if name else list_files(folder)
    about = Record(format=format, files=tuple(files))
    write_text(folder / RECORD, about.model_dump_json(indent=1) + "\n")


def _read(folder: Path) -> Record | None:
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
