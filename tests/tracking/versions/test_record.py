"""What is written down when a training starts, goes on, and has published."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogpt.common.errors import UserError
from nanogpt.formats.base import open_base
from nanogpt.settings import Settings, load
from nanogpt.text.tokens import open_tokens
from nanogpt.tracking import outbox
from nanogpt.tracking.run import RECORDS
from nanogpt.tracking.versions import record
from tests.kit.checkouts import commit, git
from tests.kit.front import Front
from tests.kit.recipes import QUICK, values
from tests.kit.trainings import begin, client, registration, runs

FACTS = {
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "deterministic": True,
    "processes": 1,
    "threads": 1,
    "parallel": "auto",
}


@pytest.fixture
def settings(root: Path, tokenized: Path) -> Settings:
    """A recipe with its tokens, in a checkout with one commit; the current folder."""
    shutil.copytree(tokenized / "data", root / "data")
    (root / "nanogpt").mkdir()
    (root / "nanogpt/__init__.py").touch()
    (root / "requirements.lock").write_text("torch==2.13.0\n")
    (root / ".gitignore").write_text("data\nmlflow.db*\nmlruns\nstate\n.dvc\n")
    changes: dict[str, Any] = QUICK | {"download__corpus": "text/*.txt"}
    (root / "params.yaml").write_text(yaml.safe_dump(values(data="data/test", **changes)))
    git(root, "init", "--quiet")
    commit(root)
    (root / "state").mkdir()
    return load("params.yaml")


def start(settings: Settings, resumes: bool = False, **facts: Any) -> record.Record:
    tokens, base = open_tokens(settings.path("tokens")), open_base(settings.path("base"))
    folder = Path("state", RECORDS)
    record.begin(folder, settings, tokens, base, FACTS | facts, resumes)
    return record.load(folder)


def head() -> str:
    return git(Path(), "rev-parse", "HEAD").strip()


def test_all_that_decides_the_bytes_is_recorded(settings: Settings, model: Path) -> None:
    found = start(settings)
    raw = json.loads((settings.path("raw") / "manifest.json").read_text())
    assert found.code == (record.Code(commit=head(), dirty=False),)
    assert found.digests.corpus == found.sources.corpus.digest == raw["digest"]
    assert [file.sha256 for file in found.sources.corpus.files] == [
        file["sha256"] for file in raw["files"]
    ]
    assert found.machine.threads == 1
    assert found.packages["mlflow"]
    assert (found.digests.weights, found.digests.base) == (None, None)
    tags = record.complete(Path("state", RECORDS), model)
    assert record.load(Path("state", RECORDS)).digests.weights == tags["weights_sha256"]
    assert tags["git_commit"] == head()
    assert {key for key in tags if key.endswith("_sha256")} == {
        f"{key}_sha256"
        for key in ("weights", "model", "tokenizer", "tokens", "corpus", "requirements")
    }
    assert all(isinstance(tag, str) for tag in tags.values())


def test_a_training_that_goes_on_adds_what_is_new(settings: Settings) -> None:
    first = start(settings)
    assert start(settings, resumes=True) == first
    Path("nanogpt/new.py").write_text("one = 1\n")
    other = start(settings, resumes=True, threads=2)
    assert [code.dirty for code in other.code] == [False, True]
    assert Path("state", RECORDS, "code-2.diff").exists()
    assert [place.machine.threads for place in other.resumed] == [2]
    assert start(settings, resumes=True, threads=2) == other
    # of what runs as at first again it is said as well
    assert len(start(settings, resumes=True).resumed) == 2
    # one that begins anew is not that training
    again = start(settings)
    assert [code.dirty for code in again.code] == [True]
    assert again.resumed == ()
    assert not Path("state", RECORDS, "code-2.diff").exists()


def test_what_began_without_a_record_says_so(
    settings: Settings, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = start(settings, resumes=True)
    assert [code.missing for code in found.code] == [record.OLDER, None]
    shutil.rmtree(Path("state", RECORDS))
    assert record.complete(Path("state", RECORDS), model) == {}
    assert record.run_tags(Path("state", RECORDS)) == {}
    assert record.OLDER in caplog.text


@pytest.mark.parametrize("state", ["away", "of another text"])
def test_a_text_that_is_not_here_has_its_name_and_digest(
    settings: Settings, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = settings.path("raw")
    if state == "away":
        shutil.rmtree(raw)
    else:
        about = json.loads((raw / "manifest.json").read_text()) | {"digest": "0" * 64}
        (raw / "manifest.json").unlink()
        (raw / "manifest.json").write_text(json.dumps(about))
    corpus = start(settings).sources.corpus
    assert (corpus.name, corpus.source, corpus.files) == ("text/*.txt", None, ())
    assert corpus.digest == open_tokens(settings.path("tokens")).manifest.corpus_digest
    assert "names no source of its text" in caplog.text
    assert corpus.missing


def test_neither_credentials_nor_folders_of_ones_own_are_recorded(settings: Settings) -> None:
    raw, tokens = settings.path("raw"), settings.path("tokens")
    for manifest, key in ((raw, "name"), (raw, "source"), (tokens, "name")):
        path = manifest / "manifest.json"
        about = json.loads(path.read_text())
        about["parts"][0][key] = "/home/me/letters/*.txt"
        path.unlink()
        path.write_text(json.dumps(about))
    lines = Path("params.yaml").read_text()
    Path("params.yaml").write_text(f"{lines}# https://me:opensesame@example.org/x\n")
    found = start(settings)
    assert found.sources.corpus.name == "*.txt"
    kept = [path.read_text() for path in Path("state", RECORDS).iterdir()]
    assert not [text for text in kept if "/home/me" in text or "opensesame" in text]
    assert "a password or a token, in params.yaml" in str(found.code[0].missing)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1"])
def test_a_damaged_record_is_said_in_a_line(root: Path, text: str) -> None:
    (root / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"record\.json is damaged, or of another version"):
        record.load(root)


def test_a_record_waits_for_mlflow_with_all_else(
    settings: Settings, front: Front, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    start(settings)
    folder = Path("state", RECORDS)
    front.fail("refuse")
    run = begin(Path("state"), 4, saved=4, **record.run_tags(folder))
    told = registration(model, 2.0) | {"made_of": record.complete(folder, model)}
    outbox.end(run, "FINISHED", model, told)
    shutil.rmtree("state")
    front.mend()
    assert outbox.send_all() == 0
    (stored,) = runs()
    names = {file.path for file in client().list_artifacts(stored.info.run_id, RECORDS)}
    assert names == {f"{RECORDS}/{name}" for name in ("record.json", "params.yaml")}
    (version,) = client().search_model_versions(f"tags.git_commit = '{head()}'")
    assert version.tags["corpus"] == "text/*.txt"
    assert f"code: commit `{head()[:12]}`; `nanogpt lineage`" in version.description
