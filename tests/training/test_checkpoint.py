"""Saves: one training at a time holds them, and what another version wrote is refused."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nanogpt.common.errors import UserError
from nanogpt.machine.distributed import World, join
from nanogpt.trainer import Progress
from nanogpt.training.checkpoint import Saves
from tests.kit.recipes import quick


@pytest.fixture
def world() -> World:
    return join(quick().machine)


def test_who_waited_for_the_end_of_a_training_holds_it_alone(tmp_path: Path, world: World) -> None:
    folder = tmp_path / "state"
    first = Saves(folder, world, patience=0)
    with ThreadPoolExecutor(1) as another:
        waiting = another.submit(Saves, folder, world, patience=60)
        time.sleep(0.5)  # it has opened the lock's file, which the first removes
        assert not waiting.done()
        first.leave()  # with nothing saved
        second = waiting.result()
        assert folder.exists()
        with pytest.raises(UserError, match="another process is training this very model"):
            Saves(folder, world, patience=0)
        another.submit(second.leave).result()
    assert not list(tmp_path.iterdir())


def test_what_was_saved_stays(tmp_path: Path, world: World) -> None:
    saves = Saves(tmp_path / "state", world, patience=0)
    saves.save({"weight": torch.ones(2)}, Progress(step=3, best_step=3), rows=0)
    saves.wait()
    saves.leave()
    assert Saves(tmp_path / "state", world, patience=0).step == 3


def test_a_save_of_another_version_is_refused(tmp_path: Path, world: World) -> None:
    saves = Saves(tmp_path / "state", world, patience=0)
    tensors = {"weight": torch.ones(2)}
    saves.save(tensors, Progress(step=3, best_step=3), rows=0)
    saves.wait()
    path = tmp_path / "state" / "save-00000003" / "progress.json"
    values = json.loads(path.read_text())
    del values["guard"]
    path.write_text(json.dumps(values))
    saves.step = 3
    with pytest.raises(UserError, match="save-00000003 is of another version of this code"):
        saves.resume(tensors)
