"""How long a decision takes, beside a bare PING on the same kind of connection."""

from __future__ import annotations

import itertools
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from benchmarks.servers import info
from benchmarks.setup import TIMEOUT, add_lines, every_rule, recipient
from sendguard import SendGuard

LINES = (10, 1_000, 10_000)
STICKY_RECIPIENTS = 500
PING = "PING"
_fresh_recipients = itertools.count(100_000_000)
_keys = itertools.count()


class CountingSocket(socket.socket):
    """A socket that counts what is sent over it."""

    def sendall(self, *args: Any) -> None:
        """As the socket's own."""
        CountingConnection.sent += 1
        super().sendall(*args)


class CountingConnection(redis.Connection):
    """A connection that counts the commands that go over its wire, each of which is sent as one."""

    sent = 0

    def _connect(self) -> socket.socket:
        plain: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        timeout = plain.gettimeout()
        counting = CountingSocket(plain.family, plain.type, plain.proto, plain.detach())
        counting.settimeout(timeout)
        return counting


@dataclass
class Series:
    """One thing that is called again and again.

    server: its name. what: PING, or the kind of decision. nanos: of each timed call; untimed: how many were not.
    calls, server_micros: EVALSHA by the server's own count. sent: commands that the client put on the wire for each
    decision, counted in a pass of its own.
    """

    server: str
    what: str
    lines: int
    call: Callable[[], object]
    client: redis.Redis
    nanos: list[int] = field(default_factory=list)
    calls: int = 0
    server_micros: float = 0.0
    sent: float = 0.0
    untimed: int = 0

    def quantile(self, q: int) -> float:
        """Percentile q, in microseconds."""
        return statistics.quantiles(self.nanos, n=100, method="inclusive")[q - 1] / 1000

    def evalsha(self) -> tuple[int, float]:
        """Calls of EVALSHA so far, and the microseconds that the server spent on them."""
        stats = info(self.client, "commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        return int(stats["calls"]), float(stats["usec"])

    def run(self, count: int) -> None:
        """Call it `count` times, each timed."""
        call, nanos, clock = self.call, self.nanos, time.perf_counter_ns
        calls, micros = self.evalsha()
        call()  # the first after another series is not timed
        self.untimed += 1
        for _ in range(count):
            start = clock()
            call()
            nanos.append(clock() - start)
        calls_after, micros_after = self.evalsha()
        self.calls += calls_after - calls
        self.server_micros += micros_after - micros


def _decisions(guard: SendGuard) -> Iterator[tuple[str, Callable[[], object]]]:
    """The kinds of decision, each as a call without arguments."""
    choose = guard.choose_from_number
    for keyed in (False, True):
        mark = ", idempotency key" if keyed else ""
        known = itertools.cycle([recipient(i + STICKY_RECIPIENTS * keyed) for i in range(STICKY_RECIPIENTS)])
        fresh = map(recipient, _fresh_recipients)
        for what, people in (("sticky", known), ("new conversation", fresh)):

            def plain(people: Iterator[str] = people) -> object:
                return choose(next(people))

            def with_key(people: Iterator[str] = people) -> object:
                return choose(next(people), idempotency_key=f"order-{next(_keys)}")

            yield what + mark, with_key if keyed else plain


@contextmanager
def _all_series(urls: dict[str, str]) -> Iterator[list[Series]]:
    with ExitStack() as stack:
        found = []
        for server, url in urls.items():
            admin = stack.enter_context(redis.Redis.from_url(url))
            for count in LINES:
                guard = SendGuard(url, pool=f"lines-{count}", policy=every_rule(), timeout=TIMEOUT, refresh=None)
                stack.enter_context(guard)
                add_lines(guard, count)
                client = stack.enter_context(redis.Redis.from_url(url, socket_timeout=TIMEOUT))
                calls = ((PING, client.ping), *_decisions(guard))
                found += [Series(server, what, count, call, admin) for what, call in calls]
        yield found


def _count_sent(urls: dict[str, str], series: list[Series], count: int) -> None:
    """How many commands a decision puts on the wire, over a connection that counts them."""
    for server, url in urls.items():
        pool = redis.ConnectionPool.from_url(url, connection_class=CountingConnection)
        with redis.Redis.from_pool(pool) as client:
            for lines in LINES:
                guard = SendGuard(client, pool=f"lines-{lines}", policy=every_rule(), timeout=TIMEOUT, refresh=None)
                for what, call in _decisions(guard):
                    call()
                    before = CountingConnection.sent
                    for _ in range(count):
                        call()
                    sent = (CountingConnection.sent - before) / count
                    next(s for s in series if (s.server, s.what, s.lines) == (server, what, lines)).sent = sent


def measure(urls: dict[str, str], *, rounds: int, calls: int) -> list[Series]:
    """Every series on every server, in rounds: each round runs them all, `calls` times each, in a new order.

    What one guard is called for, and the PING of its own client, are neighbours in every round.

    urls: of running servers, by name.
    """
    order = random.Random(1)
    with _all_series(urls) as series:
        groups = [list(group) for _, group in itertools.groupby(series, key=lambda one: (one.server, one.lines))]
        for one in series:  # warm-up: the scripts are loaded, the sticky conversations begun
            for _ in range(2 * STICKY_RECIPIENTS):
                one.call()
        for _ in range(rounds):
            order.shuffle(groups)
            for group in groups:
                for one in order.sample(group, len(group)):
                    one.run(calls)
        _count_sent(urls, series, calls)
    return series
