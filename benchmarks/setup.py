"""What the measurements share: numbers, a policy with every rule on, ways to run a guard, lines in bulk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import redis

from sendguard import Lease, Policy, Quota, SendGuard, TokenBucket
from sendguard.linq.events import LineUpdate
from sendguard.store.scripts import Call
from sendguard.store.wire import words

LINES_PER_CALL = 200
CALLS_PER_PIPELINE = 1000
TIMEOUT = 10.0
_HUGE = 10_000_000


def line(i: int) -> str:
    """The number of line i."""
    return f"+1{2025550000 + i}"


def recipient(i: int) -> str:
    """The number of recipient i."""
    return f"+1{3030000000 + i}"


def every_rule() -> Policy:
    """Every bucket and quota set, so that its code runs, but so high that none denies; overrides for one line."""
    return Policy(
        healthy=TokenBucket(tokens=1_000_000, per=1),
        daily_volume=Quota(_HUGE, per=86_400),
        new_conversations=Quota(_HUGE, per=86_400),
        pair=Quota(_HUGE, per=60),
        overrides={line(0): {"at_risk": TokenBucket(tokens=5, per=60)}},
    )


MODES: dict[str, Callable[[], dict[str, Any]]] = {
    "direct": dict,
    "unrecorded": lambda: {"record_decisions": False},
    "leased": lambda: {"lease": Lease()},
}
"""How a guard decides, by name: what the constructor is given for it, made anew for each guard."""


def guard_options(mode: str = "direct") -> dict[str, Any]:
    """The constructor's arguments for a guard that is measured, but for its store and pool. mode: a key of MODES."""
    return {"policy": every_rule(), "timeout": TIMEOUT, **MODES[mode]()}


def big_quotas() -> Policy:
    """No pace, and quotas that a million conversations do not fill."""
    return Policy(daily_volume=Quota(_HUGE, per=86_400), new_conversations=Quota(_HUGE, per=86_400))


def add_lines(guard: SendGuard, count: int, at: float | None = None) -> None:
    """Lines as a poll tells of them. at: Unix seconds, None for now."""
    moment = time.time() if at is None else at
    for start in range(0, count, LINES_PER_CALL):
        updates = [
            LineUpdate(line(i), moment, status="ACTIVE", health="HEALTHY", line_type="iMessage", assigned=True)
            for i in range(start, min(start + LINES_PER_CALL, count))
        ]
        guard._drive(guard._flows.run(guard._flows.protocol.observe(updates, source="poll", now=at)))


def run_piped(client: redis.Redis, calls: Iterable[Call]) -> int:
    """Run scripts in their order, a thousand to a round trip; how many decisions among them were allowed."""
    allowed, waiting = 0, 0
    pipe: Any = client.pipeline(transaction=False)

    def flush() -> int:
        replies: list[Any] = pipe.execute()
        return sum(isinstance(reply, bytes) and reply.startswith(b"1|") for reply in replies)

    for call in calls:
        pipe.execute_command(*words("FCALL", call.script.function, call))
        waiting += 1
        if waiting == CALLS_PER_PIPELINE:
            allowed, waiting = allowed + flush(), 0
    return allowed + (flush() if waiting else 0)
