"""What a rebuild came to: each output by its digests, and what all of it together says.

rows = compare(origin, copy, distance)              # a row for each output of each stage
verdict = judge(origin, rows, copy, distance)       # identical, equivalent or different
"""

import json
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from rich.markup import escape
from rich.table import Table

from pipelines.origin import Origin

APART = 0.003  # bits per byte: as far are trainings of one recipe on two kinds of machine
ORDER = ("check", "download", "tokenize", "train", "eval", "sample")
Distance = dict[str, Any]  # what `nanogpt differ` says of two models
Digests = dict[str, str]  # MD5 by name, seen from a folder; of the whole by ""


@dataclass(frozen=True)
class Row:
    """An output, and whether it has the bytes that were recorded."""

    stage: str
    out: str  # seen from the root
    same: bool | None  # None: of that stage nothing is recorded
    first: str = ""  # the first file that differs


@dataclass(frozen=True)
class Verdict:
    """What a rebuild came to."""

    word: str  # identical, equivalent, different
    why: str

    @property
    def code(self) -> int:
        """The exit code that it is."""
        return int(self.word == "different")

    def __str__(self) -> str:
        return f"{self.word}: {self.why}"


def compare(origin: Origin, copy: Path, distance: Distance | None) -> list[Row]:
    """Compare what stages wrote in `copy` with what is recorded, in the order in which they run.

    Args:
        distance: as `judge` takes it: the model is compared with that in MLflow, where the entry of
            the training is not recorded, which DVC writes later.
    """
    recorded, rows = origin.stages, []
    names = [*ORDER, *(name for name in recorded if name not in ORDER)]
    with Repo(str(copy)) as repo:
        for name in names:
            if name not in recorded and name == "train" and distance:
                odd = [*distance["files"], ""][0]
                rows.append(Row(name, (origin.data / "model").as_posix(), not odd, odd))
            elif name not in recorded:
                rows.append(Row(name, "", None))
            for out in recorded.get(name, {}).get("outs", []):
                found = digests(copy / out["path"])
                same = found.get("") == out.get("md5")
                first = "" if same else _first(found, tree(repo, str(out.get("md5"))))
                rows.append(Row(name, out["path"], same, first))
    return rows


def other_code(origin: Origin, lock: dict[str, Any]) -> list[str]:
    """Code that the stages in `lock` ran on, and that is not the recorded one; perhaps none."""
    found = []
    made = {out["path"] for stage in origin.stages.values() for out in stage.get("outs", [])}
    for name, stage in origin.stages.items():
        now = {dep["path"]: dep.get("md5") for dep in lock.get(name, {}).get("deps", [])}
        for dep in stage.get("deps", []):
            path = dep["path"]
            if path not in made and path in now and now[path] != dep.get("md5"):
                found.append(path)
    return list(dict.fromkeys(found))


def digests(path: Path) -> Digests:
    """The digests of a file or a folder, of its bytes as they are now, as DVC has them."""
    if not path.exists():
        return {}
    files = LocalFileSystem()
    nowhere = HashFileDB(files, str(path.parent), read_only=True)  # remembers nothing of before
    _, _, made = build(nowhere, str(path), files, "md5", dry_run=True)
    parts = {"/".join(key): info.value for key, _, info in made} if isinstance(made, Tree) else {}
    return {"": made.hash_info.value, **parts}


def tree(repo: Any, md5: str) -> Digests:
    """What DVC's cache knows of a folder by its digest; perhaps nothing."""
    if not md5.endswith(".dir"):
        return {}
    try:
        tree = Tree.load(repo.cache.local, HashInfo("md5", md5))
    except (FileNotFoundError, ObjectFormatError):
        return {}
    return {"/".join(key): info.value for key, _, info in tree}


def _first(found: Digests, recorded: Digests) -> str:
    """The first file of a folder that differs."""
    if not found:
        return "was not made"
    names = sorted((found.keys() | recorded.keys()) - {""}) if recorded else []
    return next((name for name in names if found.get(name) != recorded.get(name)), "")


def wrong_input(origin: Origin, data: Path) -> str | None:
    """The first file of the text, the vocabulary or the base that is another one than was recorded.

    All of them are read: what lies in a cache may be damaged.
    """
    sources, digests = origin.record.sources, origin.record.digests
    corpus, base = sources.get("corpus") or {}, sources.get("base") or {}
    vocabulary = (sources.get("vocabulary") or {}).get("files", ())
    for folder, wanted, known in (
        ("raw", digests.corpus, [*corpus.get("files", ()), *vocabulary]),
        ("base", digests.base, base.get("files", ())),
    ):
        try:
            manifest = json.loads((data / folder / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return f"{folder}/manifest.json"
        listed = [*manifest["files"], *((manifest.get("vocabulary") or {}).get("files", ()))]
        for file in (*listed, *known):
            if _sha256(data / folder / file["name"]) != file["sha256"]:
                return f"{folder}/{file['name']}"
        if manifest["digest"] != wanted:
            return f"{folder}/manifest.json"
    return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def judge(origin: Origin, rows: list[Row], copy: Path, distance: Distance | None) -> Verdict:
    """What a rebuild came to.

    Args:
        rows: of all outputs.
        distance: of the version from the rebuilt model; None: MLflow has its files no more.
    """
    recorded = origin.record.digests
    if distance and distance["weights"][0] != recorded.weights:
        return Verdict("different", "the weights in MLflow are not those that were recorded")
    weights = _sha256(copy / origin.data / "model" / "model.safetensors")
    odd = next((row for row in rows if row.same is False), None)
    where = f"{odd.stage} is the first stage that differs, in {_file(odd)}" if odd else ""
    if not odd and distance and distance["files"]:
        where = f"train is the first stage that differs, in model/{distance['files'][0]}"
    if weights == recorded.weights:
        if where:
            return Verdict("equivalent", f"the weights have the same bytes; {where}")
        unknown = [row.stage for row in rows if row.same is None]
        but = f"; nothing is recorded of {', '.join(unknown)}" if unknown else ""
        return Verdict("identical", f"the same bytes, stage by stage{but}")
    where = where or "the weights differ"
    if distance:
        before, now = distance["bits_per_byte"]
        where += (
            f"; the weights are at most {distance['max_abs']:.2g} apart, by norm"
            f" {100 * distance['relative']:.2g} %"
        )
    else:
        now = json.loads((copy / origin.data / "train.json").read_bytes())["val_bits_per_byte"]
        if origin.bits is None:
            return Verdict("different", f"{where}; its score is not recorded, its weights are gone")
        before = origin.bits
    word = "equivalent" if abs(now - before) <= APART else "different"
    scores = f"validation {now:.4f} bits per byte, and {before:.4f} before"
    return Verdict(word, f"{where}; {scores}: {abs(now - before):.4f} apart")


def _file(row: Row) -> str:
    return f"{row.out}/{row.first}" if row.first and row.first != "was not made" else row.out


def table(model: str, rows: list[Row]) -> Table:
    """The rows, for a person."""
    made = Table(title=f"{model}, built again", title_justify="left")
    for name in ("stage", "output", ""):
        made.add_column(name, overflow="fold")
    last = ""
    for row in rows:
        said = {True: "same bytes", False: "differs", None: "not recorded"}[row.same]
        if row.first:
            said += f": {row.first}"
        stage = row.stage if row.stage != last else ""
        made.add_row(stage, escape(row.out), escape(said))
        last = row.stage
    return made
