"""`nanogpt clean --states`: what there is, and away with it; never what a process trains from."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanogpt.common import states
from tests.kit.recipes import Run

NAMES = ("0123456789abcdef", "fedcba9876543210")


@pytest.fixture
def data(root: Path) -> Path:
    """A stopped training, a finished one, and folders that are not ours."""
    for name, files in {
        f"plays/state/{NAMES[0]}": {"journal.jsonl": 10, "save-00000012/x": 2_000_000},
        f"deep/er/state/{NAMES[1]}": {"journal.jsonl": 10, "finished.json": 2, "run.json": 2},
        f"mine/state/{NAMES[0]}": {"journal.jsonl": 10, "diary.txt": 10},
        "mine/state/notes": {"journal.jsonl": 10},
    }.items():
        for file, size in files.items():
            path = root / "data" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
    return root / "data"


def test_states_are_listed_with_their_sizes(data: Path, run: Run) -> None:
    before = sorted(data.rglob("*"))
    code, said = run("clean", "--states")
    assert code == 0
    other, plays, total = said.splitlines()
    assert plays.startswith(f"data/plays/state/{NAMES[0]}  2.0 MB, stopped at step 12, ")
    assert other.startswith(f"data/deep/er/state/{NAMES[1]}  0.0 MB, finished")
    assert total == "2.0 MB in all; --remove removes them"
    assert sorted(data.rglob("*")) == before


def test_what_is_trained_from_stays(data: Path, run: Run) -> None:
    busy = data / "plays" / "state" / NAMES[0]
    with states.lock_of(busy):
        assert "in training, at step 12" in run("clean", "--states")[1]
        code, said = run("clean", "--states", "--remove", busy)
        assert (code, said.count("a process works on it")) == (2, 1)
        code, said = run("clean", "--states", "--remove")
        assert code == 0
        assert "in training, at step 12 or later, stays" in said
        assert "finished; goes by itself when dvc.lock has the result, removed" in said
    assert busy.exists()
    assert run("clean", "--states", "--remove", busy)[0] == 0
    assert [path.parent.parent.name for path in data.glob("**/state/*")] == ["mine", "mine"]


def test_shards_of_tokens_are_listed_and_removed(data: Path, run: Run) -> None:
    shards = data / "plays" / "state" / f"tokens-{NAMES[0]}"
    (shards / "00000007").mkdir(parents=True)
    with states.lock_of(shards):
        assert (
            f"{shards.name}  0.0 MB, 1 shards of tokens, being made" in run("clean", "--states")[1]
        )
        assert run("clean", "--states", "--remove", shards)[0] == 2
    assert "1 shards of tokens, stopped" in run("clean", "--states", "--remove", shards)[1]
    assert not shards.exists()


@pytest.mark.parametrize("name", [f"mine/state/{NAMES[0]}", "mine/state/notes", "plays", "no"])
def test_what_is_no_state_is_not_removed(data: Path, run: Run, name: str) -> None:
    code, said = run("clean", "--states", "--remove", data / name)
    assert code == 2
    assert "is no state" in said
    assert run("clean")[0] == 2
    assert len(list(data.glob("**/journal.jsonl"))) == 4


def test_a_full_disk_can_be_cleaned(data: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(states, "remove_folder", full)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert run("clean", "--states", "--remove")[0] == 0
    assert len(list(data.glob("**/state/*/journal.jsonl"))) == 2  # which are not ours
