"""What every request passes first: the bearer token, and the limit on its body. An ASGI middleware."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sendguard.linq.webhooks import MAX_BODY
from sendguard.sidecar.problems import problem

WEBHOOK_PATH = "/webhooks/linq"
OPEN_PATHS = frozenset({"/healthz", "/readyz", WEBHOOK_PATH})
"""Paths that ask for no token: probes, and webhooks, which are authenticated by their signature."""
API_MAX_BODY = 64 * 1024
"""Bytes of the largest body of a call of the API."""


class Gate:
    """Asks for a bearer token where there are any, and cuts a body short at its limit, however it is sent."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it with a problem."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if self._tokens and path not in OPEN_PATHS and not self._knows(scope):
            refusal = problem(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
            return await refusal(scope, receive, send)
        limit = MAX_BODY if path == WEBHOOK_PATH else API_MAX_BODY
        return await self._app(scope, _limited(receive, limit), send)

    def _knows(self, scope: Scope) -> bool:
        """Compares with every token, whichever matches, so that the time it takes tells nothing."""
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        matches = sum(hmac.compare_digest(token.strip(), each) for each in self._tokens)
        return bool(scheme.lower() == b"bearer" and matches)


def _limited(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, f"the body is larger than {limit} bytes")
        return message

    return counted
