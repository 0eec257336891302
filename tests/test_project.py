"""The rules between the rooms of the repository, the lock, and the Makefile."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.imports import ROOT, imported

LOCK = ROOT / "requirements.lock"

# room: what none of its files may import
RULES = {
    "nanogpt/*.py": ["nanogpt.stages", "pipelines", "dvc", "prefect"],
    "nanogpt/stages/*.py": ["pipelines", "dvc", "prefect", "mlflow"],
    "pipelines/*.py": ["nanogpt", "mlflow"],
}


@pytest.mark.parametrize("room", RULES)
def test_imports_run_one_way(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted(ROOT.glob(room))
        for name in sorted(imported(file))
        for banned in RULES[room]
        if name == banned or name.startswith(f"{banned}.")
    ]
    assert not wrong


def test_only_tracking_imports_mlflow() -> None:
    importers = {
        file.name
        for file in ROOT.glob("nanogpt/**/*.py")
        if any(name.split(".")[0] == "mlflow" for name in imported(file))
    }
    assert importers <= {"tracking.py", "registry.py"}


def locked() -> list[Requirement]:
    lines = LOCK.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_lock_pins_every_direct_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins: dict[str, list[str]] = {}
    for pin in locked():
        pins.setdefault(pin.name.lower().replace("_", "-"), []).append(
            str(pin.specifier).removeprefix("==")
        )
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        versions = pins.get(wanted.name.lower().replace("_", "-"), [])
        assert versions, f"{wanted.name} is not in requirements.lock; run `make lock`"
        assert all(wanted.specifier.contains(version) for version in versions), text


def test_lock_is_pins_only_and_brings_no_cuda() -> None:
    for pin in locked():
        assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), pin
        assert pin.url is None
        assert not re.match(r"nvidia-|cuda-|triton$", pin.name), pin


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # these tests may run under make themselves
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "RECIPE", "VENV"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True)


def test_help_has_a_line_for_each_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", text)
    assert targets
    shown = [line.split()[0] for line in make().stdout.splitlines()]
    assert shown == targets[1].split()


def test_a_wrong_python_is_one_message(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    old = tmp_path / "python"
    pretend = "import sys; sys.version_info = (3, 10, 1); $2"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}"\n')
    old.chmod(0o755)
    done = make("test", f"PYTHON={old}", folder=tmp_path)
    assert done.returncode == 2
    assert re.match(r"Python 3\.11, 3\.12 or 3\.13 is needed, and .* is 3\.10; name", done.stderr)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "prompt", ["ROMEO:", 'it\'s "quoted" `id` $(id) $HOME ; # \\ &', "two\nlines", "déjà vu"]
)
def test_a_prompt_reaches_the_stage_as_it_is(tmp_path: Path, prompt: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "params.yaml").write_text("code: nanogpt\ndata: data/mine   # here\n")
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder.parent / "ready").touch()
    python = bin_folder / "python"
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    python.chmod(0o755)
    done = make("sample", "--old-file=.venv/ready", f"PROMPT={prompt}", folder=tmp_path)
    assert done.stdout == f"-m|nanogpt.stages.sample|--model|data/mine/model|--prompt|{prompt}|"
