"""Stages come from DVC's index, in DVC's order, with what dvc.yaml says about them."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.graph import RecipeError, adopt, root, stages
from tests.kit.toy import make_repository

GRAPH = """
stages:
  last:
    wdir: ${root}
    cmd: touch ${data}/last
    deps: ["${data}/middle"]
    outs: ["${data}/last"]
  middle:
    wdir: ${root}
    cmd: touch ${data}/middle
    deps: ["${data}/first"]
    outs: ["${data}/middle"]
  first:
    wdir: ${root}
    cmd: mkdir -p ${data} && touch ${data}/first
    outs: ["${data}/first"]
    meta: {retries: 3}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with the recipe of its root and another, which reads the root's artifact."""
    monkeypatch.chdir(tmp_path)
    make_repository(tmp_path)
    Path("dvc.yaml").write_text(GRAPH)
    Path("params.yaml").write_text("root: .\ndata: data/root\n")
    other = tmp_path / "pipelines" / "other"
    other.mkdir(parents=True)
    (other / "params.yaml").write_text("root: ../..\ndata: data/other\n")
    (other / "dvc.yaml").write_text(
        GRAPH.replace("    cmd: mkdir", "    deps: [data/root/middle]\n    cmd: mkdir")
    )
    return tmp_path


def test_order_is_that_of_the_dependencies_not_of_the_file(repository: Path) -> None:
    assert [stage.name for stage in stages()] == ["first", "middle", "last"]
    assert stages()[0].address == "dvc.yaml:first"


def test_stages_that_need_not_wait_for_each_other_keep_the_order_of_the_file(
    repository: Path,
) -> None:
    names = [f"leaf{n}" for n in (3, 1, 4, 5, 9, 2, 6)]
    leaf = "{wdir: '${root}', cmd: x, deps: ['${data}/first']}"
    leaves = "".join(f"  {name}: {leaf}\n" for name in names)
    Path("dvc.yaml").write_text(GRAPH + leaves)
    assert [stage.name for stage in stages() if stage.name in names] == names


def test_meta_comes_from_dvc(repository: Path) -> None:
    assert [stage.meta for stage in stages()] == [{"retries": 3}, {}, {}]


def test_a_recipe_comes_after_what_it_needs_of_another(repository: Path) -> None:
    assert [stage.address for stage in stages("pipelines/other")] == [
        "dvc.yaml:first",
        "dvc.yaml:middle",
        "pipelines/other/dvc.yaml:first",
        "pipelines/other/dvc.yaml:middle",
        "pipelines/other/dvc.yaml:last",
    ]


def test_addresses_do_not_depend_on_the_current_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_root = stages("pipelines/other")
    monkeypatch.chdir("pipelines/other")
    assert stages() == from_root
    assert root() == repository


@pytest.mark.parametrize("folder", ["pipelines/nowhere", "pipelines", "..", "dvc.yaml"])
def test_a_wrong_folder_is_told_which_recipes_exist(repository: Path, folder: str) -> None:
    with pytest.raises(RecipeError, match=r"(?s)is not the folder of a recipe.*: other, root$"):
        stages(folder)


def test_data_added_to_dvc_is_no_stage(repository: Path) -> None:
    Path("mine.txt").write_text("to be or not to be")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "mine.txt"], check=True)
    graph = GRAPH.replace("    cmd: mkdir", "    deps: [mine.txt]\n    cmd: mkdir")
    Path("dvc.yaml").write_text(graph)
    assert [stage.name for stage in stages()] == ["first", "middle", "last"]


def test_who_only_looks_leaves_a_hidden_recipe_hidden(repository: Path) -> None:
    hides = "# not run yet\n/pipelines/other/dvc.yaml\n"
    Path(".dvcignore").write_text(hides)
    with pytest.raises(RecipeError, match=r"^other has not run here yet; `make"):
        stages("other")
    assert Path(".dvcignore").read_text() == hides
    adopt("other")
    assert Path(".dvcignore").read_text() == "# not run yet\n"
    assert stages("other")[-1].address == "pipelines/other/dvc.yaml:last"


def test_a_date_that_is_none_is_one_message(repository: Path) -> None:
    Path("params.yaml").write_text("word: 2020-13-01\n")
    with pytest.raises(RecipeError, match="month must be in"):
        stages()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("stages: {a: {cmd: x, dpes: [y]}}", "validation failed"),
        ("stages: {a: {cmd: x, outs: ['${nope}']}}", "nope"),
        ("stages: {a: {cmd: x, outs: [o], deps: [o]}}", "both a dependency and an output"),
    ],
)
def test_a_broken_graph_is_one_message(repository: Path, wrong: str, says: str) -> None:
    Path("dvc.yaml").write_text(wrong)
    with pytest.raises(RecipeError, match=says):
        stages()


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="not inside of a DVC repository"):
        stages()
