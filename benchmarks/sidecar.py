"""What the sidecar answers: decisions a second on one core, and how long each takes beside an empty endpoint."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.servers import free_port
from benchmarks.setup import TIMEOUT, add_lines, recipient
from sendguard import SendGuard

LINES, RECIPIENTS, CLIENTS = 10, 500, 8
PLAIN = "/healthz"
CHOOSE = "/v1/choose-from-number"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


@dataclass
class Answers:
    """What calls took. alone: nanoseconds of each, one after the other. busy: of each, CLIENTS at once.

    seconds: how long those took together.
    """

    path: str
    request: Callable[[], bytes]
    alone: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second with CLIENTS at once."""
        return len(self.busy) / self.seconds


def micros(nanos: list[int], q: int) -> float:
    """Percentile q, in microseconds."""
    return statistics.quantiles(nanos, n=100, method="inclusive")[q - 1] / 1000


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, answers: list[int], request: Callable[[], bytes], count: int) -> None:
        self.answers, self.request, self.left = answers, request, count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.start = time.perf_counter_ns()
        self.transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self.answers.append(time.perf_counter_ns() - self.start)
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError((head + body).decode(errors="replace")))
            return
        self.buffer, self.left = b"", self.left - 1
        if self.left:
            self.ask()
        else:
            self.transport.close()
            self.done.set_result(None)


async def _ask(port: int, answers: list[int], request: Callable[[], bytes], clients: int, each: int) -> float:
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Client(answers, request, each), "127.0.0.1", port) for _ in range(clients)
    ]
    await asyncio.gather(*(client.done for _, client in made))
    return time.perf_counter() - start


def _answers() -> list[Answers]:
    people = itertools.cycle([recipient(i) for i in range(RECIPIENTS)])

    def choose() -> bytes:
        body = json.dumps({"to": next(people)}).encode()
        head = f"POST {CHOOSE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body

    return [Answers(PLAIN, lambda: b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % PLAIN.encode()), Answers(CHOOSE, choose)]


@contextmanager
def sidecar(store: str) -> Iterator[int]:
    """The port of a sidecar on the last core alone; this process and the store share the others."""
    cores = sorted(os.sched_getaffinity(0))
    port = free_port()
    endless = {"limit": 10_000_000, "per": 86_400}
    policy = {"daily_volume": endless, "new_conversations": endless, "pair": {"limit": 10_000_000, "per": 60}}
    environment = {
        "SENDGUARD_STORE": store,
        "SENDGUARD_POOL": "sidecar",
        "SENDGUARD_PORT": str(port),
        "SENDGUARD_POLICY": json.dumps(policy),
        "SENDGUARD_POLL_INTERVAL": "0",
    }
    command = [sys.executable, "-c", "from sendguard.cli import main; main()", "serve"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:]),
    )
    os.sched_setaffinity(0, cores[:-1] or cores)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        yield port
    finally:
        os.sched_setaffinity(0, cores)
        process.terminate()
        process.wait()


def measure(store: str, *, rounds: int, calls: int) -> list[Answers]:
    """The empty endpoint and the decision, in turn. store: the URL of a running server."""
    with SendGuard(store, pool="sidecar", timeout=TIMEOUT) as guard:
        add_lines(guard, LINES)
    found = _answers()
    with sidecar(store) as port:
        for i in range(rounds + 1):
            for one in found if i % 2 else reversed(found):
                asyncio.run(_ask(port, one.alone, one.request, 1, calls))
                one.seconds += asyncio.run(_ask(port, one.busy, one.request, CLIENTS, calls // 2))
                if i == 0:  # warm-up
                    one.alone, one.busy, one.seconds = [], [], 0.0
    return found
