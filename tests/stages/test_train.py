"""The stage `train` as a user meets it: stopped and resumed, on two processes, given nonsense."""

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from nanogpt.formats.weights import weights_sha256
from tests.kit.left_behind import everything, tracked
from tests.kit.recipes import Recipe


@pytest.fixture
def new_recipe(tokenized: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes that have their tokens already."""

    def make(name: str, **changes: Any) -> Recipe:
        shutil.copytree(tokenized, tmp_path / name, symlinks=True)
        return Recipe(tmp_path / name, download__corpus="text/*.txt", **changes)

    return make


def state(recipe: Recipe) -> Path | None:
    """The newest save of a training under way."""
    return max(recipe.data.glob("state/*/save-????????"), default=None)


def runs(recipe: Recipe) -> list[Any]:
    """What MLflow knows of the recipe."""
    client = MlflowClient(f"sqlite:///{recipe.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def kill_after_a_save(recipe: Recipe) -> None:
    """Start training, wait for a save, and end all its processes at once."""
    process = recipe.start(recipe.command("train"))
    while state(recipe) is None and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
def test_what_it_learns_does_not_depend_on_the_processes(
    new_recipe: Callable[..., Recipe],
) -> None:
    curves = []
    for processes, parallel in ((1, "auto"), (2, "ddp"), (2, "fsdp")):
        recipe = new_recipe(
            f"on {processes} {parallel}",
            train__steps=50,
            train__batch_size=7,  # not the same share for both
            train__embedding_learning_rate=0.01,  # a rare letter's row is not to jump
            machine__processes=processes,
            machine__parallel=parallel,
            machine__micro_batch=3,
        )
        recipe.run("train")
        rows = (recipe.data / "curves" / "train.csv").read_text().splitlines()[1:]
        curves.append([float(row.split(",")[1]) for row in rows])
        names = {path.name for path in (recipe.data / "model").iterdir()}
        assert {"model.safetensors", "config.json"} < names
    assert len(curves[0]) == 50
    # AdamW divides by the size of gradients: where one is next to nothing, so is all but rounding
    assert curves[1] == pytest.approx(curves[0], abs=1e-3)
    assert curves[2] == pytest.approx(curves[0], abs=1e-3)


@pytest.mark.slow
def test_a_save_is_read_by_any_number_of_processes(new_recipe: Callable[..., Recipe]) -> None:
    # few steps of a small rate: rounding has no time to grow
    changes = {
        "train__steps": 60,
        "train__eval_interval": 5,
        "train__learning_rate": 0.001,
        "train__muon_learning_rate": 0.002,
    }
    whole, moved = new_recipe("whole", **changes), new_recipe("moved", **changes)
    whole.run("train")
    for parallel, processes in (("fsdp", 2), ("auto", 1), ("fsdp", 2)):
        machine = {"machine__parallel": parallel, "machine__processes": processes}
        moved.change(download__corpus="text/*.txt", **changes, **machine)
        process = moved.start(moved.command("train"))
        before = state(moved)
        while state(moved) == before:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 143, printed
    moved.run("train")
    curves = []
    for recipe in (whole, moved):
        assert len(list((recipe.data / "model").glob("*.safetensors"))) == 1
        rows = (recipe.data / "curves" / "train.csv").read_text().splitlines()[1:]
        curves.append([float(row.split(",")[1]) for row in rows])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


def test_trained_twice_gives_the_same_bytes(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("twice", machine__dtype="auto")
    recipe.run("train")
    first = weights_sha256(recipe.data / "model")
    shutil.rmtree(recipe.data / "state")
    recipe.run("train")
    assert weights_sha256(recipe.data / "model") == first


def test_until_the_lock_holds_it_a_result_is_published_again(
    new_recipe: Callable[..., Recipe],
) -> None:
    recipe = new_recipe("finished")
    recipe.run("train")
    files, told = everything(recipe), tracked(recipe)
    for name in ("curves", "model"):
        shutil.rmtree(recipe.data / name)
    (recipe.data / "train.json").unlink()  # as DVC does
    printed = recipe.run("train")
    assert "has been trained to its end: publishing it again" in printed
    assert " steps of " not in printed
    assert everything(recipe) == files
    assert tracked(recipe) == told


@pytest.mark.slow
def test_a_second_training_of_the_same_model_waits_its_turn(
    new_recipe: Callable[..., Recipe],
) -> None:
    recipe = new_recipe("at once", train__steps=100000, train__decay_steps=10)
    first = recipe.start(recipe.command("train"))
    try:
        while state(recipe) is None:
            time.sleep(0.01)
        printed = recipe.run("train", code=2)
        assert "another process is training this very model" in printed
        assert state(recipe), "the first one's saves are untouched"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


@pytest.mark.parametrize(
    ("processes", "steps", "number"), [(1, 300, signal.SIGINT), (2, 150, signal.SIGTERM)]
)
@pytest.mark.slow
def test_stopped_by_a_signal_it_saves_that_very_step(
    new_recipe: Callable[..., Recipe], processes: int, steps: int, number: signal.Signals
) -> None:
    changes = {"train__steps": steps, "train__eval_interval": 50, "machine__processes": processes}
    whole, stopped = new_recipe("whole", **changes), new_recipe("stopped", **changes)
    whole.run("train")
    process = stopped.start(stopped.command("train"))
    while state(stopped) is None:
        time.sleep(0.01)
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, printed
    step = int(
        re.findall(r"stopped at step (\d+), which is saved; run the same command", printed)[0]
    )
    assert "Traceback" not in printed
    saved = state(stopped)
    assert saved
    assert saved.name == f"save-{step:08}"
    assert f"going on from step {step}" in stopped.run("train")
    assert weights_sha256(stopped.data / "model") == weights_sha256(whole.data / "model")
    (run,) = runs(stopped)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_saves_and_stops_when_who_waits_for_it_is_killed(
    new_recipe: Callable[..., Recipe], processes: int
) -> None:
    changes = {"train__steps": 100000, "train__decay_steps": 10}
    recipe = new_recipe("left alone", machine__processes=processes, **changes)
    wait = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    process = recipe.start([sys.executable, "-c", wait, *recipe.command("train")])
    while state(recipe) is None:
        time.sleep(0.01)
    process.kill()
    printed, _ = process.communicate(timeout=60)  # until the last of them has ended
    assert "train: the process that waited for this one is gone" in printed
    (step,) = re.findall(r"stopped at step ([\d,]+), which is saved", printed)
    saved = state(recipe)
    assert saved
    assert saved.name == f"save-{int(step.replace(',', '')):08}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def weights(save: Path) -> Path:
    """The file of the first process."""
    return min(save.glob("*.safetensors"))


def test_a_truncated_save_is_refused(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("truncated", train__steps=100000, train__decay_steps=10)
    kill_after_a_save(recipe)
    saved = state(recipe)
    assert saved
    truncate(weights(saved))
    assert f"{saved.name} is not a whole save" in recipe.run("train", code=2)
    truncate(saved / "progress.json")
    assert "progress.json cannot be read" in recipe.run("train", code=2)


@pytest.mark.slow
def test_a_foreign_save_is_refused(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("foreign", train__steps=100000, train__decay_steps=10)
    other = new_recipe("other", train__steps=100000, train__decay_steps=10, model__n_layer=1)
    kill_after_a_save(recipe)
    kill_after_a_save(other)
    mine, theirs = state(recipe), state(other)
    assert mine
    assert theirs
    shutil.copy(weights(theirs), weights(mine))
    assert "is not a whole save of this model: blocks.1." in recipe.run("train", code=2)
    weights(mine).write_bytes(b"not a checkpoint at all")
    assert "is not a whole save" in recipe.run("train", code=2)


@pytest.mark.slow
def test_a_full_disk_leaves_the_save_before(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("full", train__steps=300, train__eval_interval=10)
    kill_after_a_save(recipe)
    saved = state(recipe)
    assert saved
    before = weights(saved).read_bytes()
    limit = len(before) - 1  # a byte less than a save needs
    command = recipe.command("train")
    process = recipe.start(
        ["bash", "-c", f'ulimit -f {limit // 1024}; exec "$@"', "bash", *command]
    )
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "cannot save" in printed
    assert "the save before it is untouched" in printed  # MLflow's database may complain as well
    assert weights(saved).read_bytes() == before
    recipe.run("train")  # with room again, it goes on


def test_a_read_only_folder_is_named_before_any_work(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("read only")
    (recipe.data / "state").write_text("a file where a folder has to go")
    started = time.monotonic()
    printed = recipe.run("train", code=1)
    assert "state" in printed
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__context": 10**6}, "too few for one window of model.context 1000000"),
        ({"machine__device": "cuda"}, "machine.device: 'cuda' is not on this machine"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    new_recipe: Callable[..., Recipe], changes: dict[str, Any], says: str
) -> None:
    recipe = new_recipe("refused", **changes)
    assert says in recipe.run("train", code=2)
    assert not list(recipe.data.glob("state/*"))


def test_a_truncated_token_file_is_refused(new_recipe: Callable[..., Recipe]) -> None:
    recipe = new_recipe("cut")
    truncate(recipe.data / "tokens" / "train.bin")
    assert "train.bin" in recipe.run("train", code=2)
