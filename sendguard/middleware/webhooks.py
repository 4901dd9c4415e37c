"""The webhook endpoint: an ASGI app to mount in FastAPI or Starlette, and a plain function for Flask and Django views.

The statuses tell Linq what to do next (FACTS, "Webhooks"): it delivers again after a 5xx, and gives up after a 4xx.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from sendguard.async_guard import AsyncSendGuard
from sendguard.errors import SendGuardError, StoreUnavailable, WebhookRejected
from sendguard.guard import Headers, SendGuard
from sendguard.linq.webhooks import MAX_BODY
from sendguard.logs import tell

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class WebhookAnswer(NamedTuple):
    """What to answer a delivery. status: of HTTP. text: a short plain body, safe to send to anybody."""

    status: int
    text: str


_APPLIED = WebhookAnswer(200, "ok")
_NOT_POST = WebhookAnswer(405, "webhooks come by POST")


def _answer_to(error: SendGuardError) -> WebhookAnswer:
    """401 for what nobody shows to be Linq's, 400 for what is Linq's and cannot be read, 503 to have it sent again."""
    if isinstance(error, WebhookRejected):
        tell(logging.WARNING, "webhook_rejected", "%s", error, reason=error.reason)
        return WebhookAnswer(400 if error.authentic else 401, error.reason)
    tell(logging.DEBUG, "webhook_not_applied", "webhook not applied: %s", error)
    return WebhookAnswer(503, "the store is out of reach")


def _too_large(guard: SendGuard | AsyncSendGuard) -> WebhookAnswer:
    guard._flows.webhook_refused("too_large")
    return WebhookAnswer(413, "the body is too large")


def webhook_response(guard: SendGuard, body: bytes, headers: Headers) -> WebhookAnswer:
    """Handle one delivery in a view of Flask, Django or anything else: `status, text = webhook_response(...)`.

    body: exactly as received. headers: any mapping or pairs, names in any case. 200: applied, or seen before, or of no
    use to a guard. 401: unsigned, or signed wrongly or too long ago. 400: authentic and not readable. 413: larger than
    1 MiB. 503: the store did not answer. Raises nothing.
    """
    if len(body) > MAX_BODY:
        return _too_large(guard)
    try:
        guard.handle_webhook(body, headers)
    except (WebhookRejected, StoreUnavailable) as error:
        return _answer_to(error)
    return _APPLIED


async def async_webhook_response(guard: AsyncSendGuard, body: bytes, headers: Headers) -> WebhookAnswer:
    """As `webhook_response`, for an `AsyncSendGuard`."""
    if len(body) > MAX_BODY:
        return _too_large(guard)
    try:
        await guard.handle_webhook(body, headers)
    except (WebhookRejected, StoreUnavailable) as error:
        return _answer_to(error)
    return _APPLIED


class WebhookApp:
    """An ASGI app that takes Linq's webhooks at whatever path it is mounted.

    In FastAPI and Starlette: `app.add_route("/webhooks/linq", WebhookApp(guard))`. It answers as `webhook_response`
    does, and 405 to what is not a POST; it stops reading a body at 1 MiB. The guard stays the caller's to close.
    """

    def __init__(self, guard: AsyncSendGuard) -> None:
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"WebhookApp serves HTTP, not {scope['type']}")
        if scope["method"] != "POST":
            return await _reply(send, _NOT_POST, (b"allow", b"POST"))
        body = await _read(receive)
        if body is None:
            return None
        return await _reply(send, await async_webhook_response(self._guard, body, scope["headers"]))


async def _read(receive: Receive) -> bytes | None:
    """The body, or as much of it as shows that it is too large; None if the client left before its end."""
    chunks, size, more = [], 0, True
    while more and size <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    return b"".join(chunks)


async def _reply(send: Send, answer: WebhookAnswer, *headers: tuple[bytes, bytes]) -> None:
    body = answer.text.encode()
    shape = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*shape, *headers]})
    await send({"type": "http.response.body", "body": body})
