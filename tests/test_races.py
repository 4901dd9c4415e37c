"""Law 3 and law 8 with processes: what many admit together equals the budget to the token."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from sendguard import Policy, Quota, SendGuard, TokenBucket

A, B = "+12025550101", "+12025550102"
PROCESSES, ASKS = 4, 150
NOW = 1_771_000_000.0


def person(i: int) -> str:
    return f"+1415{i:07d}"


def _stand_still() -> float:
    return NOW


def _ask(url: str, pool: str, policy: Policy, recipients: list[str], key: str | None, start: Any) -> list[Any]:
    with SendGuard(url, pool=pool, policy=policy, clock=_stand_still, timeout=10) as guard:
        guard.lines()
        start.wait()
        decisions = [guard.decide(to, idempotency_key=key) for to in recipients]
        return [(d.from_number, d.decision_id, d.new_conversation) for d in decisions if d.allowed]


def _race(url: str, pool: str, policy: Policy, asks: Iterable[list[str]], key: str | None = None) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as workers:
        start = manager.Barrier(PROCESSES)
        answers = [workers.apply_async(_ask, (url, pool, policy, ask, key, start)) for ask in asks]
        return [admitted for answer in answers for admitted in answer.get(120)]


@pytest.fixture(params=["valkey", "redis_server"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param).url)


def _pool(url: str, pool: str, *numbers: str, health: str = "HEALTHY") -> None:
    with SendGuard(url, pool=pool, clock=_stand_still, timeout=10) as guard:
        for number in numbers:
            guard.observe(number, status="ACTIVE", health=health)


def test_law_3_processes_admit_the_bucket_to_the_token(url: str, pool: str) -> None:
    _pool(url, pool, A, health="AT_RISK")
    policy = Policy(at_risk=TokenBucket(10, per=60, burst=137), new_conversations=None, pair=None)
    asks = [[person(i * ASKS + n) for n in range(ASKS)] for i in range(PROCESSES)]
    assert len(_race(url, pool, policy, asks)) == 137


def test_law_3_processes_admit_the_quotas_to_the_unit(url: str, pool: str) -> None:
    _pool(url, pool, A, B)
    policy = Policy(new_conversations=Quota(40, per=3600), daily_volume=Quota(101, per=3600), pair=None)
    asks = [[person(i * ASKS + n) for n in range(ASKS)] for i in range(PROCESSES)]
    admitted = _race(url, pool, policy, asks)
    assert Counter(number for number, _, _ in admitted) == {A: 40, B: 40}
    again = _race(url, pool, policy, [[person(0)] * ASKS] * PROCESSES)
    assert len(again) == 101 - 40


def test_law_3_processes_admit_a_pair_to_the_unit(url: str, pool: str) -> None:
    _pool(url, pool, A)
    assert len(_race(url, pool, Policy(), [[person(0)] * ASKS] * PROCESSES)) == 30


def test_law_8_processes_that_retry_one_send_pay_once(url: str, pool: str) -> None:
    _pool(url, pool, A, B)
    admitted = _race(url, pool, Policy(), [[person(0)] * 20] * PROCESSES, key="job-7")
    assert len(admitted) == 20 * PROCESSES
    assert len(set(admitted)) == 1
    with SendGuard(url, pool=pool, clock=_stand_still, timeout=10) as guard:
        assert sum(line.daily_volume for line in guard.lines()) == 1
