"""Files and folders are whole or absent, and nothing goes but what this code had begun."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt.common import files
from nanogpt.common.files import clear, remove_folder, whole_file, whole_folder, write_text
from tests.kit.recipes import ROOT, contents


def test_folder_is_whole_or_absent(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole_folder(tmp_path / "raw") as folder:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    for content in ("first", "second"):
        with whole_folder(tmp_path / "raw") as folder:
            (folder / content).write_text(content)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["second"]


def test_a_folders_files_are_read_by_whom_others_are(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    with whole_folder(tmp_path / "raw") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "own").touch(mode=0o600)
    assert (tmp_path / "raw/inside/own").stat().st_mode == (tmp_path / "any").stat().st_mode


def fill(path: Path) -> None:
    with whole_folder(path) as folder:
        (folder / "new").write_text("new")


WAYS: dict[str, tuple[Callable[[Path], Any], dict[str, bytes]]] = {
    "a folder": (fill, {"out/new": b"new"}),
    "a file": (lambda path: write_text(path / "new", "new"), {"out/old": b"", "out/new": b"new"}),
    "a removal": (remove_folder, {}),
}
# names that were once ours to remove, or look as if they were
NOBODYS = (
    *("out.partial", "out.older.partial", ".nanogpt-notes.partial", ".nanogpt-0.partial"),
    ".nanogpt-0123456789abcdef.partial",
)


@pytest.mark.parametrize("way", WAYS)
def test_what_looks_like_ours_is_left_alone(way: str, tmp_path: Path) -> None:
    mine: dict[str, bytes] = {}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    for place in ("", "out/" if way == "a file" else ""):
        for name in NOBODYS:
            (tmp_path / place / name).mkdir(exist_ok=True)
            (tmp_path / place / name / "letter").write_text("mine")
            mine[f"{place}{name}/letter"] = b"mine"
    act, result = WAYS[way]
    act(tmp_path / "out")
    assert contents(tmp_path) == mine | result


def test_a_link_leads_to_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("lock", "letter"):
        (tmp_path / "mine" / name).write_text("mine")
    (tmp_path / f".nanogpt-{'0' * 16}.partial").symlink_to("mine")
    (tmp_path / f".nanogpt-{'x' * 16}.partial").mkdir()
    (tmp_path / f".nanogpt-{'x' * 16}.partial" / "lock").touch()
    before = contents(tmp_path)
    clear(tmp_path)
    assert contents(tmp_path) == before


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_text("mine")
    for act, _ in WAYS.values():
        (tmp_path / "out").mkdir(exist_ok=True)
        act(tmp_path / "out")
    assert contents(tmp_path) == {"out.partial": b"mine"}


KILLED = """
import os, signal, sys
from pathlib import Path
from nanogpt.common import files

def end(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

out = Path(sys.argv[2])
if sys.argv[1] == "a folder":
    with files.whole_folder(out) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "half").write_text("half")
        end()
if sys.argv[1] == "a file":
    with files.whole_file(out / "new") as path:
        path.write_text("half")
        end()
files.shutil.rmtree = end
files.remove_folder(out)
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_process_left_goes_with_the_next_one(way: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    command = [sys.executable, "-c", KILLED, way, str(tmp_path / "out")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert len(list(tmp_path.rglob("*.partial"))) == 1
    act, result = WAYS[way]
    act(tmp_path / "out")
    clear(tmp_path)
    assert contents(tmp_path) == result
    assert not list(tmp_path.rglob("*.partial"))


def test_two_at_once_are_not_in_each_others_way(tmp_path: Path) -> None:
    out, text = tmp_path / "out", tmp_path / "text"
    with whole_folder(out) as slow, whole_file(text) as last:
        (slow / "slow").touch()
        last.write_text("last")
        with whole_folder(out) as fast:
            (fast / "fast").touch()
        write_text(text, "first")
        clear(tmp_path)
        assert contents(out) == {"fast": b""}
        assert (slow / "slow").exists()
    assert contents(tmp_path) == {"out/slow": b"", "text": b"last"}


def test_another_takes_the_place_in_the_very_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Any) -> Path:
        if target == tmp_path / "out" and not target.exists():
            target.mkdir()
            (target / "theirs").touch()
            monkeypatch.setattr(Path, "rename", rename)
        return rename(self, target)

    fill(tmp_path / "out")
    monkeypatch.setattr(Path, "rename", late)
    fill(tmp_path / "out")
    assert contents(tmp_path) == {"out/new": b"new"}


def test_an_older_folder_comes_back_if_the_new_one_cannot_have_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refused(self: Path, target: Any) -> Path:
        if self.name == "new-out":
            raise PermissionError(1, "not so")
        return rename(self, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        fill(tmp_path / "out")
    assert contents(tmp_path) == {"out/old": b""}


def test_a_file_system_without_locks_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with whole_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        clear(tmp_path)
        assert (folder / "new").exists()  # nobody knows whether its process lives
    assert contents(tmp_path) == {"out/new": b"new"}
