"""Pretrained models scored as they are, by the command, in recipes that it makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.recipes import ROOT
from tests.test_finetune import small_base
from tests.toy import make_toy

LIKE = "pipelines/baseline"


def test_a_table_of_what_can_be_scored(tmp_path: Path, empty_database: Path) -> None:
    make_toy(tmp_path)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copytree(ROOT / "nanogpt", tmp_path / "nanogpt")
    shutil.copytree(ROOT / LIKE, tmp_path / LIKE, ignore=shutil.ignore_patterns("dvc.lock"))
    params = tmp_path / LIKE / "params.yaml"
    params.write_text(params.read_text().replace("context: 256", "context: 32"))
    (tmp_path / "text").mkdir()
    for name in ("model", "trainer", "optim"):
        shutil.copy(ROOT / "nanogpt" / f"{name}.py", tmp_path / "text" / f"{name}.txt")
    small_base(tmp_path / "small")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # dvc.yaml says `python`
    words = ["nowhere/small", "small", "smal-135m", "--corpus", "text/*.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.baselines", *words],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ small "))
    _, base, split, tokens, loss, _, bits, _ = [cell.strip() for cell in row.split("│")]
    assert (base, split) == ("small", "test")
    assert int(tokens.replace(",", "")) > 100
    assert 6 < float(loss) < 7  # a random model of 577 tokens
    assert 8 < float(bits) < 10
    assert "'smal-135m' is neither a known base model nor" in done.stdout + done.stderr
    assert "no file matches 'nowhere/small'" in done.stderr
    assert done.stderr.endswith("not scored, for the reasons above: nowhere/small, smal-135m\n")
    assert sorted(each.name for each in (tmp_path / "pipelines").iterdir()) == [
        "baseline",
        "baseline_small_text",
    ]
