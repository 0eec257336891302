"""A bar for what takes long: one line every ten seconds in a log, drawn on a terminal."""

import io
import re
import sys
import threading
from pathlib import Path

import pytest
import tqdm

from nanogpt.common import progress
from nanogpt.common.files import describe
from nanogpt.common.progress import bar, filling


class Clock:
    """The time that tqdm sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)


def steps(monkeypatch: pytest.MonkeyPatch, seconds: float, each: float) -> None:
    clock = Clock(monkeypatch)
    count = round(seconds / each)
    with bar(count, "eval", "window") as shown:
        for _ in range(count):
            clock.now += each
            shown.update()


def test_in_a_log_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(monkeypatch, seconds=35, each=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "\r" not in "".join(lines)
    assert re.fullmatch(r"eval:  29%\|.+\| 20\.0/70\.0 \[00:10<00:25, 2\.00window/s\]", lines[0])
    assert lines[3].startswith("eval: 100%")


@pytest.mark.parametrize(("terminal", "seconds"), [(False, 9), (True, 0.9)])
def test_what_is_done_soon_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, seconds: float
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    steps(monkeypatch, seconds, each=0.3)
    assert stream.getvalue() == ""
    steps(monkeypatch, 12, each=0.3)
    assert "100%" in stream.getvalue()


def test_what_another_library_writes_is_seen_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "before").write_bytes(bytes(1 << 16))
    seen: list[float] = []
    enough = threading.Event()

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            super().update(n)
            seen.append(self.n)
            if self.n:
                enough.set()
            return None

    monkeypatch.setattr(progress, "tqdm", Bar)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    with filling(tmp_path, 1 << 20, "export"):
        with (tmp_path / "new").open("wb") as file:
            file.truncate(1 << 22)  # its whole size, and nothing in it
            file.write(b"x" * (1 << 16))
        assert enough.wait(60)
    assert seen[-1] == 1 << 16


def test_a_digest_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    parts: list[int] = []
    assert describe(tmp_path, "file", parts.append).bytes == sum(parts) == 3 << 20
    assert len(parts) == 3
