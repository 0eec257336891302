"""In which fields of a corpus its text stands, or its conversations, and what goes with those."""

import csv
import glob
import gzip
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import zstandard

# what there is to say of a file that cannot be read, `check` and `download` say; RuntimeError is of
# texts that are nested too deep, and of what pyarrow does not do
UNREADABLE = OSError, EOFError, ValueError, RuntimeError, StopIteration, csv.Error
READ = {".json", ".jsonl", ".csv", ".parquet"}  # kinds of files that may hold conversations
TALKS = {"train.loss_on": "assistant", "train.packing": "documents"}


def of_field(field: Any) -> dict[str, Any]:
    """Settings for a field that is named, as in params.yaml."""
    talks = isinstance(field, dict) or field in ("messages", ["prompt", "completion"])
    return {"download.text_field": field} | (TALKS if talks else {})


def looked_up(corpus: str) -> dict[str, Any]:
    """Settings for files that are here, if the first of them holds conversations; else none."""
    path = Path(corpus.removeprefix("file:")).expanduser()
    # brackets in the name of what is there are no pattern, as to `download`
    named = glob.escape(str(path)) if path.exists() else str(path)
    inside = os.path.join(named, "**") if path.is_dir() else named
    for name in sorted(filter(os.path.isfile, glob.glob(inside, recursive=True))):
        if (field := _talks(_first(Path(name)))) is not None:
            return of_field(field)
        if READ & {*_kinds(name)}:
            break
    return {}


def _talks(document: Mapping[str, Any]) -> Any:
    """The fields in which a document has a conversation, as `download.text_field` names them."""
    if isinstance(document.get("messages"), list):
        return "messages"
    if isinstance(document.get("conversations"), list):  # as ShareGPT's data sets call it
        return {"messages": "conversations"}
    if {"prompt", "completion"} <= document.keys():
        return ["prompt", "completion"]
    return None


def _kinds(name: str) -> list[str]:
    """What a file's name says of its kind, such as .jsonl and .gz; in any case, as a corpus may."""
    return Path(name.lower()).suffixes[-2:]


def _opened(path: Path, kind: list[str]) -> BufferedReader | gzip.GzipFile:
    if kind == [".zst"]:
        return BufferedReader(zstandard.open(path, "rb"))  # it reads no lines itself
    return gzip.open(path) if kind == [".gz"] else path.open("rb")


def _first(path: Path) -> Mapping[str, Any]:
    """The first document of a file; nothing if it cannot be read, as told later."""
    kinds, most = _kinds(path.name), 1 << 22
    found: Any = {}
    with suppress(*UNREADABLE, zstandard.ZstdError):
        if ".parquet" in kinds:
            from pyarrow.parquet import ParquetFile  # only who needs it waits for it

            (found,) = next(ParquetFile(path).iter_batches(1)).to_pylist()
            return dict(found)
        with _opened(path, kinds[-1:]) as file:
            # a line of any length is read no further than this
            lines = (line for line in iter(lambda: file.readline(most), b"") if line.strip())
            if ".jsonl" in kinds:
                found = json.loads(next(lines).decode("utf-8-sig"))
            elif ".json" in kinds:
                text = file.read(most).decode("utf-8-sig", "ignore").lstrip(" \t\r\n[")
                found, _ = json.JSONDecoder().raw_decode(text)
            elif ".csv" in kinds:
                found = dict.fromkeys(next(csv.reader([next(lines).decode("utf-8-sig")])))
    return found if isinstance(found, dict) else {}
