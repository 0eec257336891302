"""A finished training's state stays until dvc.lock holds the result, and is never pulled away."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import LocalFileSystem

from nanogpt.common import states

FILES = {"train.csv": "step\n1\n", "val.csv": "", "a/b": "b", "a-b": "c", "é/ü": "ö", "B": "b"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A recipe's artifacts, with a finished training's state and a stopped one's."""
    folder = tmp_path / "data"
    for name, text in FILES.items():
        (folder / "curves" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "curves" / name).write_text(text, encoding="utf-8")
    (folder / "train.json").write_text('{"val_loss": 1.5}\n')
    for name in ("finished", "stopped"):
        (folder / "state" / name).mkdir(parents=True)
        (folder / "state" / f"{name}.lock").touch()
    outs = {f"data/{name}": folder / name for name in ("train.json", "curves")}
    states.finish(folder / "state" / "finished", outs)
    return folder


def lock(data: Path, **changes: Any) -> dict[str, Any]:
    """A dvc.lock that holds the result, with changes."""
    hashes = {name: states.dvc_md5(data / name) for name in ("curves", "train.json")} | changes
    # `data: ./data` in params.yaml
    outs = [{"path": f"./data/{name}", "hash": "md5", "md5": md5} for name, md5 in hashes.items()]
    outs.append({"path": "data/model", "hash": "md5", "md5": "0.dir"})
    return {"schema": "2.0", "stages": {"train": {"cmd": "train", "outs": outs}}}


@pytest.mark.parametrize("name", ["curves", "train.json"])
def test_hashes_are_dvcs(data: Path, tmp_path: Path, name: str) -> None:
    files = LocalFileSystem()
    _, _, built = build(HashFileDB(files, str(tmp_path / "cache")), str(data / name), files, "md5")
    assert states.dvc_md5(data / name) == built.hash_info.value


@pytest.mark.parametrize(
    ("changes", "stays"),
    [({}, False), ({"train.json": "0"}, True), ({"curves": "0.dir"}, True)],
)
def test_a_state_goes_when_the_lock_holds_its_result(
    data: Path, changes: dict[str, str], stays: bool
) -> None:
    (data.parent / "dvc.lock").write_text(yaml.safe_dump(lock(data, **changes)))
    states.remove_held(data.parent / "params.yaml", data)
    left = {"stopped", "stopped.lock"} | ({"finished", "finished.lock"} if stays else set())
    assert {path.name for path in (data / "state").iterdir()} == left


@pytest.mark.parametrize(
    "text", [None, "", "{", "stages: {}", "stages: {train: {outs: [x]}}", "\ud800", "[1]"]
)
def test_a_lock_that_holds_nothing_removes_nothing(data: Path, text: str | None) -> None:
    if text is not None:
        (data.parent / "dvc.lock").write_bytes(text.encode("utf-8", "surrogatepass"))
    states.remove_held(data.parent / "params.yaml", data)
    assert json.loads((data / "state" / "finished" / "finished.json").read_text())


def test_a_state_in_use_is_not_removed(data: Path) -> None:
    folder = data / "state" / "finished"
    (data.parent / "dvc.lock").write_text(yaml.safe_dump(lock(data)))
    with states.lock_of(folder):
        assert states.in_use(folder)
        states.remove_held(data.parent / "params.yaml", data)
        assert not states.remove(folder)
    assert (folder / "finished.json").exists()
    assert not states.in_use(folder)
    assert states.remove(folder)
    assert not folder.with_suffix(".lock").exists()
