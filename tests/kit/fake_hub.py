"""A Hugging Face hub on this machine: what of its API a model's download or upload uses, or a data
set's download.

A repository is a folder `<root>/<organisation>/<name>`, of a data set `<root>/datasets/...`; it has
one commit, `commit(id)`, and what ends as `LFS` says is kept by git-lfs. Sources: the requests that
`huggingface_hub` and `datasets` make, and https://huggingface.co/docs/hub/api.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

LFS = (".safetensors", ".bin", ".parquet")
ADDRESS = r"(/api/models)?/((?:datasets/)?[\w-]+/[\w-]+)/(\w+)/([\w.-]+)(?:/(.+))?"
CHARACTERS = [chr(code) for code in range(32, 127)]


def commit(id: str) -> str:
    return hashlib.sha1(id.encode()).hexdigest()


SHARDED, SINGLE = "org/sharded", "org/single"
AT_COMMIT = f"hf:{SHARDED}@{commit(SHARDED)}"


def make_checkpoints(root: Path) -> None:
    """Two repositories as transformers saves them: a llama in shards, a gpt2 in one file."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from nanogpt.text.words import vocabulary

    ids = {"vocab_size": 96, "bos_token_id": 95, "eos_token_id": 95}
    torch.manual_seed(0)
    llama = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        **ids,
    )
    LlamaForCausalLM(llama).save_pretrained(root / SHARDED, max_shard_size="7KB")
    gpt2 = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **ids)
    GPT2LMHeadModel(gpt2).save_pretrained(root / SINGLE)
    for repository in (root / SHARDED, root / SINGLE):
        vocabulary.write(repository, vocabulary.char_json(CHARACTERS, eot=True))
        (repository / "README.md").write_text("# a model\n")
        (repository / "onnx").mkdir()
        (repository / "onnx" / "model.safetensors").write_bytes(b"another")


class FakeHub(ThreadingHTTPServer):
    """Serves the repositories below `root`, but for its faults.

    A repository by id is `gated`, `private` or `busy`, or refuses any `token`; a file by name is
    `cut` in half, this once or always, or `lost` in the middle once, or has `wrong` bytes.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []  # method and path of each request
        self.parts: list[str] = []  # of each for a part of a file, which part
        self.created: dict[str, str] = {}  # ids of repositories → public or private

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(root: Path) -> Iterator[FakeHub]:
    with FakeHub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@contextmanager
def used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub of folder/root, which the libraries ask from now on; folder/cache is the user's."""
    from huggingface_hub import constants

    from nanogpt.sources import fetch

    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    monkeypatch.setattr(fetch, "WAITS", (0, 0))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    with running(folder / "root") as server:
        # read from HF_ENDPOINT when the library is imported, which it is by now
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        if about := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)", path):
            return self._tell(about[1])
        path = path.replace("/api/datasets/", "/api/models/datasets/")
        parts = re.fullmatch(ADDRESS, path)
        if not parts:
            return self._refuse(404, "", "no such address")
        api, id, kind, revision, name = parts.groups()
        folder = self.server.root / id
        fault = self.server.faults.get(id)
        if fault == "busy":
            return self._refuse(503, "", "Service Unavailable")
        if fault == "token":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if fault == "private":
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if not folder.is_dir():
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if revision not in ("main", commit(id)):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if fault == "gated" and not api:
            return self._refuse(403, "GatedRepo", f"Access to model {id} is restricted.")
        if kind == "revision":
            return self._send(json.dumps({"id": id, "sha": commit(id), "siblings": []}).encode())
        if kind == "tree":
            if not (folder / (name or "")).is_dir():
                return self._refuse(404, "EntryNotFound", f"{name} does not exist")
            deep = "recursive=true" in self.path.lower()
            paths = sorted((folder / (name or "")).glob("**/*" if deep else "*"))
            return self._send(json.dumps([_entry(folder, path) for path in paths]).encode())
        file = folder / name
        if not file.exists():
            return self._refuse(404, "EntryNotFound", f"{name} does not exist")
        content, entry = file.read_bytes(), _entry(folder, file)
        headers = {"X-Repo-Commit": commit(id), "ETag": f'"{entry["oid"]}"'}
        if lfs := entry.get("lfs"):
            headers |= {"X-Linked-ETag": f'"{lfs["oid"]}"', "X-Linked-Size": str(lfs["size"])}
        if self.command == "GET":
            match self.server.faults.get(file.name):
                case "cut":
                    content = content[: len(content) // 2]
                case "cut once":
                    content = content[: len(content) // 2]
                    del self.server.faults[file.name]
                case "lost once":
                    del self.server.faults[file.name]
                    self._send(content, headers, sent=len(content) // 2)
                    return self.connection.shutdown(socket.SHUT_RDWR)
                case "wrong":
                    content = bytes(len(content))
        headers["Accept-Ranges"] = "bytes"
        if (asked := self.headers.get("Range")) and self.command == "GET":
            self.server.parts.append(asked)
            first, last = (int(number or 0) for number in asked.removeprefix("bytes=").split("-"))
            stop = min(last or len(content), len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
            return self._send(content[first:stop], headers, 206)
        self._send(content, headers)

    def _tell(self, id: str) -> None:
        """What is said of a repository that was created."""
        if self.server.faults.get(id) == "token":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if id not in self.server.created:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        private = self.server.created[id] == "private"
        self._send(json.dumps({"id": id, "private": private, "siblings": []}).encode())

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(f"POST {path}")
        if parts := re.fullmatch(r"/api/(datasets/[\w-]+/[\w-]+)/paths-info/\w+", path):
            folder, names = self.server.root / parts[1], parse_qs(body.decode()).get("paths", [])
            if self.headers["Content-Type"] == "application/json":
                names = json.loads(body)["paths"]
            paths = [folder / name for name in names if (folder / name).is_file()]
            return self._answer([_entry(folder, path) for path in paths])
        if path == "/api/repos/create":
            asked = json.loads(body)
            id = f"{asked['organization']}/{asked['name']}"
            if self.server.faults.get(id) == "token":
                return self._refuse(403, "", "You don't have the rights to create a model")
            self.server.created[id] = asked["visibility"]
            return self._answer({"url": f"{self.server.address}/{id}"})
        if path.startswith("/api/models/") and "/preupload/" in path:
            # no file by git-lfs, whose other storage is no matter of HTTP
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._answer({"files": modes})
        if parts := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/main", path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    file = self.server.root / parts[1] / entry["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(entry["value"]["content"]))
            oid = commit(parts[1])
            url = f"{self.server.address}/{parts[1]}/commit/{oid}"
            return self._answer({"success": True, "commitOid": oid, "commitUrl": url})
        self._answer({})

    def _answer(self, values: dict[str, Any] | list[Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send(
        self,
        content: bytes,
        headers: dict[str, str] | None = None,
        status: int = 200,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:sent])

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    """What the hub says of a file, or of a folder."""
    if file.is_dir():
        path = file.relative_to(folder).as_posix()
        return {"type": "directory", "path": path, "size": 0, "oid": commit(path)}
    content = file.read_bytes()
    entry: dict[str, Any] = {"type": "file", "path": file.relative_to(folder).as_posix()}
    entry["size"] = len(content)
    if file.name.endswith(LFS):
        sha256 = hashlib.sha256(content).hexdigest()
        content = (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{sha256}\nsize {entry['size']}\n"
        ).encode()
        entry["lfs"] = {"oid": sha256, "size": entry["size"], "pointerSize": len(content)}
    return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
