"""A socket that keeps a deadline over many reads: a store that answers byte by byte is late all the same."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

_SLACK = 0.02
"""Seconds that the first read of an exchange may be late by, for which its timeout need not be set anew."""


class TimedSocket:
    """A connected socket whose sends and reads all end by `expires` (monotonic seconds). timeout: what it is set to.

    plain: the socket itself.
    """

    def __init__(self, sock: Any, timeout: float) -> None:
        self.plain, self._timeout, self._set, self._looks = sock, timeout, timeout, False
        self._is_plain = type(sock) is socket.socket and os.name == "posix"
        self.expires = time.monotonic() + timeout

    def _keep(self) -> None:
        if self._looks:
            return
        left = self.expires - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        wanted = self._timeout if self._timeout - _SLACK < left < self._timeout + _SLACK else left
        if wanted != self._set:
            self.plain.settimeout(wanted)
            self._set = wanted

    def exchange(self, data: bytes, buffer: bytearray) -> int:
        """Send bytes, and read the first ones that come back. Returns how many; 0 for the connection's end."""
        self._keep()
        if self._is_plain:
            data = data[_sent_at_once(self.plain, data) :]
        if data:
            self.plain.sendall(data)
            self._keep()
        count: int = self.plain.recv_into(buffer)
        return count

    def recv_into(self, *args: Any) -> Any:
        self._keep()
        return self.plain.recv_into(*args)

    def recv(self, *args: Any) -> Any:
        self._keep()
        return self.plain.recv(*args)

    def sendall(self, *args: Any) -> Any:
        self._keep()
        return self.plain.sendall(*args)

    def settimeout(self, timeout: float | None) -> None:
        """Only the deadline counts; redis-py sets a timeout of its own around some reads, and 0 for a mere look."""
        if timeout == 0:
            self._looks, self._set = True, 0.0
            self.plain.settimeout(0)
        else:
            self._looks = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def _sent_at_once(sock: socket.socket, data: bytes) -> int:
    """How many bytes the kernel takes without waiting. `send` would first ask it whether it takes any."""
    try:
        return os.write(sock.fileno(), data)
    except BlockingIOError:
        return 0


def timed(kind: type[Any]) -> type[Any]:
    """A class of redis-py's connections, with sockets that keep a deadline."""

    def _connect(self: Any) -> TimedSocket:
        return TimedSocket(kind._connect(self), self.socket_timeout)

    return type(f"Timed{kind.__name__}", (kind,), {"_connect": _connect})
