"""What the transport adds to a call of the official SDK: the same calls with and without it, interleaved."""

from __future__ import annotations

import itertools
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from linq import LinqAPIV3

from benchmarks.setup import TIMEOUT, add_lines, every_rule, line, recipient
from sendguard import SendGuard
from sendguard.middleware.transport import SendGuardTransport

LINES = 10
CHATS = 250
HELLO: Any = {"parts": [{"type": "text", "value": "Hello"}]}


HOW = {
    "plain": "the SDK alone",
    "ping": "a bare PING to the store before each call",
    "guarded": "SendGuardTransport",
}


class PingTransport(httpx.HTTPTransport):
    """What any transport that asks the store must take at least."""

    def __init__(self, ping: Callable[[], object]) -> None:
        super().__init__()
        self._ping = ping

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's own."""
        self._ping()
        return super().handle_request(request)


@dataclass
class Way:
    """One way of making one call. how: a key of HOW. nanos: of each timed call."""

    call: str
    how: str
    run: Callable[[], object]
    nanos: list[int] = field(default_factory=list)

    def quantile(self, q: int) -> float:
        """Percentile q, in microseconds."""
        return statistics.quantiles(self.nanos, n=100, method="inclusive")[q - 1] / 1000


@contextmanager
def simulator() -> Iterator[tuple[str, str]]:
    """A simulator in a process of its own: its base URL and key."""
    numbers = ",".join(line(i) for i in range(LINES))
    command = [sys.executable, "-m", "sendguard.simulator", "--lines", numbers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = dict(re.findall(r"(\w+)=(.*)", "".join(process.stdout.readline() for _ in range(3))))
            yield told["LINQ_API_V3_BASE_URL"], told["LINQ_API_V3_API_KEY"]
        finally:
            process.kill()


def _calls(client: LinqAPIV3, how: str) -> list[Way]:
    """New chats, each to somebody new, and messages into chats of the client's own."""
    first = (1 + list(HOW).index(how)) * 10_000_000
    people = map(recipient, itertools.count(first))
    own = [client.chats.create(from_=line(i % LINES), to=[next(people)], message=HELLO).chat.id for i in range(CHATS)]
    chats = itertools.cycle(own)
    lines = itertools.cycle([line(i) for i in range(LINES)])
    return [
        Way("message", how, lambda: client.chats.messages.send(next(chats), message=HELLO)),
        Way("new chat", how, lambda: client.chats.create(from_=next(lines), to=[next(people)], message=HELLO)),
    ]


def measure(store: str, *, rounds: int, calls: int) -> list[Way]:
    """Each way, `rounds` times `calls` calls. store: the URL of a running server.

    The API allows 30 messages a minute to one person, so no more than 30 * CHATS messages are sent.
    """
    assert rounds * calls + CHATS <= 30 * CHATS
    with ExitStack() as stack:
        base_url, api_key = stack.enter_context(simulator())
        guard = stack.enter_context(SendGuard(store, pool="transport", policy=every_rule(), timeout=TIMEOUT))
        add_lines(guard, LINES)
        ways: list[Way] = []
        for how in HOW:
            transport: httpx.BaseTransport = httpx.HTTPTransport()
            if how == "guarded":
                transport = SendGuardTransport(guard, transport)
            elif how == "ping":
                transport = PingTransport(guard._store._client.ping)
            http = httpx.Client(transport=transport)
            client = stack.enter_context(LinqAPIV3(api_key=api_key, base_url=base_url, http_client=http))
            ways += _calls(client, how)
        ways.sort(key=lambda way: way.call)
        clock = time.perf_counter_ns
        for i in range(rounds):
            for way in ways if i % 2 else reversed(ways):
                for _ in range(calls):
                    start = clock()
                    way.run()
                    way.nanos.append(clock() - start)
    return ways
