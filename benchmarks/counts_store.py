"""What one call costs by the store's own count: round trips, bytes, and the commands of its scripts by name."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.counts_pools import Pools, Sync
from benchmarks.counts_rows import Row

Counts = dict[str, int]
Call = Callable[[], Any]
_INFO = b"*2\r\n$4\r\nINFO\r\n$3\r\nall\r\n"
_MARK = b"*2\r\n$4\r\nECHO\r\n$4\r\nmark\r\n"
_CALLS = re.compile(rb"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)
_REPEATS = 3


class _Plain:
    """A connection without a client, so that every byte that it adds is known."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname or "", where.port or 0), timeout=10)
        self._file = self._socket.makefile("rb")

    def ask(self, command: bytes) -> bytes:
        """The answer to a command, with its head."""
        self._socket.sendall(command)
        head = self.line()
        return head + self._file.read(int(head[1:]) + 2) if head.startswith(b"$") else head

    def line(self) -> bytes:
        """The next line."""
        return self._file.readline()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def count_costs(url: str, call: Call) -> Counts:
    """Bytes and commands of a call, without what the reading of the counters adds. Nobody else may use the server."""
    reader = _Plain(url)
    before, size = _counters(reader)
    call()
    after, _ = _counters(reader)
    reader.close()
    grown = {name: after[name] - before.get(name, 0) for name in sorted(after)}
    commands = {name: calls for name, calls in grown.items() if name.isupper() and name != "INFO" and calls}
    return {
        "bytes sent": grown["total_net_input_bytes"] - len(_INFO),
        "bytes received": grown["total_net_output_bytes"] - size,
        "commands": sum(commands.values()),
        **commands,
    }


def _counters(reader: _Plain) -> tuple[Counts, int]:
    """The counters, and the size of the answer that told them: it is sent, and counted, after they were read."""
    text = reader.ask(_INFO)
    counts = {name.decode().upper(): int(calls) for name, calls in _CALLS.findall(text)}
    for name in ("total_net_input_bytes", "total_net_output_bytes"):
        found = re.search(rf"^{name}:(\d+)".encode(), text, re.MULTILINE)
        assert found is not None, f"the server does not tell {name}"
        counts[name] = int(found[1])
    return counts, len(text)


def count_round_trips(url: str, call: Call) -> Counts:
    """The commands that a call sends: those that the server tells of, and does not ascribe to a script."""
    watcher, marker = _Plain(url), _Plain(url)
    watcher.ask(b"*1\r\n$7\r\nMONITOR\r\n")
    call()
    marker.ask(_MARK)
    told = []
    while b'"ECHO" "mark"' not in (line := watcher.line()):
        told.append(line)
    watcher.close()
    marker.close()
    return {"round trips": sum(b" lua] " not in line for line in told)}


def least(several: list[Counts]) -> Counts:
    """The least of each count: what once came on top of it (a cache that filled, a late answer) is no cost."""
    return {name: min(counts.get(name, 0) for counts in several) for name in several[-1]}


def count_commands(pools: Pools, row: Row, lines: int) -> Counts:
    """What one call costs in a pool of so many lines."""
    do = Sync(pools.url, row)

    def ready() -> Call:
        pools.renew(lines)
        return do.call(row.prepare(do))

    try:
        row.check(ready()())  # which loads the scripts
        trips = least([count_round_trips(pools.url, ready()) for _ in range(_REPEATS)])
        return trips | least([count_costs(pools.url, ready()) for _ in range(_REPEATS)])
    finally:
        do.close()
