"""Cuts a stream of RESP 2 or 3, in either direction, into whole values."""

from __future__ import annotations

_COUNTED = b"$=!"  # a length in bytes follows, and then as many bytes
_NESTED = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}  # a count follows, and then so many times as many values


class Framer:
    """Takes in bytes as they come, and gives out whole values as they are complete, as the bytes that came."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at, self._missing = 0, 1  # where to read on; how many values are still to come until this one is whole

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        whole = []
        while self._complete():
            whole.append(bytes(self._buffer[: self._at]))
            del self._buffer[: self._at]
            self._at, self._missing = 0, 1
        return whole

    def _complete(self) -> bool:
        while self._missing:
            line = self._buffer.find(b"\r\n", self._at)
            if line < 0:
                return False
            kind, head, end = bytes(self._buffer[self._at : self._at + 1]), self._buffer[self._at + 1 : line], line + 2
            if kind in _NESTED:
                self._missing += max(0, int(head)) * _NESTED[kind]
            elif kind in _COUNTED and int(head) >= 0:
                end += int(head) + 2
                if len(self._buffer) < end:
                    return False
            self._missing -= kind != b"|"  # attributes stand before a value, and are none
            self._at = end
        return True


def words(request: bytes) -> list[bytes]:
    """The words of a whole request: an array of bulk strings, or a line of text."""
    if not request.startswith(b"*"):
        return request.split()
    found, at = [], request.index(b"\r\n") + 2
    while at < len(request):
        start = request.index(b"\r\n", at) + 2
        end = start + int(request[at + 1 : start - 2])
        found.append(request[start:end])
        at = end + 2
    return found
