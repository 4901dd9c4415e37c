"""The guard under an HTTP client: httpx transports for the official SDK, or for any code that speaks httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from sendguard.arguments import check_max_wait
from sendguard.errors import SendGuardError
from sendguard.middleware.gate import Gate
from sendguard.middleware.requests import refuse, route_of

if TYPE_CHECKING:
    from sendguard.async_guard import AsyncSendGuard
    from sendguard.guard import SendGuard


class SendGuardTransport(httpx.BaseTransport):
    """Gates every request that sends a message; any other passes untouched.

        client = LinqAPIV3(http_client=httpx.Client(transport=SendGuardTransport(guard), timeout=60))

    Gated are POST /v3/chats, /v3/chats/{id}/messages, /v3/chats/{id}/voicememo and /v3/messages, below any base URL.
    guard: it stays open when this is closed. transport: what requests go on to (a new `httpx.HTTPTransport` by
    default). rewrite_from: a chat created `from` a line that may not send is moved to the line that the guard chooses;
    False blocks it. max_wait: seconds that a send may wait for its turn.

    A blocked send raises SendBlocked, bad recipients ValueError, out of the call that sends; nothing reached the API.
    """

    def __init__(
        self,
        guard: SendGuard,
        transport: httpx.BaseTransport | None = None,
        *,
        rewrite_from: bool = True,
        max_wait: float = 0.0,
    ) -> None:
        self._guard = guard
        self._transport = httpx.HTTPTransport() if transport is None else transport
        self._gate = Gate(guard._flows, self._forward, rewrite_from=rewrite_from, max_wait=check_max_wait(max_wait))

    def _forward(self, request: httpx.Request) -> httpx.Response:
        response = self._transport.handle_request(request)
        try:
            response.read()
        finally:
            response.close()
        return response

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's own."""
        route = route_of(request)
        if route is None:
            return self._transport.handle_request(request)
        request.read()
        try:
            return self._guard._drive(self._gate.handle(request, route))
        except (SendGuardError, ValueError) as error:
            return refuse(request, error)

    def close(self) -> None:
        """Close the transport that requests go on to."""
        self._transport.close()


class AsyncSendGuardTransport(httpx.AsyncBaseTransport):
    """As `SendGuardTransport`, for `AsyncSendGuard` and `httpx.AsyncClient`."""

    def __init__(
        self,
        guard: AsyncSendGuard,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        rewrite_from: bool = True,
        max_wait: float = 0.0,
    ) -> None:
        self._guard = guard
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport
        self._gate = Gate(guard._flows, self._forward, rewrite_from=rewrite_from, max_wait=check_max_wait(max_wait))

    async def _forward(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's own."""
        route = route_of(request)
        if route is None:
            return await self._transport.handle_async_request(request)
        await request.aread()
        try:
            return await self._guard._drive(self._gate.handle(request, route))
        except (SendGuardError, ValueError) as error:
            return refuse(request, error)

    async def aclose(self) -> None:
        """Close the transport that requests go on to."""
        await self._transport.aclose()
