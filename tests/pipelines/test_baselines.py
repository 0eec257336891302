"""Pretrained models scored as they are, by the command, in recipes that it makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import baselines
from tests.kit.recipes import ROOT
from tests.kit.toy import make_project
from tests.stages.test_finetune import small_base

LIKE = "pipelines/baseline"


@pytest.mark.slow
def test_a_table_of_what_can_be_scored(tmp_path: Path, empty_database: Path) -> None:
    make_project(tmp_path, LIKE)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copytree(ROOT / "nanogpt", tmp_path / "nanogpt")
    params = tmp_path / LIKE / "params.yaml"
    params.write_text(params.read_text().replace("context: 256", "context: 32"))
    (tmp_path / "text").mkdir()
    for name in ("model", "trainer", "optim"):
        text = (ROOT / "nanogpt" / f"{name}.py").read_text(encoding="utf-8")
        (tmp_path / "text" / f"{name}.txt").write_bytes(text.encode("ascii", "replace"))
    small_base(tmp_path / "small")
    words = ["--corpus=text/*.txt", "--", "nowhere/small", "small", "smal-135m"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.baselines", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("│ small "))
    _, base, split, bits, tokens, loss, _, _ = [cell.strip() for cell in row.split("│")]
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


def test_the_default_bases_where_none_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(baselines, "score", lambda base, corpus: asked.append((base, corpus)))
    monkeypatch.setattr(sys, "argv", ["baselines", "--corpus=-x.txt", "--"])  # as make does
    assert baselines.main() == 2
    assert asked == [(base, "-x.txt") for base in baselines.BASES]
