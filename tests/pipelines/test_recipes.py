"""dvc.yaml and recipes say the same, and the graph sees every change of code."""

import ast
import os
import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from dvc.repo import Repo
from pydantic import BaseModel

from nanogpt import settings
from nanogpt.settings import load
from pipelines.graph import adopt, stages
from tests.kit.recipes import ROOT
from tests.kit.toy import make_project

GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
RECIPES = [ROOT, *sorted(file.parent for file in ROOT.glob("pipelines/*/params.yaml"))]
# these read, report or refuse: no byte of a result depends on them
FREE = (
    *("nanogpt.common", "nanogpt.settings", "nanogpt.sizing", "nanogpt.tracking"),
    "nanogpt.formats.check",
)


def name_of(recipe: Path) -> str:
    return recipe.relative_to(ROOT).as_posix()


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("nanogpt", exclude_type_checking_imports=True, cache_dir=None)


def closure(stage: str) -> set[str]:
    """Files, seen from the root, whose code decides what a stage writes."""
    found: set[str] = set()
    todo = {f"nanogpt.stages.{stage}"}
    while todo:
        module = todo.pop()
        path = Path(*module.split("."))
        if module not in found and not module.startswith(FREE):
            found.add(module)
            if not (ROOT / path).is_dir():
                todo |= imports().find_modules_directly_imported_by(module)
    files = {Path(*module.split(".")).with_suffix(".py") for module in found}
    return {file.as_posix() for file in files if (ROOT / file).exists()}


CACHED = [name for name, stage in GRAPH["stages"].items() if not stage.get("always_changed")]


def test_the_stage_that_always_runs_comes_first_and_decides_nothing() -> None:
    (always,) = GRAPH["stages"].keys() - CACHED
    assert always == next(iter(GRAPH["stages"]))
    # it is for files that DVC does not know; code that changes what it writes changes nothing else
    assert "deps" not in GRAPH["stages"][always]
    assert "params" not in GRAPH["stages"][always]


@pytest.mark.parametrize("stage", CACHED)
def test_deps_are_the_code_that_decides(stage: str) -> None:
    # a stage whose code changed must run again, and one whose code did not should not
    declared = [dep for dep in GRAPH["stages"][stage]["deps"] if dep.startswith("nanogpt/")]
    needed = closure(stage)
    under = {dep: {f for f in needed if f == dep or f.startswith(f"{dep}/")} for dep in declared}
    assert needed - set().union(*under.values()) == set(), f"missing under deps of {stage}"
    assert [dep for dep, files in under.items() if not files] == [], f"{stage} does without these"
    assert len(set(declared)) == len(declared)


@pytest.mark.parametrize("stage", CACHED)
def test_params_are_the_settings_that_decide(stage: str) -> None:
    # what its code reads of `machine:` says how a machine runs it
    (declared,) = GRAPH["stages"][stage]["params"][0].values()
    if stage == "train":  # a registered version is told how to sample, which is no training anew
        declared = [*declared, "sample"]
    code = "".join((ROOT / file).read_text(encoding="utf-8") for file in closure(stage))
    read = re.findall(r"\bsettings\.(download|tokenize|model|train|sample)\.(\w+)", code)
    assert {f"{s}.{key}" for s, key in read if not {s, f"{s}.{key}"} & {*declared}} == set()


def test_packages_have_no_code_of_their_own() -> None:
    # they run with every module in them, and no stage depends on them; stages/ asks for the system
    own = ("commands", "stages")
    rooms = [file for file in ROOT.glob("nanogpt/**/__init__.py") if file.parent.name not in own]
    assert len(rooms) > 10
    for file in rooms:
        (statement,) = ast.parse(file.read_text(encoding="utf-8")).body
        assert isinstance(statement, ast.Expr), file


def test_no_setting_has_a_default() -> None:
    # DVC cannot see a default change
    kinds = [kind for kind in vars(settings).values() if isinstance(kind, type)]
    sections = [kind for kind in kinds if issubclass(kind, BaseModel) and kind is not BaseModel]
    assert len(sections) > 8
    for section in sections:
        for name, field in section.model_fields.items():
            # a part of a value may be left out, which says what null says
            optional = section in (settings.Expect, settings.Fields) and field.default is None
            assert field.is_required() or optional, f"{section.__name__}.{name}"


@pytest.mark.parametrize("stage", GRAPH["stages"])
def test_a_stage_is_its_own_module_at_the_root(stage: str) -> None:
    declared = GRAPH["stages"][stage]
    assert declared["cmd"] == f"exec python -m nanogpt.stages.{stage} '${{params}}'"
    assert declared["wdir"] == "${root}"


def test_stages_run_in_one_order() -> None:
    # DVC takes stages that need not wait for each other in an order that changes
    for before, after in pairwise(GRAPH["stages"].values()):
        made = [*before.get("outs", []), *before.get("metrics", [])]
        paths = {path for out in made for path in ([out] if isinstance(out, str) else out)}
        assert paths & {*after["deps"]}


def test_what_dvc_does_not_cache_lets_it_remember_the_stage() -> None:
    """An uncached output that is no metric and no plot has it run again when settings go back."""
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        assert all(isinstance(out, str) for out in stage.get("outs", []))


def test_the_graph_is_a_map() -> None:
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 100


def known() -> set[str]:
    """The folders of the recipes that DVC knows in the repository of the current folder."""
    with Repo() as repo:
        return {os.path.relpath(os.path.dirname(stage.path)) for stage in repo.index.stages}


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
class TestRecipe:
    def test_has_the_same_graph(self, recipe: Path) -> None:
        own = recipe / "dvc.yaml"
        assert not own.is_symlink(), "DVC does not follow a link in a git revision"
        assert own.read_bytes() == (ROOT / "dvc.yaml").read_bytes(), "run `make recipes`"

    def test_settings_load(self, recipe: Path) -> None:
        found = load(recipe / "params.yaml")
        assert (recipe / found.root).resolve() == ROOT
        assert Path(found.data).parent == Path("data")

    def test_is_known_to_dvc_when_it_has_run(
        self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_project(tmp_path, *map(name_of, RECIPES[1:]))
        hidden = [f"/{name_of(other)}/dvc.yaml" for other in RECIPES[1:]]
        Path(tmp_path, ".dvcignore").write_text("\n".join(["# ours", *hidden, ""]))
        monkeypatch.chdir(tmp_path)
        assert known() == {"."}
        adopt(name_of(recipe))
        assert [stage.name for stage in stages(name_of(recipe))] == list(GRAPH["stages"])
        assert known() == {".", name_of(recipe)}
        left = [line for line in hidden if line != f"/{name_of(recipe)}/dvc.yaml"]
        assert Path(".dvcignore").read_text().splitlines() == ["# ours", *left]

    def test_is_hidden_from_dvc_until_it_has_run(self, recipe: Path) -> None:
        # what DVC knows and nobody has made fails `dvc checkout`, `dvc pull` and `dvc exp apply`
        committed = subprocess.check_output(["git", "ls-files", recipe], cwd=ROOT)
        if committed and recipe != ROOT and not (recipe / "dvc.lock").exists():
            lines = (ROOT / ".dvcignore").read_text().splitlines()
            assert f"/{name_of(recipe)}/dvc.yaml" in lines, "run it, or name it in .dvcignore"

    def test_settings_have_no_anchors(self, recipe: Path) -> None:
        # `dvc exp run -S` would write one value into every place that shares it
        events = yaml.parse((recipe / "params.yaml").read_text())
        assert not any(getattr(event, "anchor", None) for event in events)


def test_recipes_write_side_by_side() -> None:
    data = [load(recipe / "params.yaml").data for recipe in RECIPES]
    assert len(set(data)) == len(RECIPES)
