"""Why a request is refused, in OpenAI's form."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Response

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "server_error"}


class Refused(Exception):
    """What a client is told: one sentence, which part of the request it is of, and a code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        about = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": about}

    @property
    def response(self) -> Response:
        return Response(json.dumps(self.body), self.status, self.headers, "application/json")
