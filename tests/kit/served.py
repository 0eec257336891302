"""Small models to be served, and a server of them as a process of its own."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from nanogpt.architecture import GPTConfig
from nanogpt.formats.weights import save_model
from nanogpt.model import GPT
from nanogpt.serving.models import Limits, open_served
from nanogpt.serving.server import make_server
from nanogpt.serving.shelf import Shelf
from nanogpt.text.talks.template import ensure
from nanogpt.text.words import tokenizer, vocabulary
from tests.kit.recipes import Recipe
from tests.kit.toy import eventually

CONTEXT = 128
TEXT = "ROMEO: What is 3 plus 4? It is seven. Сколько будет? 🎲\n"


def save(folder: Path, seed: int) -> Path:
    """Random weights for the tokenizer in a folder."""
    encoder = tokenizer.load(folder)
    config = GPTConfig(
        architecture="qwen3",
        vocab_size=encoder.vocab_size,
        context=CONTEXT,
        n_layer=2,
        n_head=2,
        n_kv_head=1,
        n_embd=32,
        n_inner=64,
        head_dim=16,
        tied=False,
        eos=encoder.eot,
    )
    torch.manual_seed(seed)
    model = GPT(config, torch.float32)
    with torch.no_grad():
        for weights in model.parameters():  # a fresh model says every token alike
            weights.normal_(std=0.4)
    save_model(folder, config, dict(model.named_parameters()))
    return folder


def make_talker(folder: Path, seed: int = 1) -> Path:
    """A model directory with byte pairs and a chat template."""
    folder.mkdir()
    vocabulary.write(folder, vocabulary.train_bpe([TEXT * 4], 300, 4 * len(TEXT)))
    ensure(folder, tokenizer.load(folder))
    return save(folder, seed)


def make_plain(folder: Path, seed: int = 1) -> Path:
    """A model directory with characters, and no template."""
    folder.mkdir()
    letters = (chr(code) for code in (10, *range(32, 123)))
    vocabulary.write(folder, vocabulary.char_json(letters, eot=False))
    return save(folder, seed)


@dataclass
class Served:
    """A server that runs."""

    address: str
    key: str | None = None

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self) -> httpx.Client:
        """A client without a proxy, and with the key."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        plain = {"trust_env": False, "verify": False}  # TLS takes its time to be set up
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, **plain)

    def metric(self, name: str) -> float:
        """The sum of a figure over its labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def idle(self) -> None:
        """Wait until no text runs."""
        eventually(lambda: self.metric("nanogpt_texts_running") == 0, "no text runs", 60)


@dataclass
class Process(Served):
    """A server that runs as a process of its own."""

    process: "subprocess.Popen[bytes] | None" = None
    log: Path = Path()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(place: Path, *words: object, key: str | None = None, **more: str) -> Iterator[Process]:
    """A server of the models and options in `words`, in a checkout at `place`."""
    recipe = Recipe(place)
    ours = {"NANOGPT_API_KEY": key} if key else {}
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    command = [sys.executable, "-m", "nanogpt.commands", "serve", "--port", "0"]
    with (place / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *map(str, words)],
            cwd=recipe.folder,
            env=environment | ours | more,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def said(pattern: str) -> str | None:
        text = (place / "serve.log").read_text()
        assert process.poll() is None, text
        found = re.search(pattern, text)
        return found and found[1]

    try:
        address = eventually(lambda: said(r"(http://\S+)  answers"), "the server answers", 120)
        yield Process(address, key, process, place / "serve.log")
    finally:
        process.kill()
        process.wait()


@dataclass
class Folder:
    """A `Source`: a folder that is one version, until `move` says another."""

    folder: Path
    version: str = "1"
    opened: str = ""
    hold: threading.Event | None = None  # loading waits for it

    @property
    def id(self) -> str:
        return "plays"

    @contextmanager
    def open(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        self.opened = self.version
        if self.hold:
            self.hold.wait(60)
        yield self.folder, {"version": self.version, "aliases": [], "run": None, "lineage": {}}

    def moved(self) -> bool:
        return self.version != self.opened

    def move(self, folder: Path, version: str) -> None:
        self.folder, self.version = folder, version


LIMITS = Limits(
    slots=2, queue=1, n=4, tokens=1 << 20, body=10_000, seconds=60, patience=30, grace=30
)


@contextmanager
def within(
    source: Folder,
    limits: Limits = LIMITS,
    follow: float = 0.05,
    loaded: bool = True,
    compute: torch.dtype = torch.float32,
) -> Iterator[Served]:
    """A server of one model in a thread of this process."""
    build = partial(open_served, device=torch.device("cpu"), compute=compute, limits=limits)
    shelf = Shelf([source], build)
    server, _ = make_server(shelf, limits, {"127.0.0.1"}, None, "test")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # what a client does not read soon stops the server, which is what a test may look at
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        async def run() -> None:
            async def work() -> None:
                await shelf.load()
                await shelf.follow(follow)

            working = asyncio.create_task(work())
            await server.serve([listener])
            working.cancel()
            for model in shelf.models.values():
                model.worker.close()

        thread = threading.Thread(target=asyncio.run, args=(run(),))
        thread.start()
        try:
            eventually(lambda: server.started, "the server listens", 60)
            if loaded:
                eventually(lambda: shelf.state == "ready", "the model is loaded", 60)
            yield Served(f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            thread.join(60)
