"""A recipe's files are found from whatever folder a command is typed in."""

import json
import shutil
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
    scores = {"split": "test", "loss": 1.0, "perplexity": 2.5, "bits_per_byte": 1.5}
    (data / "eval.json").write_text(json.dumps(scores))
    (data / "train.json").write_text(json.dumps({"val_bits_per_byte": 1.25}))
    (data / "seconds.json").write_text(json.dumps({"train": 7.0}))
    (data / "samples.md").write_text("# Samples\n\n## Sample 1\n\n```text\nJULIET: ah :on:\n```\n")
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
    code, said = run("sample", "--recipe", there, "--temperature", 1e-9)
    assert (code, said) == (2, "sample: --temperature 1e-09: 0 takes the likeliest token")
    (root / "prompt.txt").unlink()
    code, said = run("sample", "--recipe", there)
    assert code == 2
    assert said == f"sample: sample.prompt_file: 'prompt.txt' does not exist, seen from {root}"


def test_a_question_is_answered(root: Path, recipe: Path, run: Run) -> None:
    """By any model that has a template, if one asks; by one that learned from talk of itself."""
    model = root / "data" / "plays" / "model"
    asked = ("sample", "--recipe", "plays", "--prompt", "WHO?")
    code, said = run(*asked, "--chat")
    assert (code, "/model has no chat template; name a model" in said) == (2, True), said
    template = "{% for message in messages %}{{ message.content + '\n' }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    code, said = run(*asked, "--chat", "--samples", 2)
    assert code == 0, said
    assert said.count("---\n[user]\nWHO?\n\n[assistant]\n") == 2
    code, said = run(*asked[:-1], "", "--chat")
    assert (code, "has none held out; give a --prompt" in said) == (2, True)
    card = ["documents | conversations; loss on: all", "context | 16 trained in windows of 16"]
    lines = [f"| {fact} |" for fact in (*card, f"tokens | `{'0' * 64}`")]
    (model / "README.md").write_text("\n".join(["", *lines, ""]))
    assert run(*asked)[1].startswith("--- Sample 1 ---\n[user]\nWHO?\n\n[assistant]\n")
    assert run(*asked, "--no-chat")[1].startswith("--- Sample 1 ---\nWHO?")


def test_nothing_is_kept(root: Path, recipe: Path, run: Run) -> None:
    def everything() -> dict[str, tuple[int, bytes]]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = everything()
    assert run("sample", "--recipe", "plays", "--tokens", 3)[0] == 0
    assert everything() == before


def test_a_recipe_that_has_no_model_says_how_to_train_it(
    root: Path, recipe: Path, run: Run
) -> None:
    shutil.rmtree(root / "data" / "plays" / "model")
    code, said = run("sample", "--recipe", "plays")
    assert code == 2
    assert said.startswith("sample: the recipe plays has no model yet: `make run RECIPE=plays`")


@pytest.mark.parametrize(("here", "there"), FROM)
def test_report(
    here: str, there: str, root: Path, recipe: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / here)
    code, said = run("report", "--recipe", there)
    assert code == 0, said
    assert "recipe plays" in said
    assert "1.2500 bits per byte" in said
    assert "JULIET: ah :on:\n" in said  # which is no picture
    assert "make sample RECIPE=plays\n" in said
    assert (
        "source .venv/bin/activate && cd pipelines/plays && dvc exp run -S train.learning_rate="
        in said
    )
    (recipe / "dvc.lock").write_text("<<<<<<< HEAD\nstages: {}\n")
    code, said = run("report", "--recipe", there)
    assert (code, "dvc.lock is damaged, as by a merge" in said) == (2, True), said
    (root / "data" / "plays" / "train.json").unlink()
    code, said = run("report", "--recipe", there)
    assert code == 2
    assert said.startswith("report: ")
    assert said.endswith("the recipe plays has no train.json yet: `make run RECIPE=plays` makes it")


@pytest.mark.parametrize("file", ["eval.json", "samples.md"])
@pytest.mark.parametrize("how", ["not there", "of an earlier model"])
def test_a_report_says_what_is_missing(
    recipe: Path, root: Path, run: Run, file: str, how: str
) -> None:
    stage, what = {"eval.json": ("eval", "scores"), "samples.md": ("sample", "samples")}[file]
    if how == "not there":
        (root / "data" / "plays" / file).unlink()
    else:
        old, new = ({"path": "data/plays/model", "md5": word} for word in ("old", "new"))
        lock = {"train": {"outs": [new]}, "eval": {"deps": [new]}, "sample": {"deps": [new]}}
        lock[stage] = {"deps": [old]}
        (recipe / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    code, said = run("report", "--recipe", recipe)
    assert code == 0, said
    assert said.count("yet: `make run RECIPE=plays` makes them") == 1
    assert f"there are no {what} of this model yet" in said
    assert ("1.5000 bits per byte" in said, "JULIET: ah" in said) == (
        stage != "eval",
        stage != "sample",
    )


@pytest.mark.parametrize(
    ("prompt", "proposed"),
    [
        ("ROMEO:\n", " PROMPT=ROMEO:"),
        ("Жили-были $дед", " PROMPT='Жили-были $дед'"),
        ("it's so", """ PROMPT='it'"'"'s so'"""),
        ("", ""),
        ("To be, or not to be, that is the question", " PROMPT='To be, or not to be, that is the'"),
    ],
)
def test_a_report_proposes_the_recipes_own_prompt(
    recipe: Path, run: Run, prompt: str, proposed: str
) -> None:
    settings = yaml.safe_load((recipe / "params.yaml").read_text())
    settings["sample"] |= {"prompt_file": None, "prompt": prompt}
    (recipe / "params.yaml").write_text(yaml.safe_dump(settings))
    _, said = run("report", "--recipe", recipe)
    commands = [line for line in said.splitlines() if line.startswith("  ")]
    assert commands == [
        f"  make sample RECIPE=plays{proposed}",
        "  source .venv/bin/activate && cd pipelines/plays"
        " && dvc exp run -S train.learning_rate=0.02",
        "  make ui",
    ]
    assert "http://127.0.0.1:5000/#/experiments" in said.splitlines()[-1]
