"""A recipe is found by its folder or its name, on both sides of the commands."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import find_recipe
from pipelines import flows, graph, new
from pipelines.run import main as run_main
from tests.kit.recipes import Run
from tests.kit.toy import make_project

FIND: list[Callable[[str], Path]] = [find_recipe, graph.find_recipe]
NANOGPT = "pipelines/tiny_shakespeare_nanogpt"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path, NANOGPT)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("find", FIND)
@pytest.mark.parametrize("here", [".", "docs", NANOGPT])
@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("tiny_shakespeare_nanogpt", NANOGPT),
        ("tiny_shakespeare_nanogpt/", NANOGPT),
        (NANOGPT, NANOGPT),
        ("shakespeare", "."),
    ],
)
def test_a_name_is_enough(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    find: Callable[[str], Path],
    here: str,
    given: str,
    folder: str,
) -> None:
    monkeypatch.chdir(here)
    assert find(given).resolve() == (project / folder).resolve()


@pytest.mark.parametrize("find", FIND)
def test_a_folder_that_is_there_comes_first(project: Path, find: Callable[[str], Path]) -> None:
    Path("tiny_shakespeare_nanogpt").mkdir()  # no recipe
    assert find("tiny_shakespeare_nanogpt") == Path(NANOGPT)
    Path("tiny_shakespeare_nanogpt/params.yaml").touch()
    assert find("tiny_shakespeare_nanogpt") == Path("tiny_shakespeare_nanogpt")


@pytest.mark.parametrize("find", FIND)
def test_an_unknown_one_gets_the_list_and_what_may_be_meant(
    project: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[str], Path]
) -> None:
    with pytest.raises((UserError, graph.RecipeError)) as error:
        find("tiny_shakespeare")
    assert str(error.value) == (
        "tiny_shakespeare is not the folder of a recipe, which holds a params.yaml and a"
        " dvc.yaml, nor the name of one; did you mean tiny_shakespeare_nanogpt?\n"
        f"  in {project} there are: shakespeare, tiny_shakespeare_nanogpt"
    )
    monkeypatch.chdir("docs")
    with pytest.raises((UserError, graph.RecipeError)) as error:
        find(".")  # is not silently the default one
    assert str(error.value).startswith(". is not the folder of a recipe")
    assert "did you mean" not in str(error.value)


def test_where_a_recipe_is_typed(project: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    for command in ("sample", "report", "check"):
        code, said = run(command, "--recipe", "shakespear")
        assert code == 2
        assert said.startswith(f"{command}: shakespear is not the folder of a recipe")
        assert "did you mean shakespeare?" in said
    code, said = run("check", "--recipe", "shakespeare")
    assert code == 0, said
    monkeypatch.chdir("docs")  # where no recipe is, and none is typed
    code, said = run("report")
    assert code == 2
    assert said.startswith("report: . is not the folder of a recipe")


def test_a_wrong_command_or_option_gets_the_one_that_may_be_meant(run: Run) -> None:
    for words, meant in ((["sampel"], "'sample'"), (["sample", "--promt", "a"], "--prompt")):
        code, said = run(*words)
        assert code == 2
        assert meant in said


@pytest.mark.parametrize(
    ("main", "words", "command"),
    [
        (run_main, ["repro"], "repro"),
        (run_main, ["join"], "join"),
        (flows.main, [], "flow"),
        (new.main, ["--name=x", "--like"], "new"),
    ],
)
def test_where_a_recipe_is_run(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[], None],
    words: list[str],
    command: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["it", *words, "shakespear"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"{command}: shakespear is not the folder of a recipe")
    assert "did you mean shakespeare?" in said
