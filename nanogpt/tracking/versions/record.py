"""The record of a training: all that decided its bytes, as artifacts of its run under `lineage/`.

    begin(folder, settings, tokens, base, facts, resumes)   # when a training starts, or goes on
    tags = complete(folder, model)                          # when its model is published
    record = load(folder)

The folder holds record.json, params.yaml (the settings as they were), dvc.lock (the stages that are
known; later stages add theirs) and, if files differed from the commit, code.diff. Of one's own
files there are names and digests, and not where they lay.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files, whole_folder, write_text
from nanogpt.common.manifest import File, Manifest, read_manifest
from nanogpt.common.secrets import holds_secret, public, without_folder
from nanogpt.formats.base import Base
from nanogpt.formats.weights import weights_sha256
from nanogpt.settings import Settings
from nanogpt.text.raw import Raw
from nanogpt.text.tokens import Tokens
from nanogpt.tracking import code, lock, surroundings
from nanogpt.tracking.surroundings import Machine, Surroundings

log = logging.getLogger(__name__)

OLDER = "it was begun by code that recorded nothing"
RECORD, PARAMS, LOCK = "record.json", "params.yaml", "dvc.lock"


class Code(Manifest):
    """What code ran; `missing` says why the commit or the diff is not known."""

    commit: str | None = None
    dirty: bool | None = None
    diff_sha256: str | None = None  # of code.diff; of code-2.diff in the second place, and so on
    missing: str | None = None


class Digests(Manifest):
    """SHA-256 of what the model was made of, and of the model."""

    weights: str | None = None
    model: str | None = None  # of the list of its files
    tokenizer: str
    tokens: str
    corpus: str
    base: str | None
    requirements: str | None  # of requirements.lock


class Corpus(Manifest):
    name: str
    digest: str
    licence: str | None = None
    source: str | None = None
    files: tuple[File, ...] = ()
    missing: str | None = None  # why only its name and digest are known


class Vocabulary(Manifest):
    name: str
    source: str
    files: tuple[File, ...]


class Sources(Manifest):
    corpus: Corpus
    vocabulary: Vocabulary | None
    base: Base | None


class Record(Manifest):
    format: Literal[1] = 1
    recipe: str
    params_path: str  # of its params.yaml, seen from the repository's root
    code: tuple[Code, ...]  # several if a training that went on saw other code
    digests: Digests
    sources: Sources
    machine: Machine
    packages: dict[str, str]
    python: str
    resumed: tuple[Surroundings, ...] = ()  # other than the first, where it went on


def begin(
    folder: Path,
    settings: Settings,
    tokens: Tokens,
    base: Base,
    facts: Mapping[str, Any],
    resumes: bool,
) -> None:
    """Write what is known when a training starts; of one that goes on, what is new.

    Args:
        folder: of the record; it appears, or is replaced, whole.
        facts: how this training is run: `World.facts`, and `parallel`.
        resumes: whether the training goes on from a save, whose record stays.
    """
    recipe = Path(settings.params).parent
    seen, around = code.look(recipe), surroundings.look(facts)
    if resumes and (folder / RECORD).exists():
        _go_on(folder, seen, around)
        return
    before = (Code(missing=OLDER),) if resumes else ()
    sources = Sources(
        corpus=_corpus(settings, tokens),
        vocabulary=_vocabulary(settings, tokens),
        base=_base(base),
    )
    requirements = Path("requirements.lock")
    record = Record(
        recipe=settings.recipe,
        params_path=settings.params,
        code=(*before, _code(seen)),
        digests=Digests(
            tokenizer=tokens.manifest.tokenizer_sha256,
            tokens=tokens.digest,
            corpus=tokens.manifest.corpus_digest,
            base=base.digest,
            requirements=_sha256(requirements.read_bytes()) if requirements.exists() else None,
        ),
        sources=sources,
        **dict(around),
    )
    stages = lock.before_training(lock.read(settings.lock), tokens.folder)
    with whole_folder(folder) as new:
        (new / RECORD).write_text(_json(record), encoding="utf-8")
        (new / PARAMS).write_text(_params(Path(settings.params)), encoding="utf-8")
        if stages:
            (new / LOCK).write_text(lock.dump(stages), encoding="utf-8")
        if seen.diff:
            (new / diff_name(len(before))).write_bytes(seen.diff)


def _go_on(folder: Path, seen: code.Seen, around: Surroundings) -> None:
    """Add what differs from where this training was at work before."""
    record = load(folder)
    if _code(seen) != record.code[-1]:
        if seen.diff:
            (folder / diff_name(len(record.code))).write_bytes(seen.diff)
        record = record.model_copy(update={"code": (*record.code, _code(seen))})
    before = Surroundings(machine=record.machine, packages=record.packages, python=record.python)
    if around != [before, *record.resumed][-1]:
        record = record.model_copy(update={"resumed": (*record.resumed, around)})
    write_text(folder / RECORD, _json(record))


def complete(folder: Path, model: Path) -> dict[str, str]:
    """Add the digests of the model directory that the training has published.

    Returns:
        Tags of its version, by which it is searched for.
    """
    if not (folder / RECORD).exists():
        log.warning("this training has no record of what it comes from: %s", OLDER)
        return {}
    record = load(folder)
    made = {"weights": weights_sha256(model), "model": digest_files(list_files(model))}
    record = record.model_copy(update={"digests": record.digests.model_copy(update=made)})
    write_text(folder / RECORD, _json(record))
    return version_tags(record)


def load(folder: Path) -> Record:
    """Read the record in a folder.

    Raises:
        UserError: there is none, or it is damaged or of a newer version of this code.
    """
    path = folder / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{path} is damaged, or of another version of this code ({where}: "
            f"{error.errors()[0]['msg']})"
        ) from None


def diff_name(number: int) -> str:
    """The file of the diff of a record's code, by its place there."""
    return f"code-{number + 1}.diff" if number else "code.diff"


def version_tags(record: Record) -> dict[str, str]:
    """Tags of a version by which it is found."""
    found = {f"{key}_sha256": value for key, value in record.digests}
    found["corpus"] = record.sources.corpus.name
    if record.sources.base and (lineage := record.sources.base.lineage):
        found["base_registered"] = f"models:/{lineage['model']}/{lineage['version']}"
    first = record.code[0]
    found["git_commit"] = first.commit
    found["git_dirty"] = None if first.dirty is None else str(first.dirty).lower()
    return {key: value for key, value in found.items() if value}


def run_tags(folder: Path) -> dict[str, str]:
    """Tags of a run: the commit by the name that MLflow's pages know, and the digests."""
    if not (folder / RECORD).exists():
        return {}
    record = load(folder)
    last, found = record.code[-1], version_tags(record)
    digests = {key: value for key, value in found.items() if key.endswith("_sha256")}
    return code.Seen(last.commit, last.dirty, missing=last.missing).tags() | digests


def _code(seen: code.Seen) -> Code:
    diff = _sha256(seen.diff) if seen.diff else None
    return Code(commit=seen.commit, dirty=seen.dirty, diff_sha256=diff, missing=seen.missing)


def _raw(settings: Settings, tokens: Tokens) -> Raw | None:
    """What `download` said of the text of these tokens, if that is here."""
    try:
        raw = read_manifest(settings.path("raw"), Raw, "download")
    except UserError:
        return None
    return raw if raw.digest == tokens.manifest.corpus_digest else None


def _corpus(settings: Settings, tokens: Tokens) -> Corpus:
    name, digest = tokens.manifest.shown, tokens.manifest.corpus_digest
    if raw := _raw(settings, tokens):
        return Corpus(
            name=name,
            digest=digest,
            licence=raw.licence,
            source=", ".join(without_folder(part.source) for part in raw.parts),
            files=raw.files,
        )
    missing = f"{settings.path('raw')} is not here, or is another text: only these tokens are"
    log.warning("the record of this training names no source of its text: %s", missing)
    return Corpus(name=name, digest=digest, missing=missing)


def _vocabulary(settings: Settings, tokens: Tokens) -> Vocabulary | None:
    raw = _raw(settings, tokens)
    if raw is None or raw.vocabulary is None:
        return None
    return Vocabulary(**dict(raw.vocabulary))


def _base(base: Base) -> Base | None:
    if base.name is None:
        return None
    names = {"name": base.name, "source": base.source or ""}
    return base.model_copy(update={key: without_folder(value) for key, value in names.items()})


def _params(path: Path) -> str:
    """The settings' file; credentials in an address are no settings, and are not kept."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [public(line) if holds_secret(line) else line for line in lines]
    if kept != lines:
        log.warning("the record of this training has %s without the passwords in it", path)
    return "".join(kept)


def _json(record: Record) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
