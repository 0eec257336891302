"""DVC's commands as its users type them: docs/experiments.md is run, without warnings."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.checkouts import OTHER, commit, git, make_checkout, run
from tests.kit.recipes import ROOT

pytestmark = pytest.mark.slow
WARNS = re.compile("^(WARNING: (?!This will remove)|ERROR)|DVC failed|not in cache|missing")
NAME = "tiny_shakespeare_nanogpt"  # of a shipped recipe, in whose place the docs are run
DOCS = ROOT / "docs" / "experiments.md"


def blocks() -> list[list[str]]:
    """The commands of docs/experiments.md, in the order of its blocks, without comments."""
    text = DOCS.read_text(encoding="utf-8")
    found = re.findall("^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [[line.partition("  #")[0].strip() for line in block.splitlines()] for block in found]


def quiet(folder: Path, command: str) -> str:
    """Run a command, which ends with 0 and warns of nothing; returns what it says."""
    if command.startswith("make "):
        command = command.replace("make ", "make --old-file=.venv/ready ", 1)
    said = run(folder, "bash", "-c", command)
    warned = [line for line in said.splitlines() if WARNS.search(line)]
    assert not warned, f"{command}: {said}"
    return said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A clone whose second recipe is hidden from DVC, as shipped ones are; `origin` beside it."""
    place = tmp_path_factory.mktemp("front")
    first = make_checkout(place / "first")
    (first / OTHER).rename(first / "pipelines" / NAME)
    params = first / "pipelines" / NAME / "params.yaml"
    params.write_text(params.read_text().replace(OTHER, f"pipelines/{NAME}"))
    with (first / ".dvcignore").open("a") as file:
        if f"/pipelines/{NAME}/dvc.yaml\n" not in (first / ".dvcignore").read_text():
            file.write(f"/pipelines/{NAME}/dvc.yaml\n")
    shutil.copy(ROOT / ".dvc" / ".gitignore", first / ".dvc")
    commit(first)
    subprocess.run(["git", "clone", "-q", "--bare", first, place / "origin"], check=True)
    subprocess.run(["git", "clone", "-q", place / "origin", place / "mine"], check=True)
    for folder in ("mine", "second"):
        (place / folder / ".venv").mkdir(parents=True)
    ready(place / "mine", empty_database)
    return place / "mine"


def ready(folder: Path, database: Path) -> None:
    """What `make` and a first command do: an environment, a database; and a person for git."""
    (folder / ".venv").mkdir(exist_ok=True)
    (folder / ".venv" / "ready").touch()
    shutil.copy(database, folder / "mlflow.db")
    git(folder, "config", "user.name", "Test")
    git(folder, "config", "user.email", "test@example.org")


def test_the_commands_of_the_docs_in_their_order(checkout: Path, empty_database: Path) -> None:
    place = checkout.parent
    second = place / "second"
    said: dict[str, str] = {}
    for block in blocks():
        folder = checkout
        if block[0] == "git pull":
            shutil.rmtree(second)
            subprocess.run(["git", "clone", "-q", place / "origin", second], check=True)
            ready(second, empty_database)
            folder = second
        top = folder
        for command in block:
            command = command.replace("/mnt/share/nanogpt", f"{place}/share")
            command = command.replace("/mnt/big", f"{place}/big")
            if command.startswith("cd "):
                folder = Path(os.path.normpath(folder / command[3:]))
            else:
                said[command] = quiet(folder, command)
        assert folder == top
    table = said["make compare"].splitlines()
    assert all(len(line) <= 120 for line in table)
    assert [line for line in table if "higher" in line and "train.learning_rate=0.02" in line]
    assert not [line for line in table if "tiny" in line]
    assert "tiny" in said[f"make compare RECIPE={NAME}"]
    assert Path(said['make plots REVS="higher lower"'].split()[-1]).stat().st_size > 10_000
    (shown,) = (said[command] for command in said if command.startswith("dvc exp show"))
    assert "val_loss" in shown
    assert "train.learning_rate" in shown
    assert "model.safetensors" not in shown
    assert set(re.findall(r"Running stage '(\w+)'", said["dvc repro"])) == {"check"}
    assert (checkout / "data" / "test" / "model" / "model.safetensors").is_symlink()
    assert "no remote" not in said["dvc push"].lower()

    for where in (checkout, checkout / "pipelines" / NAME):
        say_nothing(where)


def say_nothing(where: Path) -> None:
    """Try what needs no argument, in a folder of a recipe that has run."""
    for command in ("checkout", "pull", "push", "metrics show", "metrics diff", "exp show"):
        said = quiet(where, f"dvc {command}")
        assert len(said.splitlines()) <= 30
        if command in ("checkout", "metrics diff"):
            assert said == ""
    assert len(quiet(where, "dvc status").splitlines()) <= 6
