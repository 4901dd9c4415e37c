"""What a pool costs in the store's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from benchmarks.servers import info, serve
from benchmarks.setup import TIMEOUT, add_lines, big_quotas, line, recipient, run_piped
from sendguard import Policy, SendGuard
from sendguard.request import Request
from sendguard.store import scripts
from sendguard.store.scripts import Call

FRESH_LINES = 10_000
USED_LINES = 20
SENDS, STARTS, DAY = 7000, 50, 86_400.0
RECIPIENT_LINES = 1000
_NOON = 1_771_000_000.0


@dataclass(frozen=True)
class Memory:
    """What was measured, in bytes.

    fresh, fresh_index: a line just observed, and its share of the index. used, used_record: a line whose default quotas
    are used up, and its record alone; volume, starts: what its windows then count. recipient: a recipient at rest, of
    so many recipients. keys: DBSIZE then. denied: decisions that were denied on the way.
    """

    fresh: float
    fresh_index: float
    used: float
    used_record: float
    volume: int
    starts: int
    recipient: float
    recipients: int
    keys: int
    denied: int


def _request(to: str, from_number: str | None = None) -> Request:
    return Request.of(to, "chat", from_number, (), None, None)


def _used_memory(url: str) -> int:
    """`used_memory` once the buffers of closed connections are gone."""
    with redis.Redis.from_url(url) as client:
        while info(client, "clients")["connected_clients"] > 1:
            time.sleep(0.02)
        time.sleep(0.3)
        return int(info(client, "memory")["used_memory"])


def _key_bytes(client: redis.Redis, pattern: str) -> int:
    return sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter(pattern, count=1000))


def _index_bytes(client: redis.Redis, pool: str) -> int:
    return _key_bytes(client, f"sendguard:{{{pool}}}:index:*")


def _fresh(url: str) -> tuple[float, float]:
    """Bytes of a line just observed, and of its share of the index."""
    before = _used_memory(url)
    with SendGuard(url, pool="fresh", timeout=TIMEOUT, refresh=None) as guard:
        add_lines(guard, FRESH_LINES)
    grown = _used_memory(url) - before
    with redis.Redis.from_url(url) as client:
        return grown / FRESH_LINES, _index_bytes(client, "fresh") / FRESH_LINES


def _day(guard: SendGuard) -> Iterator[Call]:
    """A day in which each line sends evenly all that the default quotas allow, to new recipients evenly spread."""
    for send in range(SENDS):
        known = min(STARTS, send * STARTS // SENDS + 1)
        for i in range(USED_LINES):
            request = _request(recipient(i * STARTS + send % known), line(i))
            now = _NOON + (send + i / USED_LINES) * DAY / SENDS
            yield guard._flows.protocol.decide(request, max_wait=0, waiter=False, now=now)


def _used_up(url: str) -> tuple[float, int, int, int]:
    """Bytes of the record of a line with used-up quotas, what its windows count, and how many sends were denied."""
    clock = [_NOON]
    with (
        SendGuard(url, pool="used", policy=Policy(), timeout=TIMEOUT, refresh=None, clock=lambda: clock[0]) as guard,
        redis.Redis.from_url(url) as client,
    ):
        add_lines(guard, USED_LINES, at=_NOON)
        denied = SENDS * USED_LINES - run_piped(client, _day(guard))
        clock[0] = _NOON + DAY - 1
        lines = guard.lines()
        bytes_ = client.memory_usage("sendguard:{used}:lines", samples=0) or 0
    volume, starts = min(x.daily_volume for x in lines), min(x.new_conversations for x in lines)
    return bytes_ / USED_LINES, volume, starts, denied


def _recipients(url: str, count: int) -> tuple[float, int, int]:
    """Bytes of a recipient at rest, DBSIZE, and how many decisions were denied."""
    with SendGuard(url, pool="many", policy=big_quotas(), timeout=TIMEOUT, refresh=None) as guard:
        protocol = guard._flows.protocol
        add_lines(guard, RECIPIENT_LINES)
        for i in range(RECIPIENT_LINES):  # every line's windows are begun before the count
            guard.choose_from_number(f"{i}@example.com")
        guard._store.close()  # its connections have buffers
        before = _used_memory(url)
        people = map(recipient, range(count))
        calls = (protocol.decide(_request(to), max_wait=0, waiter=False, now=None) for to in people)
        with redis.Redis.from_url(url) as client:
            denied = count - run_piped(client, calls)
    grown = _used_memory(url) - before
    with redis.Redis.from_url(url) as client:
        return grown / count, int(str(client.dbsize())), denied


def measure(kind: str, recipients: int) -> Memory:
    """All figures, on a server of its own. kind: a key of BINARIES."""
    with serve(kind) as url:
        with redis.Redis.from_url(url) as client:
            client.function_load(scripts.LIBRARY.source)
        fresh, index = _fresh(url)
        used, volume, starts, denied = _used_up(url)
        with redis.Redis.from_url(url) as client:
            client.flushall()
        each, keys, more_denied = _recipients(url, recipients)
    return Memory(
        fresh=fresh,
        fresh_index=index,
        used=used + index,
        used_record=used,
        volume=volume,
        starts=starts,
        recipient=each,
        recipients=recipients,
        keys=keys,
        denied=denied + more_denied,
    )
