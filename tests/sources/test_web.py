"""A download that broke off goes on where it was, if the server's file is still the same."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nanogpt.common.errors import NotNow
from nanogpt.sources.fetch import fetch
from nanogpt.sources.web import Web

TEXT = bytes(range(256)) * 20_000  # 5 MB
STOP = 3_000_000  # bytes after which the server stops, the first time


class Server(ThreadingHTTPServer):
    """Gives parts of TEXT by the rules of HTTP; the first answer breaks off, or waits for ever."""

    daemon_threads = True
    text = TEXT
    etag = '"one"'
    modified = ""
    parts = True  # whether it gives parts
    condition = True  # and looks at what they are of
    waits = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # ranges
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.txt?token=hush"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        here = self.server
        here.asked.append(self.headers.get("Range"))
        same = self.headers.get("If-Range") in (here.etag, here.modified) or not here.condition
        start = 0
        if here.parts and self.headers.get("Range") and same:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(here.text):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(here.text) - 1}/*")
        for name, value in {"ETag": here.etag, "Last-Modified": here.modified}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(here.text) - start))
        self.end_headers()
        with suppress(OSError):  # of a client that is no more
            stop = STOP if len(here.asked) == 1 else None
            self.wfile.write(here.text[start:stop])
            if stop and here.waits:
                here.over.wait()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("nanogpt.sources.fetch.WAITS", ())
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def broken_off(server: Server, here: Path) -> Web:
    """A source whose first attempt broke off."""
    web = Web(((server.address, None),), keep=here / "keep")
    with pytest.raises(NotNow):
        fetch("x", [web], here / "x")
    return web


def test_the_next_attempt_fetches_the_rest(server: Server, tmp_path: Path) -> None:
    web = broken_off(server, tmp_path)
    fetch("x", [web], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT
    assert server.asked[0] is None
    first = str(server.asked[1]).removeprefix("bytes=").removesuffix("-")
    assert 0 < int(first) <= STOP
    assert not list((tmp_path / "keep").iterdir())


def test_a_date_will_do_where_there_is_no_strong_etag(server: Server, tmp_path: Path) -> None:
    server.etag, server.modified = 'W/"weak"', "Thu, 26 Nov 2026 12:00:00 GMT"
    web = broken_off(server, tmp_path)
    fetch("x", [web], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT
    assert server.asked[1] is not None


@pytest.mark.parametrize("condition", [True, False], ids=["by the rules", "not looking"])
def test_another_file_comes_from_its_start(
    server: Server, tmp_path: Path, condition: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    web = broken_off(server, tmp_path)
    server.text, server.etag, server.condition = TEXT[::-1], '"two"', condition
    fetch("x", [web], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT[::-1]
    said = capsys.readouterr().err
    assert "/a.txt is not what it was: from its start" in said
    assert "hush" not in said


@pytest.mark.parametrize("lacks", ["parts", "etag"])
def test_a_server_that_cannot_go_on_gives_all(server: Server, tmp_path: Path, lacks: str) -> None:
    if lacks == "parts":
        server.parts = False
    else:
        server.etag = ""
    web = broken_off(server, tmp_path)
    fetch("x", [web], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT


def test_a_file_that_was_all_there_is_taken(server: Server, tmp_path: Path) -> None:
    web = broken_off(server, tmp_path)
    (part,) = (tmp_path / "keep").glob("*.part")
    part.write_bytes(TEXT)  # killed before it had its name
    fetch("x", [web], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.waits = True
    code = (
        "import sys; from pathlib import Path; from nanogpt.sources.web import Web\n"
        "here = Path(sys.argv[2]); (here / 'x').mkdir()\n"
        "Web(((sys.argv[1], None),), keep=here / 'keep').fetch(here / 'x')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.address, str(tmp_path)])
    try:
        while not any(path.stat().st_size for path in tmp_path.glob("keep/*.part")):
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    have = next(tmp_path.glob("keep/*.part")).stat().st_size
    fetch("x", [Web(((server.address, None),), keep=tmp_path / "keep")], tmp_path / "x")
    assert (tmp_path / "x" / "a.txt").read_bytes() == TEXT
    assert server.asked[1] == f"bytes={have}-"
