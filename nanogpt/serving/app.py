"""The routes: OpenAI's, and /, /health, /metrics and /version."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from nanogpt.generation.options import Options
from nanogpt.serving import asking
from nanogpt.serving.answers import DONE, event, usage
from nanogpt.serving.errors import Refused
from nanogpt.serving.formats import Asked, Chat, Completion, read
from nanogpt.serving.guard import Gone
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.models import Limits, Model
from nanogpt.serving.page import page
from nanogpt.serving.shelf import Shelf
from nanogpt.serving.worker import Answer, Piece
from nanogpt.text.prompt import Start

STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nobody on the way collects it


def make_app(shelf: Shelf, metrics: Metrics, limits: Limits, code: str) -> FastAPI:
    """
    Args:
        code: which code runs, for /version.
    """
    # its pages of documentation would fetch scripts from elsewhere
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.get("/")(page)

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": shelf.health}, 200 if shelf.health == "ready" else 503)

    @app.get("/version")
    async def version() -> Response:
        return _json({"code": code, "models": [model.facts for model in shelf.all()]})

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> Response:
        found = [_about(model) for model in shelf.all()]
        return _json({"object": "list", "data": found})

    @app.get("/v1/models/{id:path}")
    async def model(id: str) -> Response:
        return _json(_about(shelf.find(id)))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await Call(shelf, metrics, limits).run(request, Completion)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await Call(shelf, metrics, limits).run(request, Chat)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        said = f"there is no {request.method} {request.url.path!r:.80}"
        return Refused(error.status_code, said, headers=error.headers).response

    return app


def _json(values: Any, status: int = 200) -> Response:
    return Response(json.dumps(values), status, media_type="application/json")


def _about(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.since, "owned_by": "nanogpt"}


class Call:
    """One request for texts."""

    def __init__(self, shelf: Shelf, metrics: Metrics, limits: Limits) -> None:
        self.shelf, self.metrics, self.limits = shelf, metrics, limits
        self.started = time.monotonic()
        self.changed = asyncio.Event()
        self.answers: list[Answer] = []

    async def run(self, request: Request, kind: type[Asked]) -> Response:
        """
        Raises:
            Refused: it cannot be had.
            Gone: nobody waits for it any more.
        """
        kind_said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind_said != "application/json":
            # what a page of the web may send here without asking first is of other types
            raise Refused(415, "say Content-Type: application/json")
        asked = read(kind, await request.body())
        found, how = await self._understand(asked)
        self._admit(len(found) * len(how))
        self.n = len(how)
        self.form = asking.form(asked, self.model)
        self.answers = [
            self.model.worker.ask(start, each, self.changed.set) for start in found for each in how
        ]
        if asked.stream:
            return _Events(self)
        try:
            await _unless_gone(self._whole(), request)
            # with log-probabilities it takes seconds, in which others are to be answered
            body = await asyncio.to_thread(self.form.whole, self.answers, self.n)
            return Response(body, 200, None, "application/json")
        finally:
            self.end()

    async def _understand(self, asked: Asked) -> tuple[list[Start], list[Options]]:
        """What the texts go on from, and how each of the `n` for a prompt does."""
        while True:
            self.model = self.shelf.find(asked.model)
            how = asking.options(asked, self.model, self.limits)
            # a long text takes its time, in which others are to be answered
            found = await asyncio.to_thread(asking.starts, asked, self.model)
            asking.check(self.model, found, how)
            if self.shelf.find(asked.model) is self.model:  # its alias did not move meanwhile
                return found, how

    def _admit(self, texts: int) -> None:
        """Refuse a request where too much is asked already."""
        if (open := self.model.worker.open) + texts > self.limits.slots + self.limits.queue:
            raise Refused(
                429,
                f"{open} texts run or wait already; ask again later",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )

    async def _pieces(self) -> AsyncIterator[list[tuple[int, Answer, Piece]]]:
        """What is new of the texts, until all have ended.

        Raises:
            Refused: it took too long, or the model failed.
        """
        left, waits = set(range(len(self.answers))), True
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.seconds
        while left:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self.changed.wait()
            if loop.time() >= until:  # also where there is always something new at once
                said = f"the answer took longer than {self.limits.seconds:g} s; ask for less"
                raise Refused(504, said)
            self.changed.clear()
            if waits and any(answer.drawn for answer in self.answers):
                waits = False
                first = self.metrics.first.labels(self.model.id, self.model.version)
                first.observe(time.monotonic() - self.started)
            going = ((index, self.answers[index]) for index in sorted(left))
            taken = ((index, answer, answer.take()) for index, answer in going)
            news = [(index, answer, piece) for index, answer, piece in taken if piece]
            left -= {index for index, _, piece in news if piece.reason}
            if news:
                yield news

    async def _whole(self) -> None:
        async for _ in self._pieces():
            pass

    async def events(self) -> AsyncIterator[bytes]:
        """The server-sent events of a stream."""
        form = self.form
        try:
            for index, answer in enumerate(self.answers):
                if choice := form.first(index, answer):
                    yield form.piece(choice)
            async for news in self._pieces():
                for index, answer, piece in news:
                    yield form.piece(form.choice(index, answer, piece))
            if form.counts:
                yield form.piece(usage=usage(self.answers, self.n))
        except Refused as refused:  # the status was sent long ago
            yield event(refused.body)
        yield DONE

    def end(self) -> None:
        """Free what is still at work for this request, and count what was done."""
        of = self.model.id, self.model.version
        for answer in self.answers:
            self.model.worker.drop(answer)
            self.metrics.tokens.labels(*of, "new").inc(answer.drawn)
        for answer in self.answers[:: self.n]:
            self.metrics.tokens.labels(*of, "prompt").inc(answer.prompt_tokens)


class _Events(StreamingResponse):
    """A stream; whether it comes to its end or its client goes away, its texts are let go."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.events(), 200, STREAM, "text/event-stream")
        self.call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.call.end()


async def _unless_gone(work: Coroutine[Any, Any, None], request: Request) -> None:
    """Do this, while the client waits for it.

    Raises:
        Gone: it does not.
    """

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    done, waits = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait((done, waits), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise Gone
        done.result()
    finally:
        done.cancel()
        waits.cancel()
