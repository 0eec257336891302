"""What is in one's own files is written down, and what cannot go well is told first."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanogpt.common.errors import UserError
from nanogpt.common.files import describe, digest_files, list_files
from nanogpt.common.manifest import write_manifest
from nanogpt.formats.base import Base
from nanogpt.settings import parse
from nanogpt.sizing import digests
from nanogpt.stages import check
from nanogpt.text.raw import Raw, RawPart
from tests.kit.recipes import values
from tests.text.test_documents import reading

CORPUS = "texts/**/*.txt"
OWN = {"data": "data/mine", "download__corpus": CORPUS}
FOLDER = {
    **OWN,
    "download__base": "base",
    "tokenize__tokenizer": "base",
    "tokenize__vocab_size": None,
    "model": {"context": 8, "dropout": 0.0},
}
GGUF = FOLDER | {"download__base": ["gpt2", "base/it.gguf"]}
MODEL = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two texts, a folder and a file that are bases, a prompt."""
    others = ("texts/a.txt", "texts/in/b.txt", "base/it.gguf", "base/other", "prompt.txt")
    for name in (*others, *(f"base/{name}" for name in MODEL)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(changes: dict[str, Any]) -> dict[str, bytes]:
    """What `download` and `sample` depend on."""
    check.main(parse(values(**changes)))
    return {path.stem: path.read_bytes() for path in Path("data/mine/inputs").iterdir()}


@pytest.mark.parametrize(
    ("recipe", "file", "changed"),
    [
        (OWN, "texts/in/b.txt", {"download"}),
        (OWN, "texts/new.txt", {"download"}),
        (OWN, "base/it.gguf", set()),
        (OWN, "prompt.txt", set()),
        (OWN | {"sample__prompt_file": "prompt.txt"}, "prompt.txt", {"prompt"}),
        (FOLDER, "base/model.safetensors", {"download"}),
        (FOLDER, "base/tokenizer.json", {"download"}),
        (FOLDER, "base/other", set()),
        (GGUF, "base/it.gguf", {"download"}),
        ({"data": "data/mine"}, "texts/a.txt", set()),
    ],
)
def test_an_edited_file_is_seen(recipe: dict[str, Any], file: str, changed: set[str]) -> None:
    before = inputs(recipe)
    assert inputs(recipe) == before
    Path(file).write_text("edited")
    after = inputs(recipe)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize("recipe", [OWN, FOLDER, GGUF])
def test_a_file_is_read_again_when_it_changed(
    here: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in here.rglob("*.*"):
        os.utime(path, (1, 1))  # what is as young as this test may change within a tick
    before = inputs(recipe)
    monkeypatch.delattr(digests, "describe")
    assert inputs(recipe) == before
    monkeypatch.setattr(digests, "describe", describe, raising=False)
    for path in here.rglob("*.*"):
        path.write_text(path.read_text().swapcase())  # as long as it was
        os.utime(path, (2, 2))
    assert inputs(recipe)["download"] != before["download"]


@pytest.mark.parametrize("recipe", [OWN, FOLDER, GGUF])
def test_what_was_downloaded_stands_for_files_that_are_gone(
    here: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = inputs(recipe)
    raw, base = Path("data/mine/raw"), Path("data/mine/base")
    shutil.copytree("texts", raw / "corpus")
    texts = list_files(raw, "corpus")
    about = {"licence": "", "source": ""}
    part = RawPart(name=CORPUS, **about, reading=reading(), files=len(texts))
    manifest = Raw(
        corpus=CORPUS,
        **about,
        parts=(part,),
        files=texts,
        digest=digest_files(texts),
        vocabulary=None,
    )
    write_manifest(raw, manifest)
    name = recipe.get("download__base")
    base.mkdir()
    for file in MODEL if name == "base" else ("it.gguf", "config.json"):
        shutil.copy(f"base/{file}", base)
    write_manifest(
        base, Base(name="base" if name == "base" else "base/it.gguf", files=list_files(base))
    )
    for folder in ("texts", "base"):
        shutil.rmtree(folder)
    assert inputs(recipe) == before
    assert "going on with what was downloaded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (OWN | {"download__corpus": "nowhere/*.txt"}, "download.corpus: no file matches"),
        (OWN | {"download__corpus": "shakespear"}, "did you mean shakespeare"),
        (FOLDER | {"download__base": "nowhere"}, "download.base: 'nowhere' is neither"),
        (FOLDER | {"download__base": "texts"}, "download.base: texts: it has no model.safetens"),
        (OWN | {"sample__prompt_file": "nowhere.txt"}, "sample.prompt_file: 'nowhere.txt' does"),
        (OWN | {"sample__prompt_file": "texts"}, "sample.prompt_file: 'texts' does not exist"),
        (OWN | {"machine__threads": 100_000}, "machine.threads: 100000 is more than the"),
        (OWN | {"machine__device": "mps"}, "machine.device: 'mps' is not on this machine"),
    ],
)
def test_what_cannot_go_well_is_told_first(recipe: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        inputs(recipe)
    assert not Path("data").exists()


def test_a_password_of_mlflows_address_is_told_of_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.org")
    inputs(OWN)
    said = capsys.readouterr().out
    assert "it belongs in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said
    assert "hunter2" not in said
    assert "names a database" not in said


def test_a_database_without_a_server_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@127.0.0.1:9/mlflow")
    # else a thread that nobody waits for tries for 100 s, and holds a lock of MLflow's meanwhile
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    inputs(OWN)
    said = capsys.readouterr().out
    assert "models stay on this machine's disk" in said
    assert "hunter2" not in said
