"""More is asked for than can be done, clients go away, and a version takes the place of another."""

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psutil
import pytest
import torch

from nanogpt.common.errors import Stopped, UserError
from nanogpt.formats.weights import load_model
from nanogpt.generation.engine import Engine
from nanogpt.model import GPT
from nanogpt.serving import models
from nanogpt.serving.answers import TextForm
from nanogpt.serving.app import Call
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.models import open_served
from nanogpt.serving.server import serve
from nanogpt.serving.shelf import Shelf
from nanogpt.serving.worker import Piece
from nanogpt.text.prompt import Start
from nanogpt.text.words import tokenizer
from tests.kit.served import LIMITS, Folder, Served, make_plain, within
from tests.kit.toy import eventually

ENDLESS = {
    "model": "plays",
    "prompt": "Who?",
    "max_tokens": 1 << 20,
    "past_context": "half",
    "seed": 1,
}
SHORT = ENDLESS | {"max_tokens": 20}


@contextmanager
def running(served: Served, count: int) -> Iterator[list[httpx.Response]]:
    """So many texts that do not end, as streams that are read no further than they have to."""
    with served.client() as client, ExitStack() as stack:
        asked = ENDLESS | {"stream": True}
        yield [
            stack.enter_context(client.stream("POST", "/v1/completions", json=asked))
            for _ in range(count)
        ]


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_the_queue_has_an_end(plain: Path) -> None:
    with within(Folder(plain)) as served, served.client() as client:
        with running(served, LIMITS.slots + LIMITS.queue):
            answer = client.post("/v1/completions", json=SHORT)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert served.metric("nanogpt_texts_running") == LIMITS.slots
            assert served.metric("nanogpt_texts_waiting") == LIMITS.queue
            assert client.get("/health").status_code == 200
        # those clients are gone
        served.idle()
        assert client.post("/v1/completions", json=SHORT).status_code == 200
        # more than there could ever be room for is not a matter of waiting
        answer = client.post("/v1/completions", json=SHORT | {"n": 4})
        assert answer.status_code == 400


def test_a_client_that_goes_away_frees_its_slot(plain: Path) -> None:
    with within(Folder(plain)) as served:
        for stream in (True, False):
            body = json.dumps(ENDLESS | {"stream": stream}).encode()
            head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", served.port)) as connection:
                connection.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head.encode() + body
                )
                eventually(lambda: served.metric("nanogpt_texts_running") == 1, "it runs", 60)
            served.idle()


def test_others_go_on_when_one_goes_away(plain: Path) -> None:
    with within(Folder(plain)) as served, served.client() as client:
        expected = client.post("/v1/completions", json=SHORT | {"max_tokens": 400}).json()
        with running(served, 1) as (first,), ThreadPoolExecutor(1) as pool:
            ask = SHORT | {"max_tokens": 400}
            answer = pool.submit(client.post, "/v1/completions", json=ask)
            eventually(lambda: served.metric("nanogpt_texts_running") == 2, "both run", 60)
            first.close()
            assert answer.result().json()["choices"] == expected["choices"]
        served.idle()


def test_an_engine_that_is_lost_is_told(
    plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("injected")

    with within(Folder(plain)) as served, served.client() as client:
        with ThreadPoolExecutor(1) as pool, running(served, 1):
            asked = pool.submit(client.post, "/v1/completions", json=ENDLESS)
            eventually(lambda: served.metric("nanogpt_texts_running") == 2, "both run", 60)
            monkeypatch.setattr(Engine, "drop", fail)
        assert asked.result().status_code == 500
        health = client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})
        assert client.post("/v1/completions", json=SHORT).status_code == 503
    assert "injected" in caplog.text


def test_a_client_that_does_not_read_frees_its_slot(plain: Path) -> None:
    with within(Folder(plain), replace(LIMITS, patience=1)) as served:
        body = json.dumps(ENDLESS | {"stream": True, "logprobs": 5}).encode()
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head.encode() + body
            )
            eventually(lambda: served.metric("nanogpt_texts_running") == 1, "it runs", 60)
            served.idle()

            def there() -> bool:
                ours = psutil.Process().net_connections("tcp")
                return any((c.laddr.port, c.raddr) == (served.port, mine) for c in ours)

            mine = connection.getsockname()
            eventually(lambda: not there(), "its connection is closed", 60)


def test_a_large_answer_holds_nobody_up(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    whole = TextForm.whole

    def wait(*arguments: Any) -> bytes:
        began.set()
        assert go.wait(60)
        return whole(*arguments)

    monkeypatch.setattr(TextForm, "whole", wait)
    with within(Folder(plain)) as served, served.client() as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/completions", json=SHORT)
        assert began.wait(60)
        assert client.get("/health").status_code == 200
        go.set()
        assert asked.result().status_code == 200


def test_an_answer_has_its_time(plain: Path) -> None:
    with within(Folder(plain), replace(LIMITS, seconds=0.5)) as served, served.client() as client:
        answer = client.post("/v1/completions", json=ENDLESS)
        assert answer.status_code == 504
        assert "longer than 0.5 s" in answer.json()["error"]["message"]
        with client.stream("POST", "/v1/completions", json=ENDLESS | {"stream": True}) as stream:
            *_, last = events(stream)
        assert last["error"]["type"] == "server_error"
        served.idle()


def test_an_answer_of_which_there_is_always_more_has_its_time() -> None:
    class Endless:
        start, drawn = Start([1], "a"), 0

        def take(self) -> Piece:
            call.changed.set()
            return Piece("a", [], None)

    async def listen() -> bytes:
        end = time.monotonic() + 20
        async for event in call.events():
            assert time.monotonic() < end
            if b"error" in event:
                return event
        raise AssertionError

    shelf: Any = SimpleNamespace(at_work=())
    call = Call(shelf, Metrics(shelf), replace(LIMITS, seconds=0.2))
    call.answers = cast(Any, [Endless()])
    call.form = TextForm("plays", "fp", False, echo=False, logprobs=None)
    assert b"longer than 0.2 s" in asyncio.run(listen())


def test_until_a_model_is_loaded_there_is_503(plain: Path) -> None:
    hold = threading.Event()
    with (
        within(Folder(plain, hold=hold), loaded=False) as served,
        served.client() as client,
    ):
        health = client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        asked = client.post("/v1/completions", json=SHORT)
        for answer in (asked, client.get("/v1/models"), client.get("/version")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        hold.set()
        eventually(lambda: client.get("/health").status_code == 200, "it is loaded", 60)
        assert client.post("/v1/completions", json=SHORT).status_code == 200


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("injected"), "the model failed"), (UserError("NaN, injected"), "NaN, injected")],
    ids=["a mistake", "damaged weights"],
)
def test_a_model_that_fails_is_told_and_the_server_goes_on(
    error: Exception,
    said: str,
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = Engine.step

    def fail(self: Engine) -> Any:
        if self.rows and self.rows[0].text.drawn == 5:
            raise error
        return step(self)

    with within(Folder(plain)) as served, served.client() as client:
        monkeypatch.setattr(Engine, "step", fail)
        answer = client.post("/v1/completions", json=SHORT)
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, said)
        with client.stream("POST", "/v1/completions", json=SHORT | {"stream": True}) as stream:
            *pieces, last = events(stream)
        assert len("".join(piece["choices"][0]["text"] for piece in pieces)) == 5
        assert last["error"]["message"] == said
        monkeypatch.undo()
        assert client.post("/v1/completions", json=SHORT).status_code == 200
    if isinstance(error, RuntimeError):
        assert "injected" in caplog.text  # for who runs the server


def test_a_prompt_that_cannot_be_read_ends_no_text_beside_it(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = GPT.read

    def fail(self: GPT, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if ids.shape[1] == 7:
            raise RuntimeError("injected")
        return read(self, ids, *more)

    monkeypatch.setattr(GPT, "read", fail)
    with (
        within(Folder(plain)) as served,
        served.client() as client,
        running(served, 1) as (beside,),
    ):
        answer = client.post("/v1/completions", json=SHORT | {"prompt": "12345678"})
        error = answer.json()["error"]
        assert (answer.status_code, error["message"]) == (500, "the model failed")
        assert served.metric("nanogpt_texts_running") == 1
        assert json.loads(next(beside.iter_lines()).removeprefix("data: "))["choices"]


def test_a_moved_alias_is_followed(plain: Path, tmp_path: Path) -> None:
    """Running texts end as they began, later ones are of the new version, and none is lost."""
    source = Folder(plain)
    other = make_plain(tmp_path / "other", seed=2)
    with within(source, replace(LIMITS, queue=40)) as served:

        def ask(seed: int) -> tuple[str, str]:
            with served.client() as client:
                asked = SHORT | {"seed": seed, "max_tokens": 60}
                answer = client.post("/v1/completions", json=asked)
                assert answer.status_code == 200, answer.text
                values = answer.json()
                return values["system_fingerprint"], values["choices"][0]["text"]

        before = ask(0)
        with running(served, 1) as (stream,), ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, 0) for _ in range(16)]
            source.move(other, "2")
            fingerprint = before[0]
            while fingerprint == before[0]:
                asked += [pool.submit(ask, 0) for _ in range(4)]
                fingerprint = asked[-1].result()[0]
            lines = stream.iter_lines()  # it still runs, by the old version
            assert json.loads(next(lines).removeprefix("data: "))["system_fingerprint"] == before[0]
            answers = {future.result() for future in asked}
            assert served.metric("nanogpt_texts_running") == 1
        assert len(answers | {before}) == 2
        with served.client() as client:
            (model,) = client.get("/version").json()["models"]
        assert (model["version"], model["compute"]) == ("2", "float32")


def test_a_version_that_is_of_no_use_is_not_taken(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Folder(plain)
    with within(source) as served, served.client() as client:
        source.move(tmp_path, "2")
        eventually(lambda: "is served as it was" in caplog.text, "it is told", 60)
        assert client.post("/v1/completions", json=SHORT).status_code == 200
        (model,) = client.get("/version").json()["models"]
        assert model["version"] == "1"


def test_an_engine_that_is_gone_is_freed(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Seen(Engine):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(models, "Engine", Seen)
    source = Folder(plain)
    with within(source) as served, running(served, 1):
        source.move(make_plain(tmp_path / "other", seed=2), "2")
        eventually(lambda: len(made) == 2, "the other is loaded", 60)
        assert all(one() for one in made)
    with within(source):
        eventually(lambda: gc.collect() is None or not made[0](), "the first is gone", 60)


def test_a_models_thread_ends_before_the_server(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's end in the middle of a step would abort it."""
    step, began = Engine.step, threading.Event()

    def slow(self: Engine) -> Any:
        began.set()
        time.sleep(1)
        return step(self)

    monkeypatch.setattr(Engine, "step", slow)
    limits = replace(LIMITS, grace=0)
    shelf = Shelf(
        [Folder(plain)],
        partial(open_served, device=torch.device("cpu"), compute=torch.float32, limits=limits),
    )
    before = {*threading.enumerate()}
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def ask() -> int:
            with Served(address).client() as client:
                return client.post("/v1/completions", json=ENDLESS).status_code

        def stop() -> int:
            asked = pool.submit(ask)
            assert began.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            return asked.result()

        told: list[Future[int]] = []
        with ThreadPoolExecutor(1) as other, pytest.raises(Stopped, match="1 text was cut off"):
            serve(
                shelf,
                listener,
                limits,
                hosts=None,
                key=None,
                follow=60,
                code="test",
                ready=lambda: told.append(other.submit(stop)),
            )
        assert told[0].result() == 503
    assert {*threading.enumerate()} <= before


def test_many_clients(plain: Path) -> None:
    """32 clients, each a while: no error, and each text as it is alone."""
    _load(plain, rounds=1)


@pytest.mark.slow
def test_many_clients_for_a_minute(plain: Path) -> None:
    """No error, and memory stays as it is."""
    _load(plain, seconds=60)


def _load(folder: Path, rounds: int = 0, seconds: float = 0) -> None:
    limits = replace(LIMITS, slots=16, queue=64)
    with within(Folder(folder), limits) as served, served.client() as alone:
        expected = alone.post("/v1/completions", json=SHORT).json()["choices"]
        sizes = []

        async def client(number: int, until: float, one: httpx.AsyncClient) -> int:
            done = 0
            while done < rounds or time.monotonic() < until:
                answer = await one.post("/v1/completions", json=SHORT)
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"] == expected
                done += 1
                if number == 0:
                    sizes.append(psutil.Process().memory_info().rss)
            return done

        async def everybody() -> list[int]:
            until = time.monotonic() + seconds
            async with httpx.AsyncClient(
                base_url=served.address, trust_env=False, verify=False, timeout=60
            ) as one:
                return await asyncio.gather(*(client(n, until, one) for n in range(32)))

        assert min(asyncio.run(everybody())) >= max(1, rounds)
        served.idle()
    if seconds:
        third = len(sizes) // 3
        assert max(sizes[-third:]) < 1.02 * max(sizes[third:-third])


def test_another_type_of_products_has_another_fingerprint(plain: Path) -> None:
    marks = []
    for compute in (torch.float32, torch.bfloat16, torch.float32):
        with within(Folder(plain), compute=compute) as served, served.client() as client:
            marks.append(client.post("/v1/completions", json=SHORT).json()["system_fingerprint"])
            (facts,) = client.get("/version").json()["models"]
            assert facts["fingerprint"] == marks[-1]
    assert marks[0] == marks[2] != marks[1]


def test_the_model_says_what_the_server_says(plain: Path) -> None:
    """The likeliest text by the bare model, without a cache, is the one that is served."""
    with within(Folder(plain)) as served, served.client() as client:
        answer = client.post("/v1/completions", json=SHORT | {"temperature": 0})
        text = answer.json()["choices"][0]["text"]
    model, encoder = load_model(plain), tokenizer.load(plain)
    ids = encoder.encode("Who?")
    with torch.inference_mode():
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert encoder.decode(ids) == "Who?" + text
