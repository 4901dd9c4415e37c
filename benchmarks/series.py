"""One thing that is called again and again, each call timed, and what the server counted meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from benchmarks.servers import info


@dataclass
class Series:
    """One row's calls.

    server: its name. what: what is called. lines: how many there are to choose from. call: without arguments; what it
    returns is awaited if there is a `loop`. client: to ask the server for its counters. commands: those that the call
    sends, by their name in `INFO commandstats`; None for all but INFO. nanos: of each timed call; untimed: how many
    were not. calls, server_micros: of these commands, by the server's own count. sent: round trips of each call,
    counted in a pass of its own.
    """

    server: str
    what: str
    lines: int
    call: Callable[[], Any]
    client: redis.Redis
    commands: tuple[str, ...] | None = ("fcall",)
    loop: asyncio.AbstractEventLoop | None = None
    nanos: list[int] = field(default_factory=list)
    calls: int = 0
    server_micros: float = 0.0
    sent: float = 0.0
    untimed: int = 0

    def quantile(self, q: int) -> float:
        """Percentile q, in microseconds."""
        if len(self.nanos) == 1:
            return self.nanos[0] / 1000
        return statistics.quantiles(self.nanos, n=100, method="inclusive")[q - 1] / 1000

    def per_call(self) -> tuple[float, float]:
        """Commands that the server ran for each call, and the microseconds that it spent on them."""
        calls = len(self.nanos) + self.untimed
        return self.calls / calls, self.server_micros / calls

    def counted(self) -> tuple[int, float]:
        """Calls of the row's commands so far, and the microseconds that the server spent on them."""
        stats = info(self.client, "commandstats")
        names = [f"cmdstat_{name}" for name in self.commands] if self.commands is not None else list(stats)
        found = [stats[name] for name in names if name in stats and name != "cmdstat_info"]
        return sum(int(one["calls"]) for one in found), sum(float(one["usec"]) for one in found)

    def run(self, count: int, untimed: int = 1) -> None:
        """Call it `count` times, each timed, after one that is not, as another row was called before."""
        calls, micros = self.counted()
        self.repeat(untimed)
        self.untimed += untimed
        self.nanos += self.repeat(count)
        calls_after, micros_after = self.counted()
        self.calls += calls_after - calls
        self.server_micros += micros_after - micros

    def repeat(self, count: int) -> list[int]:
        """Call it `count` times: the nanoseconds of each."""
        if self.loop is not None:
            return self.loop.run_until_complete(_repeat_awaited(self.call, count))
        call, nanos, clock = self.call, [0] * count, time.perf_counter_ns
        for i in range(count):
            start = clock()
            call()
            nanos[i] = clock() - start
        return nanos


async def _repeat_awaited(call: Callable[[], Awaitable[object]], count: int) -> list[int]:
    nanos, clock = [0] * count, time.perf_counter_ns
    for i in range(count):
        start = clock()
        await call()
        nanos[i] = clock() - start
    return nanos
