"""dvc.yaml, recipes and deployments say the same, and the graph sees every change of code."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogpt.params import load
from pipelines.graph import stages
from tests.imports import ROOT, closure

GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
RECIPES = [ROOT, *sorted(file.parent for file in ROOT.glob("pipelines/*/params.yaml"))]
CODE = "${code}/"


def name_of(recipe: Path) -> str:
    return recipe.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("stage", GRAPH["stages"])
def test_deps_are_the_import_closure(stage: str) -> None:
    # a stage whose code changed must run again, and one whose code did not must not
    declared = [dep for dep in GRAPH["stages"][stage]["deps"] if dep.startswith(CODE)]
    needed = sorted(
        CODE + file.relative_to("nanogpt").as_posix() for file in closure(f"nanogpt.stages.{stage}")
    )
    lines = "\n".join(f"    - {dep}" for dep in needed)
    assert sorted(declared) == needed, f"dvc.yaml, deps of {stage}:\n{lines}"


@pytest.mark.parametrize("stage", GRAPH["stages"])
def test_a_stage_runs_its_own_module(stage: str) -> None:
    assert GRAPH["stages"][stage]["cmd"].startswith(f"python -m nanogpt.stages.{stage} ")


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
class TestRecipe:
    def test_has_the_same_graph(self, recipe: Path) -> None:
        own = recipe / "dvc.yaml"
        assert not own.is_symlink(), "DVC does not follow a link in a git revision"
        assert own.read_bytes() == (ROOT / "dvc.yaml").read_bytes(), "run `make recipes`"

    def test_settings_load(self, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(recipe)
        settings = load("params.yaml")
        assert Path(settings.code).resolve() == ROOT / "nanogpt"
        assert Path(settings.data).resolve().parent == ROOT / "data"

    def test_graph_resolves(self, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        assert [stage.name for stage in stages(recipe)] == list(GRAPH["stages"])

    def test_settings_have_no_anchors(self, recipe: Path) -> None:
        # `dvc exp run -S` would write one value into every place that shares it
        events = yaml.parse((recipe / "params.yaml").read_text())
        assert not any(getattr(event, "anchor", None) for event in events)


def test_recipes_write_side_by_side() -> None:
    data = [(recipe / load(recipe / "params.yaml").data).resolve() for recipe in RECIPES]
    assert len(set(data)) == len(RECIPES)


def test_every_recipe_has_a_deployment() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    deployments = yaml.safe_load(text)["deployments"]
    # not those that `make finetune` made for somebody
    listed = ["git", "ls-files", "params.yaml", "pipelines/*/params.yaml"]
    ours = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipes = {Path(file).parent.as_posix() for file in ours.split()}
    assert {each["parameters"]["recipe"] for each in deployments} == recipes
    assert len({each["name"] for each in deployments}) == len(deployments)
    assert not any("schedules" in each for each in deployments)
    assert not re.search(r"^[^#]*(image:|: ['\"]?/)", text, re.MULTILINE)
