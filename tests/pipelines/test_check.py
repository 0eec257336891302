"""DVC runs the first stage always, and behind it what one's own files decide."""

import json
import re
from pathlib import Path

import pytest

from tests.kit.checkouts import git, make_checkout, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("check") / "a checkout")


def ran(folder: Path, *words: str, code: int = 0) -> list[str]:
    """The stages that `dvc repro` does not skip."""
    return re.findall("Running stage '(.*)':", run(folder, "dvc", "repro", *words, code=code))


def test_an_edited_text_is_downloaded_again(checkout: Path) -> None:
    assert ran(checkout, "download") == ["check", "download"]
    assert ran(checkout, "download") == ["check"]
    (checkout / "text" / "pipelines_new.txt").write_text("edited")
    assert ran(checkout, "download") == ["check", "download"]


def test_an_experiment_with_a_wrong_setting_of_the_machine_is_not_kept(checkout: Path) -> None:
    # whatever the target: no stage but the first need run
    words = ["dvc", "exp", "run", "eval", "-S", "machine.dtype=float33"]
    assert "machine.dtype: 'float33': should be 'auto', " in run(checkout, *words, code=255)
    git(checkout, "checkout", "--quiet", "--", "params.yaml")
    assert run(checkout, "dvc", "exp", "list", "--name-only").strip() == ""


@pytest.mark.parametrize("name", ["a `touch x` b", "a $(touch x) b"])
def test_the_shell_reads_nothing_into_the_name_of_a_recipes_folder(
    checkout: Path, name: str
) -> None:
    recipe = checkout / "pipelines" / name
    recipe.mkdir()
    own = {
        "root": "../..",
        "params": json.dumps(f"pipelines/{name}/params.yaml"),
        "data": f"data/odd_{len(name)}",
    }
    text = (checkout / "params.yaml").read_text()
    for key, value in own.items():
        text = re.sub(f"(?m)^{key}: .*$", f"{key}: {value}", text)
    (recipe / "params.yaml").write_text(text)
    (recipe / "dvc.yaml").write_bytes((checkout / "dvc.yaml").read_bytes())
    assert "check" in ran(checkout, "--single-item", f"pipelines/{name}/dvc.yaml:check")[0]
    assert (checkout / own["data"] / "inputs").is_dir()
    assert not list(checkout.rglob("x"))
