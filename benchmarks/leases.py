"""What a decision takes that a process makes from what it was lent, beside one that asks the store, and a PING."""

from __future__ import annotations

import itertools
import random
from contextlib import ExitStack
from dataclasses import dataclass

import redis

from benchmarks.series import Series
from benchmarks.setup import TIMEOUT, add_lines, guard_options, recipient
from sendguard import SendGuard

LINES, RECIPIENTS = 1_000, 20
PING, DIRECT, LEASED = "PING", "direct", "leased"


@dataclass(frozen=True)
class Leased:
    """One way to decide. series: its calls. asked: scripts that it had the server run for each decision."""

    series: Series
    asked: float


def measure(server: str, url: str, *, rounds: int, calls: int) -> list[Leased]:
    """A PING, and decisions for a few recipients in conversations, interleaved. The ways take turns in a new order."""
    order = random.Random(1)
    with ExitStack() as stack:
        admin = stack.enter_context(redis.Redis.from_url(url))
        client = stack.enter_context(redis.Redis.from_url(url, socket_timeout=TIMEOUT))
        rows = [Series(server, PING, LINES, client.ping, admin, ("ping",))]
        for mode in (DIRECT, LEASED):
            guard = stack.enter_context(SendGuard(url, pool=f"leases-{mode}", refresh=None, **guard_options(mode)))
            add_lines(guard, LINES)
            people = itertools.cycle([recipient(i) for i in range(RECIPIENTS)])
            choose = guard.choose_from_number
            rows.append(Series(server, mode, LINES, lambda c=choose, p=people: c(next(p)), admin))
        for row in rows:
            row.repeat(3 * RECIPIENTS)
        for _ in range(rounds):
            for row in order.sample(rows, len(rows)):
                row.run(calls)
    return [Leased(row, row.per_call()[0]) for row in rows]
