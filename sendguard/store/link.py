"""A connection to a store that is kept: one call after the other is asked over it, each with its deadline.

redis-py connects, logs in, and reads what is out of the ordinary. What nearly every call is, one command out and one
text back, passes its layers by: they take as long as the rest of a decision. That needs hiredis; without it, and
wherever else something is not as it is known here, all goes through redis-py's own methods.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from typing import Any

from sendguard.store.address import Address
from sendguard.store.route import Hop
from sendguard.store.scripts import Reply
from sendguard.store.tap import Tap
from sendguard.store.wire import ASKING

_READ_SIZE = 4096
_TEXT, _MINUS = b"$-"
_TEXTS = (bytes, str)


def until(expires: float) -> asyncio.Timeout:
    """A block that raises TimeoutError at a time of `time.monotonic()`."""
    return asyncio.timeout(expires - time.monotonic())


def reader_of(connection: Any) -> Any | None:
    """The hiredis reader that a connection parses with; None if it has another parser."""
    reader = getattr(getattr(connection, "_parser", None), "_reader", None)
    return reader if all(hasattr(reader, name) for name in ("feed", "gets", "has_data")) else None


def text_in(reader: Any, data: bytes | bytearray, count: int) -> bytes | str | None:
    """The text that the first bytes of a reply hold; None for whatever else, which redis-py is then to read on from."""
    if not count:
        return None
    reader.feed(data, 0, count)
    if count == 1 or data[0] != _TEXT or data[1] == _MINUS:  # an error, a push, a list, or null
        return None
    reply = reader.gets()
    return reply if isinstance(reply, _TEXTS) else None


class Link:
    """A connected connection of redis-py's class, with the sockets of `timed`. address: that it was asked for by."""

    def __init__(self, connection: Any, address: Address | None) -> None:
        self.connection, self.address = connection, address
        self._sock, self._reader = connection._sock, reader_of(connection)
        self._buffer = bytearray(_READ_SIZE)
        self._poll = None
        if self._reader is not None and type(self._sock.plain) is socket.socket and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether it is as it was left: not closed, and nothing has come that nobody asked for."""
        if self._poll is None or self._reader is None:
            return not self.connection.can_read()
        return not (self._poll.poll(0) or self._reader.has_data())

    def ask(self, hop: Hop, expires: float) -> Reply:
        """Send a command, and read its reply. An exception other than ResponseError leaves it out of step."""
        connection, sock, reader = self.connection, self._sock, self._reader
        sock.expires = expires
        if hop.asking:
            connection.send_packed_command([ASKING])
            connection.read_response()
        if reader is None or reader.has_data():
            # What execute_command adds (retries, routing, events) is not wanted here.
            connection.send_packed_command([hop.data])
            return connection.read_response()
        reply = text_in(reader, self._buffer, sock.exchange(hop.data, self._buffer))
        return connection.read_response() if reply is None else reply

    def disconnect(self) -> None:
        """Close it."""
        self.connection.disconnect()


class AsyncLink:
    """As `Link`, for a connection of `redis.asyncio`."""

    def __init__(self, connection: Any, address: Address | None) -> None:
        self.connection, self.address = connection, address
        self._reader = reader_of(connection)
        self._tap = None if self._reader is None else Tap(connection._writer.transport)

    async def is_quiet(self) -> bool:
        """As `Link.is_quiet`, as far as the event loop has been told."""
        tap, reader = self._tap, self._reader
        if tap is None or reader is None:
            return not await self.connection.can_read()
        if tap.over or reader.has_data():
            return False
        if tap.passed_on and await self.connection.can_read():
            return False
        tap.passed_on = False
        return True

    async def ask(self, hop: Hop, expires: float) -> Reply:
        """As `Link.ask`."""
        connection, tap = self.connection, self._tap
        if time.monotonic() >= expires:
            raise TimeoutError("timed out")
        lean = tap is not None and not hop.asking and (not tap.passed_on or await self.is_quiet())
        if tap is not None and lean:
            data = await tap.exchange(hop.data, expires)
            reply = text_in(self._reader, data, len(data))
            if reply is not None:
                return reply
        async with until(expires):
            if hop.asking:
                await connection.send_packed_command([ASKING])
                await connection.read_response()
            if not lean:
                await connection.send_packed_command([hop.data])
            return await connection.read_response()

    async def disconnect(self) -> None:
        """Close it, without waiting for that."""
        await self.connection.disconnect(nowait=True)
