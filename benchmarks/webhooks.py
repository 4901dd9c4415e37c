"""Signed webhooks, and how many a second are taken in."""

from __future__ import annotations

import json
import multiprocessing
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.servers import info
from benchmarks.setup import add_lines, guard_options, line, recipient
from sendguard import SendGuard
from tests.support import SECRET, iso, payload, standard_headers

POOL, LINES = "webhooks", 100
Delivery = tuple[bytes, dict[str, str]]


@dataclass(frozen=True)
class Ingested:
    """A run: so many deliveries of one kind in so many seconds; server: its CPU microseconds for each."""

    kind: str
    processes: int
    deliveries: int
    seconds: float
    server: float

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds


def guard_with_secret(url: str, pool: str, mode: str = "direct") -> SendGuard:
    """A guard that takes the deliveries made here."""
    return SendGuard(url, pool=pool, webhook_secret=SECRET, **guard_options(mode))


def _signed(content: Any, at: float) -> Delivery:
    content.update(event_id=str(uuid.uuid4()), created_at=iso(at))
    body = json.dumps(content).encode()
    return body, standard_headers(body, time.time(), message_id=content["event_id"])


def status(number: str, new: str, at: float) -> Delivery:
    """A line's new status, at so many Unix seconds, as it is delivered: body and headers."""
    content = payload("status_updated.status_only")
    content["data"].update(phone_number=number, new_status=new, changed_at=iso(at))
    return _signed(content, at)


def _health(i: int, at: float) -> Delivery:
    content = payload("status_updated.health_status")
    content["data"].update(
        phone_number=line(i % LINES),
        new_status="ACTIVE",
        new_health_status=("AT_RISK", "HEALTHY")[i // LINES % 2],
        changed_at=iso(at + i / 1000),
    )
    return _signed(content, at)


def _received(i: int, at: float) -> Delivery:
    content = payload("message.received")
    data = content["data"]
    data["chat"]["id"], data["sent_at"], data["id"] = f"chat-{i}", iso(at), str(uuid.uuid4())
    data["chat"]["owner_handle"]["handle"] = line(i % LINES)
    data["sender_handle"]["handle"] = recipient(i)
    return _signed(content, at)


KINDS: dict[str, Callable[[int, float], Delivery]] = {
    "message.received, each in a new chat": _received,
    "phone_number.status_updated, each a change of health": _health,
}


def _take_in(url: str, kind: str, number: int, count: int, barrier: Any, results: Any) -> None:
    """One process: its deliveries, one after the other."""
    make, now = KINDS[kind], time.time() - 60
    deliveries = [make(number * count + i, now) for i in range(count)]
    with guard_with_secret(url, POOL) as guard:
        guard.handle_webhook(*make(10_000_000 + number, now))
        barrier.wait()
        barrier.wait()  # in between the server's counters are read
        begun = time.monotonic()
        for body, headers in deliveries:
            guard.handle_webhook(body, headers)
        results.put((begun, time.monotonic()))
        barrier.wait()


def _cpu(client: redis.Redis) -> float:
    used = info(client, "cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"]) * 1e6


def ingest(url: str, kind: str, processes: int, count: int) -> Ingested:
    """So many processes take in `count` deliveries each. kind: a key of KINDS."""
    with guard_with_secret(url, POOL) as guard:
        add_lines(guard, LINES, at=time.time() - 3600)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(target=_take_in, args=(url, kind, number, count, barrier, results), daemon=True)
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait(120)
    with redis.Redis.from_url(url) as client:
        before = _cpu(client)
        barrier.wait(60)
        begun, ended = zip(*(results.get(timeout=120) for _ in workers), strict=True)
        server = _cpu(client) - before
        client.flushall()
    barrier.wait(60)
    for worker in workers:
        worker.join()
    total = processes * count
    return Ingested(kind, processes, total, max(ended) - min(begun), server / total)
