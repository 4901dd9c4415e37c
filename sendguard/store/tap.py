"""What comes over an asyncio transport, taken before it goes through a stream, where one call awaits it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

_READ_SIZE = 65_536


class Tap(asyncio.BufferedProtocol):
    """The protocol of a transport, in front of the one that it had, which gets all but what `exchange` awaits.

    over: the other side has ended the connection, or it is lost. passed_on: something went to the other protocol, or
    may have gone there before this one came.
    """

    def __init__(self, transport: Any) -> None:
        self._transport, self._behind = transport, transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._waiter: asyncio.Future[bytes] | None = None
        self._expires = self._rings_at = 0.0
        self._bell: asyncio.TimerHandle | None = None
        self.over, self.passed_on = transport.is_closing(), True
        transport.set_protocol(self)

    def exchange(self, data: bytes, expires: float) -> asyncio.Future[bytes]:
        """Send bytes; the first ones that come back. expires: when to raise TimeoutError, in monotonic seconds."""
        self._waiter = waiter = self._loop.create_future()
        if self.over:
            waiter.set_exception(ConnectionResetError("the connection was lost"))
            return waiter
        self._expires = expires
        if self._bell is None or self._rings_at > expires:
            self._ring_at(expires)
        self._transport.write(data)
        return waiter

    # The deadline. A timer for each exchange would cost more than the exchange, so one is left to ring: if it finds
    # another exchange under way, it is set anew.

    def _ring_at(self, expires: float) -> None:
        if self._bell is not None:
            self._bell.cancel()
        self._rings_at = expires
        self._bell = self._loop.call_later(max(0.0, expires - time.monotonic()), self._rung)

    def _rung(self) -> None:
        self._bell = None
        if self._waiter is None or self._waiter.done():
            return
        if time.monotonic() < self._expires:
            self._ring_at(self._expires)
        else:
            self._waiter.set_exception(TimeoutError("timed out"))

    # What asyncio calls.

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        data, waiter = bytes(self._buffer[:nbytes]), self._waiter
        self._waiter = None
        if waiter is None or waiter.done():
            self.passed_on = True
            self._behind.data_received(data)
        else:
            waiter.set_result(data)

    def _end(self) -> None:
        self.over = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError("the connection was lost"))

    def eof_received(self) -> bool | None:
        """No more bytes will come."""
        self._end()
        kept: bool | None = self._behind.eof_received()
        return kept

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._end()
        if self._bell is not None:
            self._bell.cancel()
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport holds much that is not sent yet."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """It holds little again."""
        self._behind.resume_writing()
