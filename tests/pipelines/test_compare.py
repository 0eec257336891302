"""The table of experiments and the picture of the curves, from what git and the workspace hold."""

import json
import re
import sys
from pathlib import Path

import pytest

from pipelines import compare, plots
from pipelines.graph import RecipeError, adopt, stages
from tests.kit.checkouts import commit
from tests.kit.toy import make_project

NANOGPT = "pipelines/tiny_shakespeare_nanogpt"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder: two recipes, the default one committed with figures and curves."""
    make_project(tmp_path, NANOGPT)
    (tmp_path / ".dvcignore").write_text(f"# not run yet\n/{NANOGPT}/dvc.yaml\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    made("data/shakespeare", 1.5)
    commit(tmp_path)


def made(data: str, loss: float) -> None:
    folder = Path(data)
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    training = {"val_bits_per_byte": loss, "weights_sha256": "0123abcd"}
    (folder / "train.json").write_text(json.dumps(training))
    (folder / "eval.json").write_text(json.dumps({"bits_per_byte": loss + 1, "split": "test"}))
    rows = f"step,train_loss,learning_rate,grad_norm\n1,{loss + 2},0.1,1\n2,{loss},0.1,\n"
    (folder / "curves" / "train.csv").write_text(rows)
    (folder / "curves" / "val.csv").write_text(
        f"step,val_loss,val_bits_per_byte\n0,9,4\n2,9,{loss}\n"
    )


def run(monkeypatch: pytest.MonkeyPatch, module: object, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["it", *words])
    try:
        module.main()  # type: ignore[attr-defined]
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_table_says_in_which_settings_a_result_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = Path("params.yaml")
    params.write_text(re.sub(" steps: .*", " steps: 9", params.read_text()))
    made("data/shakespeare", 1.25)
    assert run(monkeypatch, compare) == 0
    lines = capsys.readouterr().out.splitlines()
    now, committed = [line.replace("│", "").split() for line in lines if "│" in line]
    assert now == ["workspace", "1.2500", "2.2500", "0123abc", "train.steps=9"]
    assert committed[1:] == ["1.5000", "2.5000", "0123abc"]


def test_a_recipe_that_is_in_no_commit_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adopt("tiny_shakespeare_nanogpt")  # as whatever runs it
    with pytest.raises(RecipeError, match="has no curves yet"):
        plots.read("tiny_shakespeare_nanogpt", ["HEAD"])
    made("data/tiny_shakespeare_nanogpt", 1.75)
    assert run(monkeypatch, compare, "tiny_shakespeare_nanogpt") == 0
    said = capsys.readouterr().out
    assert "1.7500" in said
    assert "steps=" not in said


def test_what_a_recipe_needs_of_another_is_not_shown_as_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adopt(NANOGPT)
    graph, params = Path(NANOGPT, "dvc.yaml"), Path(NANOGPT, "params.yaml")
    graph.write_text(
        graph.read_text().replace('"${data}/raw"]', '"${data}/raw", data/shakespeare/model]')
    )
    assert stages(NANOGPT)[0].address == "dvc.yaml:check"
    commit(Path())
    params.write_text(re.sub(" steps: .*", " steps: 9", params.read_text()))
    made("data/tiny_shakespeare_nanogpt", 1.75)
    assert run(monkeypatch, compare, NANOGPT) == 0
    now = next(line for line in capsys.readouterr().out.splitlines() if "workspace" in line)
    assert now.replace("│", "").split() == [
        "workspace",
        "1.7500",
        "2.7500",
        "0123abc",
        "train.steps=9",
    ]


def test_curves_become_one_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made("data/shakespeare", 1.25)
    assert run(monkeypatch, plots) == 0
    picture = Path(capsys.readouterr().out.strip())
    assert picture == Path("dvc_plots/shakespeare.png").resolve()
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = plots.read(".", ["HEAD", "workspace"])
    assert set(found) == {"val_bits_per_byte", "train_loss", "learning_rate", "grad_norm"}
    assert plots.lines(found["val_bits_per_byte"]) == {
        "HEAD": [(0.0, 4.0), (2.0, 1.5)],
        "workspace": [(0.0, 4.0), (2.0, 1.25)],
    }
    assert plots.lines(found["train_loss"])["HEAD"] == [(1.0, 3.5), (2.0, 1.5)]
    assert plots.lines(found["grad_norm"])["HEAD"] == [(1.0, 1.0)]  # a step may lack a column


@pytest.mark.parametrize(
    ("module", "words", "says"),
    [
        (compare, ["nowhere"], "compare: nowhere is not the folder of a recipe"),
        (plots, ["--recipe=nowhere"], "plots: nowhere is not the folder of a recipe"),
        (plots, ["nothing"], "plots: unknown Git revision 'nothing'"),
        (
            plots,
            ["--recipe=tiny_shakespeare_nanogpt"],
            "plots: tiny_shakespeare_nanogpt has not",
        ),
        (compare, ["tiny_shakespeare_nanogpt"], "compare: tiny_shakespeare_nanogpt has not run"),
    ],
)
def test_what_is_not_there_is_said_in_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: object,
    words: list[str],
    says: str,
) -> None:
    assert run(monkeypatch, module, *words) == 2
    assert capsys.readouterr().err.startswith(says)
    assert NANOGPT in Path(".dvcignore").read_text()  # who only looks changes nothing
