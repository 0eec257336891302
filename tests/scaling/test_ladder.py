"""A ladder: each training once, stopped or not with the same result; and the command."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import Stopped, UserError
from nanogpt.machine.distributed import join
from nanogpt.scaling import ladder, law, promise
from nanogpt.scaling.ladder import climb, known, rung_of, rungs
from nanogpt.scaling.promise import sizes_of
from nanogpt.settings import FromScratch, load
from nanogpt.sizing.dial import by_heart
from nanogpt.text.tokens import Tokens, open_tokens
from tests.kit.recipes import ROOT, Run
from tests.kit.toy import make_project

LARGEST = 2e9  # operations


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings of a second count."""
    monkeypatch.setattr(ladder, "FEWEST", 12)
    monkeypatch.setattr(law, "DRAWS", 20)
    monkeypatch.setattr(promise, "DEEPEST", 4)


@pytest.fixture
def recipe(tokenized: Path) -> tuple[FromScratch, Tokens]:
    settings = load(tokenized / "params.yaml")
    assert isinstance(settings, FromScratch)
    return settings, open_tokens(tokenized / "data" / "test" / "tokens")


def test_rungs_are_of_the_budgets_asked_for(recipe: tuple[FromScratch, Tokens]) -> None:
    settings, tokens = recipe
    found = rungs(settings, tokens, [3, 1, 2, 2], LARGEST, 6, 2)
    assert {rung.depth for rung in found} == {1, 2, 3}
    seeds = [rung.settings.seed for rung in found]
    assert seeds == len(found) // 2 * [settings.seed, settings.seed + 1]
    assert max(rung.flops for rung in found) == pytest.approx(LARGEST, rel=0.02)
    for rung in found:
        assert rung.settings.train.steps >= ladder.FEWEST
        assert rung.tokens <= 4 * tokens.manifest.splits["train"].tokens
        nearest = min(abs(LARGEST / 2**i / rung.flops - 1) for i in range(6))
        assert nearest < 0.05  # whole steps


def test_a_stopped_training_goes_on_and_a_finished_one_is_not_trained_again(
    recipe: tuple[FromScratch, Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tokens = recipe
    world = join(settings.machine)
    rung = rung_of(settings, tokens, 2, LARGEST / 8)
    asked: list[int] = []

    def told() -> int:
        asked.append(1)
        return 15 if len(asked) == stop else 0

    stop = 0
    whole = climb(rung, tokens, world, tmp_path / "whole", told)
    often, stop = len(asked), len(asked) // 2
    asked.clear()
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        climb(rung, tokens, world, folder, told)
    assert known(rung, tokens, folder) is None
    assert list(folder.glob("state/*/save-*[1-9]*"))
    asked.clear()
    stop = 0
    again = climb(rung, tokens, world, folder, told)
    assert len(asked) < often  # it went on
    assert again.bits_per_byte == whole.bits_per_byte
    assert not list(folder.glob("state/*"))
    monkeypatch.setattr(ladder, "Trainer", None)
    assert climb(rung, tokens, world, folder) == again
    path = ladder.path_of(rung, tokens, folder)

    class Waited(ladder.Saves):
        """Until another process had trained it."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            path.write_bytes(made)

    made = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(ladder, "Saves", Waited)
    assert climb(rung, tokens, world, folder) == again
    assert not list(folder.glob("state/*"))
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        known(rung, tokens, folder)


def test_what_other_code_began_is_not_gone_on_with(
    recipe: tuple[FromScratch, Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tokens = recipe
    world, rung, asked = join(settings.machine), rung_of(settings, tokens, 1, LARGEST / 8), []
    with pytest.raises(Stopped):
        climb(rung, tokens, world, tmp_path, lambda: 15 * (len(asked) > 20 or asked.append(1) or 0))
    monkeypatch.setattr(ladder, "_code", lambda: "other")
    with pytest.raises(Stopped, match="at step 0,"):
        climb(rung, tokens, world, tmp_path, lambda: 15)


def test_the_code_that_trains_is_that_which_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(ladder._code.cache_clear)
    ladder._code.cache_clear()
    monkeypatch.setattr(ladder, "ROOMS", tmp_path)
    monkeypatch.setattr(ladder, "DECIDES", ("model.py",))
    (tmp_path / "model.py").write_text("")
    before = ladder._code()
    (tmp_path / "model.py").write_text("edited while a ladder is trained")
    assert ladder._code() == before


def test_the_code_that_decides_is_that_of_the_graph() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    code = {dep.removeprefix("nanogpt/") for dep in graph if dep.startswith("nanogpt/")}
    # what publishes, and what begins the stage, takes no part in a ladder
    others = {"stages/train.py", "formats", "text/checks/profile.py"}
    assert set(ladder.DECIDES) - {"scaling/ladder.py"} == code - others


def test_the_command_from_the_ladder_to_the_promise(
    tokenized: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(tokenized, tmp_path, dirs_exist_ok=True, symlinks=True)
    words: list[Any] = ["scaling", tmp_path, "--depths=1,2,3", f"--largest={LARGEST}"]
    code, said = run(*words, "--budgets=2")
    assert (code, "a law of five numbers needs" in said) == (2, True)
    folder = tmp_path / "data" / "test" / "scaling"
    assert not folder.exists()
    words += ["--budgets=5", "--seeds=1", "--hours=0.01", "--json"]
    code, said = run(*words)
    assert code == 0, said
    found = json.loads(said)
    assert len(list(folder.glob("*.json"))) == len(found["rungs"]) + 1
    assert json.loads((folder / "law.json").read_text()) == found
    assert (folder / "law.png").stat().st_size > 10_000
    said = found["promise"]
    assert 0 < said["seconds"] <= 36.1
    assert said["low"] < said["loss"] < said["high"]
    text = open_tokens(tmp_path / "data" / "test" / "tokens").manifest
    settings = load(tmp_path / "params.yaml")
    assert isinstance(settings, FromScratch)
    matrices = sizes_of(settings, text.vocab_size)[said["depth"]].matrices
    again = by_heart(matrices, said["tokens"], text.splits["train"].tokens)
    assert found["by_heart"] == bool(again)
    assert found["warning"] is None
    assert found["left_out"] == 3 * 5 - len(found["rungs"]) > 0
    old = min(folder.glob("[0-9a-f]*.json"))
    old.write_text(json.dumps(json.loads(old.read_text()) | {"made_by": "other code"}))
    files = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9a-f]*.json")}
    # only what is checked is trained now; it may miss, as so few and short trainings tell little
    code, _ = run(*words, "--check=2")
    assert code in (0, 2)
    assert all(path.stat().st_mtime_ns == before for path, before in files.items())
    after = json.loads((folder / "law.json").read_text())
    assert f"1 of {len(files) + 1} trainings were made by other code" in after["warning"]
    error, loss = after["check"]["error"], after["promise"]["loss"]
    assert (abs(error) > 0.02) == (code == 2)
    truth = after["check"]["result"]["bits_per_byte"]
    assert error == pytest.approx(after["check"]["said"]["loss"] / truth - 1)
    assert after["law"] == found["law"]
    assert after["promise"]["high"] - loss >= 0.999 * abs(error) * loss
    code, said = run(*words[:-1])
    assert re.search(r"depth [1-4], [\d.]+ \([\d.]+ to [\d.]+\) bits per byte", said), said
    code, said = run("scaling", tmp_path, "--depths=2,x")
    assert (code, "such as 2,3,4" in said) == (2, True)


def test_what_does_not_fit_is_refused_before_any_is_trained(
    tokenized: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(config: GPTConfig, *_: Any) -> None:
        if config.n_layer > 2:
            raise UserError("this training needs more")

    shutil.copytree(tokenized, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.setattr("nanogpt.sizing.memory.check", check)
    code, said = run("scaling", tmp_path, "--depths=1,2,3", f"--largest={LARGEST}", "--seeds=1")
    assert (code, "this training needs more" in said) == (2, True)
    assert not (tmp_path / "data" / "test" / "scaling").exists()


def test_a_base_or_no_tokens_are_refused(tmp_path: Path, run: Run) -> None:
    make_project(tmp_path, "pipelines/finetune_shakespeare")
    code, said = run("scaling", tmp_path)
    assert (code, "has no tokens yet" in said) == (2, True)
    code, said = run("scaling", tmp_path / "pipelines/finetune_shakespeare")
    assert (code, "starts from download.base" in said) == (2, True)
