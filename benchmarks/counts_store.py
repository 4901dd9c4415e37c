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
_INFO = b"*2\r\n$4\r\nINFO\r\n$3\r\nall\r\n"
_CALLS = re.compile(rb"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)
_REPEATS = 3


class Meter:
    """Reads the counters of a server that nobody else uses meanwhile."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname or "", where.port or 0), timeout=10)
        self._file = self._socket.makefile("rb")

    def count(self, call: Callable[[], Any]) -> Counts:
        """What a call costs, without what the reading of the counters adds."""
        before, size = self._read()
        call()
        after, _ = self._read()
        grown = {name: after[name] - before.get(name, 0) for name in sorted(after)}
        commands = {name: calls for name, calls in grown.items() if name.isupper() and name != "INFO" and calls}
        return {
            "round trips": grown["total_reads_processed"] - 1,
            "bytes sent": grown["total_net_input_bytes"] - len(_INFO),
            "bytes received": grown["total_net_output_bytes"] - size,
            "commands": sum(commands.values()),
            **commands,
        }

    def _read(self) -> tuple[Counts, int]:
        """The counters, and the size of the answer that told them: it is sent, and counted, after they were read."""
        self._socket.sendall(_INFO)
        head = self._file.readline()
        text = self._file.read(int(head[1:]) + 2)
        counts = {name.decode().upper(): int(calls) for name, calls in _CALLS.findall(text)}
        for name in ("total_reads_processed", "total_net_input_bytes", "total_net_output_bytes"):
            found = re.search(rf"^{name}:(\d+)".encode(), text, re.MULTILINE)
            assert found is not None, f"the server does not tell {name}"
            counts[name] = int(found[1])
        return counts, len(head) + len(text)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def least(several: list[Counts]) -> Counts:
    """The least of each count: what once came on top of it (a cache that filled, a read that was cut) is no cost."""
    return {name: min(counts.get(name, 0) for counts in several) for name in several[-1]}


def count_commands(pools: Pools, row: Row, lines: int) -> Counts:
    """What one call costs in a pool of so many lines."""
    meter, do, found = Meter(pools.url), Sync(pools.url, row), []
    try:
        for _ in range(1 + _REPEATS):  # the first loads the scripts
            pools.renew(lines)
            found.append(meter.count(do.call(row.prepare(do))))
    finally:
        do.close()
        meter.close()
    return least(found[1:])
