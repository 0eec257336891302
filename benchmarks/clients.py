"""A server of nanoGPT's small model, one client and many; prints JSON.

    python -m benchmarks.clients TOKENS SECONDS MANY

`one` and `many`: tokens a second of so many clients, each with one request after the other, for so
many seconds each; `served` and `bare`: seconds from a prompt to its first token, by a client that
streams and by the engine in this process. A request that fails ends it all.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.generate import TEMPERATURE, publish
from benchmarks.processes import ROOT
from nanogpt.formats.weights import load_model
from nanogpt.generation.engine import Engine
from nanogpt.generation.options import Options
from nanogpt.machine.distributed import prepare
from nanogpt.settings import load
from nanogpt.text.prompt import go_on
from nanogpt.text.words import tokenizer

PROMPT = "abcdefgh" * 8
NEW = 64  # tokens of an answer
MODEL = "small"
FIRSTS = 9  # first tokens, of which the median is taken


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of a model, as a user starts it."""
    command = [sys.executable, "-m", "nanogpt.commands", "serve", "--port", "0", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if found := re.search(r"(http://\S+)  answers", line):
                    yield found[1]
                    break
            else:
                raise ChildProcessError("the server did not start")
        finally:
            process.terminate()


def ask(address: str, until: float) -> int:
    """Ask again and again until a time: the tokens of the answers."""
    count = 0
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        while time.perf_counter() < until:
            body = {"prompt": PROMPT, "max_tokens": NEW, "temperature": TEMPERATURE}
            answer = client.post("/v1/completions", json=body | {"model": MODEL})
            count += answer.raise_for_status().json()["usage"]["completion_tokens"]
    return count


def speed(address: str, clients: int, seconds: float) -> float:
    """Tokens a second of so many clients."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        counts = [pool.submit(ask, address, began + seconds) for _ in range(clients)]
        return sum(count.result() for count in counts) / (time.perf_counter() - began)


def first_served(client: httpx.Client) -> float:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1, "stream": True}
    first = 0.0
    began = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.raise_for_status().iter_lines():
            if not first and line.startswith("data: {") and json.loads(line[6:])["choices"]:
                first = time.perf_counter() - began
    return first


def first_bare(engine: Engine, words: tokenizer.Tokenizer) -> float:
    began = time.perf_counter()
    engine.add(go_on(words, PROMPT), Options(tokens=1, temperature=TEMPERATURE, seed=1))
    while engine.busy:
        engine.step()
    return time.perf_counter() - began


def main() -> None:
    tokens, seconds, many = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as made:
        folder = publish(Path(made) / MODEL, "qwen3", tokens)
        words = tokenizer.load(folder)
        prepare(load(ROOT / "params.yaml").machine)  # as many threads as the server's
        engine = Engine(load_model(folder), words, slots=1)
        with serving(folder) as address:
            speed(address, 2, seconds / 4)  # warms up
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                firsts = [(first_served(client), first_bare(engine, words)) for _ in range(FIRSTS)]
            served, bare = (statistics.median(each) for each in zip(*firsts, strict=True))
            found = {"one": speed(address, 1, seconds), "many": speed(address, many, seconds)}
    print(json.dumps(found | {"served": served, "bare": bare}))


if __name__ == "__main__":
    main()
