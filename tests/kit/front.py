"""A real MLflow server, and a front before it that can fail in all the ways that a server does."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOP = {"transfer-encoding", "connection", "content-length"}


class Front:
    """Passes requests on, or does with them what `fault` says.

    fault: None; "refuse" (connections), "error" (500), "hang" (until the fault is over), "drop"
    (the server does what it is asked, and its answer is lost).
    """

    def __init__(self, backend: int) -> None:
        self.backend = backend
        self.answered = 0
        self.left = -1  # requests that are still passed on before the fault; -1: `fault` holds
        self._fault: str | None = None
        self._over = threading.Event()
        self._server = self._listen(0)
        self.port = self._server.server_port
        self.uri = f"http://127.0.0.1:{self.port}"

    def fail(self, fault: str, after: int = 0) -> None:
        """Fail from the request on that comes after so many."""
        self._over.clear()
        self.left, self._fault = after, fault
        if fault == "refuse" and not after:
            self.close()

    def mend(self) -> None:
        if self._fault == "refuse" and self._server.fileno() == -1:
            self._server = self._listen(self.port)
        self._fault = None
        self._over.set()

    def close(self) -> None:
        if self._server.fileno() != -1:
            self._server.shutdown()
            self._server.server_close()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", port), _Handler)
        server.front = self
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def next_fault(self) -> str | None:
        """What is to be done with the request that just came."""
        if self._fault and self.left > 0:
            self.left -= 1
            return None
        return self._fault

    def wait(self) -> None:
        self._over.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    front: Front


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        front = self.server.front
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = front.next_fault()
        if fault == "error":
            self.send_error(500)
            return
        if fault == "hang":
            front.wait()
        if fault in ("hang", "refuse"):
            self.close_connection = True
            return
        connection = http.client.HTTPConnection("127.0.0.1", front.backend)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "drop":
            self.close_connection = True
            return
        front.answered += 1
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A server with its database, `mlflow.db`, and artifacts in `folder`; its port."""
    port = free_port()
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    artifacts = ["--artifacts-destination", str(folder / "artifacts")]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *address]
    with serving(command, port, folder, os.environ | {"MLFLOW_TRACKING_URI": ""}):
        yield port


@contextmanager
def serving(
    command: list[str], port: int, folder: Path, environment: dict[str, str]
) -> Iterator[None]:
    """While MLflow's server, which this command starts in `folder`, answers at its port."""
    # without its five processes for jobs, which nothing here asks for
    environment = environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            while not _healthy(port):
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
