"""Where a decision's time goes in Python: `python -m benchmarks.profile`. It writes and prints `results/profile.md`.

Each stage is called in isolation, warm, again and again: the median of a round's batches, the least of the rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from benchmarks.servers import serve, surroundings, version
from benchmarks.setup import TIMEOUT, add_lines, every_rule, recipient
from sendguard import AsyncSendGuard, SendGuard
from sendguard.replies import number_in
from sendguard.request import Request
from sendguard.store import scripts
from sendguard.store.link import Link, reader_of, text_in
from sendguard.store.route import first_hop

RESULT = Path(__file__).parent / "results" / "profile.md"
LOOKING, WAITING = "looking whether the connection was lost", "sending, and waiting for the server"
PARSING = "parsing the reply"
ROUNDS, BATCHES, CALLS = 15, 15, 100
Call = Callable[[], object]
Clock = Callable[[], float]


def _quickest(batch: Callable[[Clock], float], clock: Clock) -> float:
    """Microseconds of one call. batch: the seconds that a batch of calls took by a clock."""
    rounds = [statistics.median(batch(clock) for _ in range(BATCHES)) for _ in range(ROUNDS)]
    return min(rounds) / CALLS * 1e6


def micros(call: Call, clock: Clock = time.perf_counter) -> float:
    """Microseconds of a call."""

    def batch(clock: Clock) -> float:
        start = clock()
        for _ in range(CALLS):
            call()
        return clock() - start

    return _quickest(batch, clock)


def async_micros(runner: asyncio.Runner, call: Callable[[], Awaitable[object]], clock: Clock) -> float:
    """Microseconds of a call that is awaited."""

    async def awaited(clock: Clock) -> float:
        start = clock()
        for _ in range(CALLS):
            await call()
        return clock() - start

    return _quickest(lambda clock: runner.run(awaited(clock)), clock)


class _Answers:
    """A connection over which the same answer comes at once."""

    address = None

    def __init__(self, reply: object) -> None:
        self._reply = reply

    def is_quiet(self) -> bool:
        return True

    def ask(self, *_: object) -> object:
        return self._reply


def stages(guard: SendGuard) -> dict[str, float]:
    """Microseconds of each stage of `choose_from_number`, in their order."""
    protocol, to = guard._flows.protocol, recipient(0)
    request = Request.of(to, "chat", None, (), None, None)
    conversation = protocol.conversation(request)

    def built() -> scripts.Call:
        return protocol.decide(request, max_wait=0.0, waiter=False, now=None, conversation=conversation)

    call, primary = built(), guard._store._primary
    reply: Any = guard._store.run(call)
    (link,) = guard._store._idle.drain()
    assert isinstance(link, Link)
    hop, reader, wire = first_hop(call, primary), reader_of(link.connection), b"$%d\r\n%b\r\n" % (len(reply), reply)
    found = {
        "checking the arguments": micros(lambda: Request.of(to, "chat", None, (), None, None)),
        "hashing the recipients": micros(lambda: protocol.conversation(request)),
        "building the call": micros(built),
        "packing it": micros(lambda: first_hop(call, primary)),
        LOOKING: micros(link.is_quiet),
        WAITING: micros(lambda: link.ask(hop, time.monotonic() + TIMEOUT)),
        PARSING: micros(lambda: text_in(reader, wire, len(wire))) if reader else 0.0,
        "reading the line in it": micros(lambda: number_in(reply)),
    }
    found[WAITING] -= found[PARSING]
    guard._store._idle.add(_Answers(reply))  # type: ignore[arg-type]
    everything = micros(lambda: guard.choose_from_number(to))
    guard._store._idle.drain()
    guard._store._idle.add(link)
    elsewhere = (LOOKING, WAITING, PARSING)
    found["the steps between these"] = everything - sum(found[name] for name in found if name not in elsewhere)
    return found


def whole(url: str, guard: SendGuard) -> dict[str, tuple[float, float]]:
    """Microseconds of whole calls: by the clock, and of this thread's CPU."""
    to, found = recipient(0), {}
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT) as client:
        for name, call in (("PING", client.ping), ("`choose_from_number()`", lambda: guard.choose_from_number(to))):
            found[name] = micros(call), micros(call, time.thread_time)
    with asyncio.Runner() as runner:
        pings = redis.asyncio.Redis.from_url(url, socket_timeout=TIMEOUT)
        other = AsyncSendGuard(url, pool=guard.pool, policy=every_rule(), timeout=TIMEOUT, refresh=None)
        asked: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
            ("PING, asyncio", pings.ping),
            ("`choose_from_number()`, asyncio", lambda: other.choose_from_number(to)),
        )
        for name, ask in asked:
            wall = async_micros(runner, ask, time.perf_counter)
            found[name] = wall, async_micros(runner, ask, time.thread_time)
        runner.run(other.close())
        runner.run(pings.aclose())
    return found


def _server_micros(url: str, guard: SendGuard) -> float:
    """Microseconds of the server for one FCALL, by its own count."""
    with redis.Redis.from_url(url) as client:
        client.config_resetstat()
        for _ in range(5_000):
            guard.choose_from_number(recipient(0))
        stats: Any = client.info("commandstats")
    return float(stats["cmdstat_fcall"]["usec_per_call"])


def main() -> None:
    """Measure, print, write."""
    with serve("Valkey") as url:
        where = surroundings([version(url)])
        with SendGuard(url, pool="profile", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
            add_lines(guard, 10)
            for _ in range(1_000):
                guard.choose_from_number(recipient(0))
            found, calls, server = stages(guard), whole(url, guard), _server_micros(url, guard)
    python = sum(found.values()) - found[WAITING]
    text = "\n".join(
        [
            "# Where a decision's time goes in Python",
            "",
            *(f"- {item}" for item in where),
            f"- Each figure: the median of {BATCHES} batches of {CALLS} calls, the least of {ROUNDS} rounds",
            "",
            "The stages of `choose_from_number()` with every rule on, into a conversation that lives on its line, each "
            f"called alone. The server's own count for one FCALL is {server:.1f} µs.",
            "",
            "| Stage | µs |",
            "|---|--:|",
            *(f"| {name} | {value:.2f} |" for name, value in found.items()),
            f"| **all but the waiting** | **{python:.2f}** |",
            "",
            "Whole calls, one after the other, and PING by redis-py's client. CPU is this thread's, with the kernel's "
            "share; it is more than the stages add up to, as the server's run leaves the caches cold.",
            "",
            "| Call | µs | CPU µs |",
            "|---|--:|--:|",
            *(f"| {name} | {wall:.1f} | {cpu:.1f} |" for name, (wall, cpu) in calls.items()),
            "",
        ]
    )
    RESULT.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
