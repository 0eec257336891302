"""Recipes made from others: what is copied, what is changed, what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt.params import load
from pipelines.graph import RecipeError
from pipelines.new import create, name_for, seen_from
from tests.recipes import ROOT
from tests.toy import make_toy

LIKE = Path("pipelines/finetune_shakespeare")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with our graph, one recipe and two poems; the current folder."""
    make_toy(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / LIKE, tmp_path / LIKE)
    (tmp_path / "poems").mkdir()
    for name in ("one", "two"):
        (tmp_path / "poems" / f"{name}.txt").write_text("To be")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "pipelines.new", "--like", str(LIKE), *arguments]
    return subprocess.run(words, capture_output=True, text=True)


def test_a_recipe_for_ones_own_text(repository: Path) -> None:
    done = command("--corpus", "poems/*.txt", "--base", "smollm2-135m")
    folder = repository / done.stdout.strip()
    assert folder == repository / "pipelines" / "finetune_poems_smollm2-135m", done.stderr
    settings = load(folder / "params.yaml")
    assert settings.download.corpus == "../../poems/*.txt"
    assert settings.download.bases == ["smollm2-135m"]
    assert settings.data == "../../data/finetune_poems_smollm2-135m"
    assert settings.train == load(repository / LIKE / "params.yaml").train
    assert settings.sample.prompt == "\n"
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    text = (folder / "params.yaml").read_text()
    assert "Shakespeare" not in text
    assert "lora: null" in text
    assert "# tokens of a window" in text


def test_asking_again_for_the_same_changes_nothing(repository: Path) -> None:
    folder = repository / command("--corpus", "poems/*.txt", "--prompt", "To").stdout.strip()
    assert load(folder / "params.yaml").sample.prompt == "To"
    own = (folder / "params.yaml").read_text().replace("steps: ", "steps: 1")
    (folder / "params.yaml").write_text(own)
    assert command("--corpus", "poems/*.txt").returncode == 0
    assert (folder / "params.yaml").read_text() == own


def test_a_recipe_of_that_name_for_something_else_stays(repository: Path) -> None:
    assert command("--name", "mine", "--corpus", "poems/one.txt").returncode == 0
    done = command("--name", "mine", "--corpus", "poems/two.txt")
    assert done.returncode == 2
    assert "is there already, with download.corpus: '../../poems/one.txt'" in done.stderr
    assert "NAME" in done.stderr


def test_a_copy_of_the_default_recipe(repository: Path) -> None:
    shutil.copy(ROOT / "params.yaml", repository)
    folder = create("mine", Path(), {"train.learning_rate": 0.5})
    settings = load(repository / folder / "params.yaml")
    assert settings.code == "../../nanogpt"
    assert settings.train.learning_rate == 0.5


@pytest.mark.parametrize(
    ("name", "like", "says"),
    [("a b", LIKE, "cannot name a recipe"), ("mine", Path("nowhere"), "has no params.yaml")],
)
def test_what_cannot_be_made(repository: Path, name: str, like: Path, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        create(name, like, {})


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("poems/*.txt", "../../poems/*.txt"),
        ("poems/one.txt", "../../poems/one.txt"),
        ("shakespeare", "shakespeare"),
        ("hf:id@main", "hf:id@main"),
        ("/poems/*.txt", "/poems/*.txt"),
        ("qwen3-0.6b", "qwen3-0.6b"),
    ],
)
def test_paths_are_seen_from_the_recipe(repository: Path, given: str, seen: str) -> None:
    assert seen_from(repository / "pipelines" / "mine", given) == seen


@pytest.mark.parametrize("given", ["poem/*.txt", "poems/three.txt", "three.txt", "Qwen/Qwen3"])
def test_files_that_are_not_there(repository: Path, given: str) -> None:
    for option in ("--corpus", "--base"):
        done = command(option, given)
        assert done.returncode == 2
        assert done.stderr.startswith(f"no file matches {given!r}, seen from {repository}; ")
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in (repository / "pipelines").glob("*")] == [LIKE.name]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["books/*.txt"], "finetune_books"),
        (["my book.txt", "gpt2"], "finetune_my_book_gpt2"),
        (["**/*.md", "hf:org/name-1b@main"], "finetune_name-1b"),
        (["models:/nanogpt-x@champion"], "finetune_nanogpt-x"),
    ],
)
def test_a_name_says_what_a_recipe_is_of(given: list[str], name: str) -> None:
    assert name_for(LIKE, given) == name
