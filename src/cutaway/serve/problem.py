"""The one shape in which the server says no: ``{"error": {"message": ..., "fix": ...}}`` and a status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


class Problem(Exception):
    """An answer that is an error: a status, a sentence naming what is wrong, and one saying what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        fix: str = "",
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """``param``, ``code``: what OpenAI's shape of an error says besides (openai.py)."""
        super().__init__(message)
        self.param, self.code = param, code
        self.status, self.message, self.fix = status, message, fix
        self.headers = dict(headers or {})

    def response(self) -> Response:
        return reply({"error": {"message": self.message, "fix": self.fix}}, self.status, self.headers)


class Full(Problem):
    """As many requests wait as may."""

    def __init__(self, message: str) -> None:
        super().__init__(429, message, "Try again in a moment.", {"Retry-After": "1"}, code="rate_limit_exceeded")


class Busy(Problem):
    """Try again soon: too many requests wait, or the model is on its way."""

    def __init__(self, message: str, fix: str = "Try again in a moment.", after: int = 1) -> None:
        super().__init__(503, message, fix, {"Retry-After": str(after)})


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. ASCII only, so that no text of a model can be anything but a JSON string."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, dict(headers or {}), media_type="application/json")
