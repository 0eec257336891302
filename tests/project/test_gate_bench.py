"""What measures how often a seed alone makes a champion, in small."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gate
from tests.kit.recipes import ROOT


@pytest.mark.slow
def test_pairs_are_trained_compared_and_counted(tokenized: Path) -> None:
    tokens = tokenized / "data" / "test" / "tokens"
    command = [sys.executable, "-m", "benchmarks.gate", "--pairs", "2", "--steps", "2"]
    command += ["--tokens", str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(r"pair 1: \d.* % (better|worse), 95 % interval", lines[0])
    assert lines[2].endswith(" of 2 promoted: eval.least_gain is 1.50%")
    assert lines[-1].startswith("by 2.00%: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [([], "run the tokenize stage first"), (["--pairs", "1"], "it takes 2 pairs, of 1 step each")],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["gate", "--tokens", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
