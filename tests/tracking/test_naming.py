"""What a training is called: by what differs from the commit that it began from."""

import subprocess
from pathlib import Path

import pytest
import yaml

from nanogpt.settings import load
from nanogpt.tracking.naming import run_name
from tests.kit.recipes import values

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e@localhost")


def name(**changes: object) -> str:
    Path("params.yaml").write_text(yaml.safe_dump(values(**changes)), encoding="utf-8")
    return run_name(load("params.yaml"))


@pytest.fixture
def committed(root: Path) -> None:
    """The default recipe at HEAD."""
    assert name() == "shakespeare"  # of no repository
    for words in (["init", "-q"], ["add", "params.yaml"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*GIT, *words], check=True)


@pytest.mark.usefixtures("committed")
def test_a_run_is_named_by_what_differs_from_the_commit() -> None:
    assert name() == "shakespeare"
    assert name(model__n_layer=6, train__learning_rate=0.003) == "n_layer=6 learning_rate=0.003"
    assert name(seed=2, tokenize__seed=3) == "seed=2 tokenize.seed=3"
    assert name(sample__prompt="x", machine__threads=1) == "shakespeare"  # the same training
    changes = {"model__n_layer": 3, "model__n_head": 2, "model__n_kv_head": 2, "seed": 1}
    more = {"train__steps": 1800, "train__max_skips": 2, "train__patience": 3}
    assert name(**changes, **more).endswith(" and 2 more")
    long = name(download__corpus="a/very/long/path/to/some/texts/*.txt")
    assert long == "corpus=a/very/long/path/to/som…"


@pytest.mark.usefixtures("committed")
def test_a_commit_of_other_times_names_nothing() -> None:
    Path("params.yaml").write_text("steps: 1\n")
    subprocess.run([*GIT, "commit", "-q", "-a", "-m", "second"], check=True)
    assert name() == "shakespeare"


def test_an_experiment_of_dvcs_gives_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "bushy-tail")
    assert name(seed=2) == "bushy-tail"
