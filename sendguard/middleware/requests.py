"""Which HTTP requests send a message, and what they say. Pure; the paths are those of FACTS ("Calls")."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import httpx

from sendguard.errors import SendBlocked, SendGuardError
from sendguard.middleware.outcome import RETRY_COUNT
from sendguard.models import SendKind

Call = Literal["new_chat", "auto_from", "message", "voice_memo"]

_PATH = re.compile(r"(?:.*/)?v3/(?:(chats)|(messages)|chats/([^/]+)/(messages|voicememo))/?")
_SDK = "x-stainless-lang"


@dataclass(frozen=True, slots=True)
class Route:
    """A request that sends. chat_id: of the chat that it names, if it does."""

    call: Call
    chat_id: str = ""

    @property
    def kind(self) -> SendKind:
        """What is being sent."""
        return SendKind.VOICE_MEMO if self.call == "voice_memo" else SendKind.CHAT


def route_of(request: httpx.Request) -> Route | None:
    """How a request sends; None if it does not."""
    if request.method != "POST":
        return None
    found = _PATH.fullmatch(request.url.path)
    if found is None:
        return None
    new_chat, auto_from, chat_id, what = found.groups()
    if new_chat:
        return Route("new_chat")
    if auto_from:
        return Route("auto_from")
    return Route("voice_memo" if what == "voicememo" else "message", chat_id)


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object of a body; None if it is none, which the API refuses."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def idempotency_key(headers: Mapping[str, str], body: Mapping[str, Any]) -> str | None:
    """The key that the request carries, in its header or its message (FACTS, "Errors")."""
    message = body.get("message")
    inner = message.get("idempotency_key") if isinstance(message, dict) else None
    for key in (headers.get("idempotency-key"), inner):
        if isinstance(key, str) and key:
            return key
    return None


def attempt_of(request: httpx.Request) -> int:
    """Which attempt of the SDK's own this is: 0 for the first, and for code that counts none."""
    count = request.headers.get(RETRY_COUNT, "0")
    return int(count) if count.isascii() and count.isdigit() and len(count) < 5 else 0


def same_send(request: httpx.Request) -> bytes:
    """A digest that the attempts of one send have in common."""
    return blake2b(request.url.raw_path + b"\0" + request.content, digest_size=16).digest()


def with_body(request: httpx.Request, body: Mapping[str, Any]) -> httpx.Request:
    """The same request with another JSON body."""
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _FRAMING]
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return httpx.Request("POST", request.url, headers=headers, content=content, extensions=request.extensions)


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def chat_request(request: httpx.Request) -> httpx.Request:
    """GET the chat that a request sends into, with its credentials and timeouts."""
    path = request.url.raw_path.split(b"?")[0].rstrip(b"/").rpartition(b"/")[0]
    headers = {name: request.headers[name] for name in ("authorization", "user-agent") if name in request.headers}
    headers["accept"] = "application/json"
    return httpx.Request("GET", request.url.copy_with(raw_path=path), headers=headers, extensions=request.extensions)


class Refusal(httpx.Response):
    """In place of an answer to the official SDK, whose retries take any exception of a transport for a lost connection.

    It is final for the SDK, and raises the error where the SDK looks at its status.
    """

    def __init__(self, error: Exception) -> None:
        wait = error.retry_after if isinstance(error, SendBlocked) else None
        super().__init__(409 if wait is None else 429, json={"error": {"message": str(error)}})
        self.headers["x-should-retry"] = "false"
        self.error = error

    def raise_for_status(self) -> httpx.Response:
        """Raise the error."""
        raise self.error


def refuse(request: httpx.Request, error: SendGuardError | ValueError) -> httpx.Response:
    """Raise an error out of the call that made a request."""
    if _SDK in request.headers:
        return Refusal(error)
    raise error
