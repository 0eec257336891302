"""The code that runs is that of the folder, in copies, worktrees and queued experiments too."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.checkouts import OTHER, commit, git, make_checkout, mark, run

pytestmark = pytest.mark.slow
RECIPES = ["dvc.yaml", f"{OTHER}/dvc.yaml"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A checkout whose recipes have run, in a path with a space."""
    folder = make_checkout(tmp_path_factory.mktemp("places") / "the first")
    shutil.copy(empty_database, folder / "mlflow.db")
    mark(folder, "the first")
    printed = run(folder, "dvc", "repro", *RECIPES)
    assert printed.count("code of the first") == 2
    commit(folder)
    return folder


@pytest.fixture
def touched(first: Path) -> Iterator[Path]:
    """The same checkout, whose code is put back after the test."""
    yield first
    git(first, "checkout", "--quiet", "--", "nanogpt", "params.yaml")


def stages_to_run(folder: Path) -> set[str]:
    """What `dvc status` finds changed, as <recipe's file>:<stage>."""
    printed = run(folder, "dvc", "status")
    names = {line.rstrip(":").strip("'") for line in printed.splitlines() if line[:1] not in " \t"}
    return {name for name in names if name in NAMES}


def stages_that_run(folder: Path, *recipes: str) -> list[str]:
    """The stages that `dvc repro` does not skip, without their recipe."""
    return re.findall(r"Running stage '(?:.*:)?(\w+)':", run(folder, "dvc", "repro", *recipes))


NAMES = {
    f"{prefix}{stage}"
    for prefix in ("", f"{OTHER}/dvc.yaml:")
    for stage in ("download", "tokenize", "train", "eval", "sample")
}


def test_what_only_reads_reports_or_refuses_makes_nothing_run_again(touched: Path) -> None:
    free = [touched / "nanogpt" / "settings.py"]
    for room in ("tracking", "sizing", "common"):
        free += (touched / "nanogpt" / room).glob("*.py")
    assert len(free) > 10
    for file in free:
        file.write_text(file.read_text() + "\n# changed\n")
    (touched / "nanogpt" / "sources" / "notes.txt").write_text("not a module")
    assert stages_to_run(touched) == set()
    assert stages_that_run(touched, *RECIPES) == ["check", "check"]
    (touched / "nanogpt" / "sources" / "notes.txt").unlink()


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("generation/engine.py", {"sample"}),
        ("evaluation.py", {"train", "eval"}),
        ("text/documents.py", {"tokenize", "eval", "sample"}),
        ("sources/hub.py", {"download"}),
        ("training/lora.py", {"train"}),
    ],
)
def test_a_change_of_code_runs_the_stages_that_it_decides(
    touched: Path, file: str, stages: set[str]
) -> None:
    path = touched / "nanogpt" / file
    path.write_text(path.read_text() + "\n# changed\n")
    assert stages_to_run(touched) == stages | {f"{OTHER}/dvc.yaml:{stage}" for stage in stages}


def test_a_change_of_generation_runs_sample_alone(touched: Path) -> None:
    path = touched / "nanogpt" / "generation" / "engine.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert stages_that_run(touched, "dvc.yaml") == ["check", "sample"]


@pytest.mark.parametrize("way", ["copied and moved", "worktree"])
def test_another_place_runs_its_own_code(first: Path, tmp_path: Path, way: str) -> None:
    # the environment that is active was made in a third place
    place = tmp_path / "another place"
    if way == "worktree":
        git(first, "worktree", "add", "--quiet", "--detach", str(place))
    else:
        shutil.copytree(first, tmp_path / "copy", symlinks=True)
        (tmp_path / "copy").rename(place)
    mark(place, way)
    assert run(place, "dvc", "repro", "dvc.yaml").count(f"code of {way}\n") == 1
    inside = place / OTHER
    assert run(inside, "dvc", "repro").count(f"code of {way}\n") == 1
    for folder in (place, inside):
        (place / "nanogpt" / "commands" / "report.py").write_text(
            "as_known = None\n\n\n"
            f"def show(recipe):\n    print('report of {way}', recipe.resolve())\n"
        )
        assert f"report of {way} {folder}" in run(folder, "nanogpt", "report")


@pytest.mark.parametrize("where", [".", OTHER])
def test_a_queued_experiment_runs_the_code_that_was_queued(
    touched: Path, empty_database: Path, where: str
) -> None:
    folder = touched / where
    mark(touched, "the queue")
    run(folder, "dvc", "exp", "run", "--queue", "--name", "later", "-S", "train.steps=3")
    mark(touched, "today")
    printed = run(folder, "dvc", "exp", "run", "--run-all")
    logs = run(folder, "dvc", "queue", "logs", "later")
    assert "code of the queue\n" in printed + logs
    assert "code of today" not in printed + logs
    # its records are with the others, at the root
    assert not list((touched / ".dvc" / "tmp" / "exps").glob("*/mlflow.db"))
    run(folder, "dvc", "exp", "remove", "later")


def test_outside_of_a_checkout_a_command_says_where_it_belongs(tmp_path: Path) -> None:
    printed = run(tmp_path, "nanogpt", "report", code=2)
    assert "this command belongs to the checkout" in printed
    assert len(printed.splitlines()) == 1


def test_a_stage_does_not_run_the_code_of_another_checkout(first: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((first / "params.yaml").read_text())
    printed = run(tmp_path, "python", "-m", "nanogpt.stages.download", "params.yaml", code=2)
    assert "the code that runs is that of" in printed
