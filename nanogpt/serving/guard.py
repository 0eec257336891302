"""What stands before the app: whoever is not meant, sends too much or too slowly, gets no further.

It reads a request's body, whole, before the app sees it.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanogpt.serving.errors import Refused
from nanogpt.serving.metrics import Metrics
from nanogpt.serving.models import Limits
from nanogpt.serving.shelf import Shelf

OPEN = ("/", "/health")  # without a key: a page that asks for it, and whether there is anybody
PORT = re.compile(":[0-9]*$")
log = logging.getLogger(__name__)


class Gone(Exception):
    """The client has hung up."""


class Guard:
    """ASGI middleware.

    Args:
        hosts: names that a request may ask for this server by, so that no page of the web can
            have a browser ask it under a name of its own (DNS rebinding); None: any.
        key: what clients have to show; None: nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        shelf: Shelf,
        metrics: Metrics,
        limits: Limits,
        hosts: Collection[str] | None,
        key: str | None,
    ) -> None:
        self.app, self.shelf, self.metrics, self.limits = app, shelf, metrics, limits
        self.hosts, self.key = hosts, key
        self.running = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # a list of its own: the page's answer is one and the same each time
                headers = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": headers}
            await send(message)

        self.running += 1
        try:
            try:
                self._check(scope)
                body = await self._body(scope, receive)
                await self.app(scope, _again(body, receive), answer)
            except Refused as refused:
                await refused.response(scope, receive, answer)
        except Gone:
            pass
        except Exception as error:
            log.error("%s %r failed: %r", scope["method"], scope["path"], error, exc_info=error)
            if status is None:
                await Refused(500, "the server made a mistake").response(scope, receive, answer)
        finally:
            self.running -= 1
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status or 499)).inc()

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts is not None and PORT.sub("", host) not in self.hosts:
            raise Refused(403, f"this server is not {host!r:.80}")
        if self.key is not None and scope["path"] not in OPEN:
            kind, _, shown = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(
                shown.strip(), self.key.encode()
            ):
                raise Refused(
                    401,
                    "the API key is missing or wrong: Authorization: Bearer <key>",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if self.shelf.state == "stopping" and scope["path"].startswith("/v1/"):
            again = {"Retry-After": "1", "Connection": "close"}
            raise Refused(503, "the server is stopping", headers=again)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request; too long a one is read to its end, so that the client reads why
        it is refused, and thrown away."""
        body, size, most = bytearray(), 0, self.limits.body
        try:
            async with asyncio.timeout(self.limits.patience):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= most:
                        body += part
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refused(
                413 if size > most else 408,
                f"the request took longer than {self.limits.patience:g} s to arrive",
                headers={"Connection": "close"},
            ) from None
        if size > most:
            raise Refused(
                413,
                f"the request has {size:,} bytes, and at most {most:,} are read",
                code="request_too_large",
            )
        return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read, then what comes after it."""
    parts = [body]

    async def again() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return again
