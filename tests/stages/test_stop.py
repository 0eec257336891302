"""Stages other than train, told to stop in the middle: code 143, nothing half, and again whole."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.kit.left_behind import everything
from tests.kit.recipes import ROOT, Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
WORKSHOP = r"\.nanogpt-\w+\.partial"


@pytest.fixture(scope="module")
def whole(tokenized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder after all its stages."""
    folder = tmp_path_factory.mktemp("whole") / "recipe"
    shutil.copytree(tokenized, folder, symlinks=True)
    recipe = Recipe(folder, download__corpus="text/*.txt")
    for stage in ("train", "eval", "sample"):
        recipe.run(stage)
    return folder


@pytest.mark.parametrize(
    ("stage", "out", "change"),
    [
        ("download", "raw", rf"mkdir data/test/{WORKSHOP}/new-raw"),
        ("download", "raw", rf"rename data/test/{WORKSHOP}/new-raw$"),
        ("tokenize", "tokens", rf"write data/test/{WORKSHOP}/new-tokens/val"),
        ("eval", "eval.json", rf"rename data/test/{WORKSHOP}/new-eval\.json"),
        ("eval", "eval.json", r"write mlflow\.db"),
        ("sample", "samples.md", r"mkdir data/\.outbox/"),
    ],
)
def test_told_to_stop_in_the_middle(
    whole: Path, tmp_path: Path, stage: str, out: str, change: str
) -> None:
    folder = tmp_path / "recipe"
    shutil.copytree(whole, folder, symlinks=True)
    recipe = Recipe(folder, download__corpus="text/*.txt")
    before = everything(recipe)
    made = recipe.data / out
    shutil.rmtree(made) if made.is_dir() else made.unlink()  # as DVC does
    aim = {"pattern": change, "since": "", "nth": 1, "delay": 0, "rank": "0", "alone": True}
    watched = {
        "PYTHONPATH": str(ROOT / "tests" / "kit" / "watch"),
        "AIM": json.dumps(aim),
        "LOG": str(tmp_path / "log"),
    }
    words = [f"{key}={value}" for key, value in watched.items()]
    process = recipe.start(["env", *words, *recipe.command(stage)])
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == f"{stage}: stopped; run the same command to go on"
    assert "Traceback" not in said
    assert not list(recipe.folder.glob("data/**/*.partial"))
    recipe.run(stage)
    assert everything(recipe) == before
