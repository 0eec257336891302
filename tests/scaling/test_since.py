"""What was edited after the tokens were made is seen before a ladder is trained of them."""

import shutil
from pathlib import Path

import pytest
import yaml

from nanogpt.commands.scaling import _old
from nanogpt.common import states
from nanogpt.scaling.since import since
from nanogpt.settings import load
from nanogpt.text.tokens import open_tokens
from nanogpt.tracking.lock import dump


@pytest.fixture
def here(tokenized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tokenized, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed() -> list[str]:
    settings = load("params.yaml")
    return since(settings, open_tokens(settings.path("tokens")))


def test_an_edited_text_is_named(here: Path) -> None:
    assert changed() == []
    first, second, *_ = sorted((here / "text").iterdir())
    first.write_text(first.read_text() + "edited")
    (here / "text/new.txt").write_text("new")
    second.unlink()
    assert changed() == sorted([first.name, second.name, "new.txt"])
    settings = load("params.yaml")
    tokens = open_tokens(settings.path("tokens"))
    assert f"since the tokens were made: {first.name}, " in _old(settings, here, tokens)
    shutil.rmtree("text")  # what was downloaded stands for it
    assert changed() == []
    shutil.rmtree("data/test/raw")
    assert changed() == []


def test_a_changed_key_is_named_where_dvc_made_the_tokens(here: Path) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    settings = load("params.yaml")
    tokens = settings.path("tokens")
    files = [file.stat().st_size for file in tokens.iterdir()]
    out = {"path": str(tokens), "md5": states.dvc_md5(tokens)}
    stage = {
        "outs": [out | {"size": sum(files), "nfiles": len(files)}],
        "params": {settings.params: {"tokenize": values["tokenize"]}},
    }
    settings.lock.write_text(dump({"tokenize": stage}))
    assert changed() == []
    values["tokenize"] |= {"val": 0.2, "expect": None}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert changed() == ["tokenize.val"]
    out["md5"] = "0" * 32 + ".dir"  # of other tokens than these
    settings.lock.write_text(dump({"tokenize": stage | {"outs": [out]}}))
    assert changed() == []
