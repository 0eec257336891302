"""A recipe's files are found from whatever folder a command is typed in."""

import json
from pathlib import Path

import pytest
import yaml

from tests.kit.recipes import QUICK, Run, values
from tests.kit.trainings import make_model

FROM = ((".", "pipelines/plays"), ("pipelines/plays", "."), ("..", "my repository/pipelines/plays"))


@pytest.fixture
def recipe(root: Path) -> Path:
    """A recipe below the root that has been run, but for its training."""
    folder = root / "pipelines" / "plays"
    folder.mkdir(parents=True)
    own = {"root": "../..", "params": "pipelines/plays/params.yaml", "data": "data/plays"}
    settings = values(**QUICK, **own, sample__prompt_file="prompt.txt")
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    (root / "prompt.txt").write_text("JULIET: what")
    data = root / "data" / "plays"
    data.mkdir(parents=True)
    make_model(data / "model")
    scores = {"split": "val", "loss": 1.0, "perplexity": 2.5, "bits_per_byte": 1.5}
    (data / "eval.json").write_text(json.dumps(scores))
    (data / "train.json").write_text(json.dumps({"val_loss": 1.25}))
    (data / "seconds.json").write_text(json.dumps({"train": 7.0}))
    (data / "samples.md").write_text("# Samples\n\n## Sample 1\n\n```text\nJULIET: ah\n```\n")
    return folder


@pytest.mark.parametrize(("here", "there"), FROM)
def test_sample(
    here: str, there: str, root: Path, recipe: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / here)
    code, said = run("sample", "--recipe", there, "--samples", 1, "--tokens", 3)
    assert code == 0, said
    assert said.startswith("--- Sample 1 ---\nJULIET: what")
    assert Path.cwd() == (root / here).resolve()
    code, said = run("sample", "--recipe", there, "--prompt", "ROMEO:", "--samples", 2)
    assert said.count("\nROMEO:") == 2
    code, said = run("sample", "--recipe", there, "--tokens", 0)
    assert (code, said) == (2, "sample: --tokens: 0: should be greater than or equal to 1")
    (root / "prompt.txt").unlink()
    code, said = run("sample", "--recipe", there)
    assert code == 2
    assert said == f"sample: sample.prompt_file: 'prompt.txt' does not exist, seen from {root}"


@pytest.mark.parametrize(("here", "there"), FROM)
def test_report(
    here: str, there: str, root: Path, recipe: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / here)
    code, said = run("report", "--recipe", there)
    assert code == 0, said
    assert "recipe plays" in said
    assert "1.2500 nats a token" in said
    assert "JULIET: ah" in said
    assert "make sample RECIPE=pipelines/plays PROMPT=" in said
    assert "cd pipelines/plays && dvc exp run -S train.learning_rate=" in said
    (root / "data" / "plays" / "eval.json").unlink()
    code, said = run("report", "--recipe", there)
    assert code == 2
    assert said.startswith("report: ")
    assert said.endswith("data/plays/eval.json is not there yet; run `dvc repro` first")
