"""What every request passes first: a bearer token, no other site behind it, a limit on its body. An ASGI middleware."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sendguard.linq.webhooks import MAX_BODY
from sendguard.sidecar.problems import problem

WEBHOOK_PATH = "/webhooks/linq"
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", WEBHOOK_PATH})
"""Paths that ask for no token: probes, webhooks, which are authenticated by their signature, and the page, which holds
no data until it shows a token itself."""
_OPEN_PREFIX = "/page/"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
API_MAX_BODY = 64 * 1024
"""Bytes of the largest body of a call of the API."""


class Gate:
    """Asks for a bearer token where there are any, keeps other sites in a browser out, and cuts a body at its limit."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it with a problem."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        refusal = None if path in OPEN_PATHS or path.startswith(_OPEN_PREFIX) else self._refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, send)
        limit = MAX_BODY if path == WEBHOOK_PATH else API_MAX_BODY
        return await self._app(scope, _limited(receive, limit), send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._tokens and not self._knows(scope):
            return problem(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
        if not self._tokens and not _is_literal(headers.get("host", "")):
            # A name of somebody else's that leads here would make their site the same as ours (DNS rebinding).
            return problem(403, "without tokens, the Host must be localhost or an IP address")
        if scope["method"] not in _SAFE_METHODS and _from_another_site(headers):
            return problem(403, "a request that another site makes is refused")
        return None

    def _knows(self, scope: Scope) -> bool:
        """Compares with every token, whichever matches, so that the time it takes tells nothing."""
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        matches = sum(hmac.compare_digest(token.strip(), each) for each in self._tokens)
        return bool(scheme.lower() == b"bearer" and matches)


def _is_literal(host: str) -> bool:
    """Whether a Host header names no host that DNS answers for: localhost, an IP address, or nothing (HTTP/1.0)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost") or name.endswith(".localhost") or bool(ip_address(name))
    except ValueError:
        return False


def _from_another_site(headers: Headers) -> bool:
    """Whether a browser says that another site makes the request. What is no browser says nothing."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


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
