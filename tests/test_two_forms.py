"""The store's logic runs as functions that are kept, and as scripts that are made anew: both answer alike.

The functions keep what a policy's text and a question's text mean from one run to the next, so guards of several
policies take turns here; the scripts keep nothing, and are the judge.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis

from sendguard import Policy, Quota, SendGuard, TokenBucket
from sendguard.store import scripts
from tests.support import ManualClock

LINES = [f"+1202555010{i}" for i in range(6)]
PEOPLE = [f"+1415555010{i}" for i in range(8)]
OVERRIDES: dict[str, Any] = {
    LINES[0]: {"pair": Quota(1, per=20), "healthy": None},
    LINES[1]: {"daily_volume": Quota(2, 60)},
}
POLICIES = [
    Policy(),
    Policy(healthy=TokenBucket(3, per=10), overrides=OVERRIDES),
    Policy(healthy=TokenBucket(1, per=30), pair=Quota(2, per=30), overrides=OVERRIDES),
    Policy(healthy=TokenBucket(1, per=30), daily_volume=Quota(9, per=100), on_flagged="hold"),
    Policy(new_conversations=Quota(1, per=20), critical=None, new_conversations_on=("CRITICAL", "HEALTHY")),
]


class Side:
    """A pool in one store, with a guard for each policy."""

    def __init__(self, stack: ExitStack, url: str, pool: str, clock: ManualClock) -> None:
        self.guards = [
            stack.enter_context(SendGuard(url, pool=pool, policy=policy, clock=clock, timeout=10, refresh=None))
            for policy in POLICIES
        ]
        self.decisions: list[Any] = []

    def act(self, seed: int, clock: ManualClock) -> list[Any]:
        """What comes of one random act, without what is drawn anew each time."""
        chance = random.Random(seed)
        guard, number = chance.choice(self.guards), chance.choice(LINES)
        act = chance.choice(["decide"] * 8 + ["observe", "observe", "report", "pause", "lines", "dry"])
        if act == "observe":
            status = chance.choice(["ACTIVE", "ACTIVE", "FLAGGED"])
            health = chance.choice(["HEALTHY", "AT_RISK", "CRITICAL", None])
            return [guard.observe(number, status=status, health=health)]
        if act == "report":
            return [guard.report(chance.choice(self.decisions), "not_sent")] if self.decisions else []
        if act == "pause":
            return [guard.pause(number, until=clock() + 5)] if guard.lines() and _knows(guard, number) else []
        if act == "lines":
            return list(guard.lines())
        asked: dict[str, Any] = {"kind": chance.choice(["chat", "voice_memo"])}
        if chance.random() < 0.2:
            asked["from_number"] = number
        if chance.random() < 0.3:
            asked["exclude"] = chance.sample(LINES, 2)
        to = chance.choice(PEOPLE)
        if act == "dry":
            record = guard.dry_run(to, **asked)
            return [replace(record, decision_id="")]
        if chance.random() < 0.2:
            asked["idempotency_key"] = chance.choice("abc")
        decision = guard.decide(to, **asked)
        self.decisions.append(decision)
        return [replace(decision, decision_id="", receipt="")]


def _knows(guard: SendGuard, number: str) -> bool:
    return any(line.number == number for line in guard.lines())


@pytest.fixture(params=["valkey", "redis_server"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def sides(server: Any, pool: str, clock: ManualClock) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        yield Side(stack, server.url, pool, clock), Side(stack, f"memory://{pool}", pool, clock)


@pytest.mark.parametrize("seed", range(4))
def test_functions_and_scripts_answer_alike(
    server: Any, sides: tuple[Side, Side], clock: ManualClock, seed: int
) -> None:
    chance = random.Random(seed)
    asked, allowed = 0, 0
    for step in range(400):
        act = chance.random()
        found, wanted = (side.act(hash((seed, step, act)), clock) for side in sides)
        assert found == wanted, f"seed {seed}, step {step}"
        asked += len(found)
        allowed += sum(getattr(each, "allowed", False) for each in found)
        clock.advance(chance.choice([0, 0, 0.5, 3, 20]))
    assert asked > 300
    assert allowed > 50
    with redis.Redis.from_url(server.url) as client:
        assert client.function_list(scripts.LIBRARY.name)
