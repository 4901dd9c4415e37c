"""A pool with a bit of everything, as the page shows it on a bad day."""

from __future__ import annotations

import random
import time

import redis

from sendguard import SendGuard

PLIGHTS = {2: ("FLAGGED", "CRITICAL"), 5: ("ACTIVE", "CRITICAL"), 7: ("ACTIVE", "AT_RISK"), 9: ("ACTIVE", "AT_RISK")}


def number(i: int) -> str:
    return f"+1202555{i:04d}"


def add_lines(guard: SendGuard, count: int) -> None:
    """Lines from 0100 on, all of them well."""
    for i in range(count):
        guard.observe(number(100 + i), status="ACTIVE", health="HEALTHY", source="poll")


def trouble(guard: SendGuard) -> None:
    """What a few of the first lines get into."""
    for i, (status, health) in PLIGHTS.items():
        guard.observe(number(100 + i), health=health, source="poll")
        if status != "ACTIVE":
            guard.observe(number(100 + i), status=status, source="webhook")


def send(guard: SendGuard, recipients: int, sends: int) -> None:
    """Decisions on sends to a handful of people, old conversations and new."""
    chance = random.Random(7)
    for _ in range(sends):
        guard.decide(f"+1415555{chance.randrange(recipients):04d}")


def spread_over_the_hour(client: redis.Redis, pool: str) -> None:
    """Rewrite the record of decisions as if they had been made over the last hour, more of them lately."""
    key, chance = f"sendguard:{{{pool}}}:decisions", random.Random(11)
    entries = [fields for _, fields in client.xrange(key)]
    chance.shuffle(entries)
    now = int(time.time() * 1000)
    times = sorted(now - int(3_600_000 * chance.random() ** 1.25) for _ in entries)
    client.delete(key)
    for i, (at, fields) in enumerate(zip(times, entries, strict=True)):
        client.xadd(key, fields, id=f"{at}-{i}")
