"""Failover, moves and upgrades on a real cluster and under real Sentinels: the laws hold before, during and after."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sendguard import AsyncSendGuard, Decision, LineStatus, Policy, Quota, Reason, SendGuard, TokenBucket
from sendguard.store import scripts
from tests.clusters import Cluster
from tests.replication import replication_cut, wait_taken_in
from tests.sentinels import Sentinels
from tests.servers import Server, redis_binary, valkey_binary
from tests.support import wait_until

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550101", "+14155550102"
LIMIT = 40
POLICY = Policy(
    at_risk=TokenBucket(30, per=1, burst=5), new_conversations=Quota(LIMIT, per=3600), pair=None, daily_volume=None
)
WAYS = {
    "valkey-cluster": (valkey_binary, Cluster),
    "redis-cluster": (redis_binary, Cluster),
    "valkey-sentinel": (valkey_binary, Sentinels),
    "redis-sentinel": (redis_binary, Sentinels),
}


@pytest.fixture(scope="module", params=WAYS)
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, kind = WAYS[request.param]
    with kind(binary(), tmp_path_factory.mktemp("failover")) as fleet:
        yield fleet


@pytest.fixture
def fleet(standing: Any) -> Iterator[Any]:
    yield standing
    standing.heal()
    standing.flush()


def primary(fleet: Any, pool: str) -> Server:
    found: Server = fleet.primary_of(f"sendguard:{{{pool}}}:") if isinstance(fleet, Cluster) else fleet.primary()
    return found


def wait_for_failover(fleet: Any, pool: str, old: Server) -> Server:
    key = [f"sendguard:{{{pool}}}:"] if isinstance(fleet, Cluster) else []
    found: Server = fleet.wait_for_failover(*key, old)
    return found


def new_guard(fleet: Any, pool: str, **options: Any) -> SendGuard:
    return SendGuard(fleet.url, pool=pool, **{"timeout": 0.25, "refresh": 0.2, "policy": POLICY, **options})


def looked(guard: Any) -> None:
    at = time.monotonic()
    wait_until(lambda: (guard._flows.keeper.looked_at or 0) > at)


class Load:
    """Threads that ask for one send after the other, each again with its key until the store answered."""

    def __init__(self, guards: list[SendGuard], ask: Callable[[SendGuard, str], Decision]) -> None:
        self.decisions: list[tuple[float, Decision]] = []
        self.longest = 0.0
        self._guards, self._ask, self._stopping = guards, ask, threading.Event()

    def _run(self, number: int) -> None:
        guard, count, key = self._guards[number % len(self._guards)], 0, ""
        while not self._stopping.is_set():
            key = key or f"{number}-{count}"
            began = time.monotonic()
            decision = self._ask(guard, key)
            self.longest = max(self.longest, time.monotonic() - began)
            self.decisions.append((began, decision))
            if decision.reason is not Reason.STORE_UNAVAILABLE:
                count, key = count + 1, ""
            self._stopping.wait(0.01)

    def __enter__(self) -> Load:
        self._threads = ThreadPoolExecutor(6)
        self._running = [self._threads.submit(self._run, number) for number in range(6)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for each in self._running:
            each.result(30)
        self._threads.shutdown()

    def allowed(self) -> list[tuple[float, Decision]]:
        """Each decision that let a send pass, once, with when it was asked for."""
        first = {decision.decision_id: (at, decision) for at, decision in reversed(self.decisions) if decision.allowed}
        return sorted(first.values(), key=lambda each: each[0])

    def allowed_since(self, at: float) -> bool:
        return any(began > at and decision.allowed for began, decision in list(self.decisions))


def test_the_primary_of_the_pool_is_killed_under_load(fleet: Any, pool: str) -> None:
    with new_guard(fleet, pool) as one, new_guard(fleet, pool) as two:
        one.observe(A, status="ACTIVE", health="AT_RISK")
        one.observe(B, status="FLAGGED")
        for guard in (one, two):
            assert guard.decide(ANN, from_number=A).allowed
            looked(guard)
        old = primary(fleet, pool)
        with Load([one, two], lambda guard, key: guard.decide(ANN, idempotency_key=key)) as load:
            wait_until(lambda: len(load.allowed()) > 20)
            old.kill()
            killed = time.monotonic()
            wait_for_failover(fleet, pool, old)
            failed_over = time.monotonic()
            wait_until(lambda: load.allowed_since(failed_over), timeout=3)
            enough = len(load.allowed()) + 20
            wait_until(lambda: len(load.allowed()) > enough)
        assert old is not primary(fleet, pool)
        assert {decision.from_number for _, decision in load.allowed()} == {A}  # law 1, law 4
        assert POLICY.at_risk is not None
        for side in (
            [at for at, _ in load.allowed() if at < killed],
            [at for at, _ in load.allowed() if at > failed_over],
        ):
            assert side
            for i, at in enumerate(side):  # law 3; asked a little before it was decided
                span = side[-1] - at + 0.3
                assert len(side) - i <= POLICY.at_risk.burst + POLICY.at_risk.tokens * span / POLICY.at_risk.per + 1
        reasons = {decision.reason for _, decision in load.decisions}
        assert reasons <= {Reason.STICKY, Reason.THROTTLED, Reason.STORE_UNAVAILABLE}
        assert one.decide(BOB, from_number=B).reason is Reason.FLAGGED


def test_law_1_a_promoted_replica_that_missed_the_flag_is_told_of_it(fleet: Any, pool: str) -> None:
    with new_guard(fleet, pool) as teller, new_guard(fleet, pool) as other:
        teller.observe(A, status="ACTIVE")
        teller.observe(B, status="ACTIVE")
        assert other.decide(ANN, from_number=B).allowed
        looked(other)
        old = primary(fleet, pool)
        wait_taken_in(old)
        with replication_cut(old):
            teller.observe(A, status="FLAGGED")
            looked(teller)
            looked(other)
            old.kill()
            new = wait_for_failover(fleet, pool, old)
        assert new is not old
        for guard in (other, teller):
            wait_until(lambda guard=guard: guard.decide(ANN, from_number=B).allowed)
            assert guard.decide(BOB, from_number=A).reason is Reason.FLAGGED
        wait_until(lambda: {x.number: x.status for x in teller.lines()}[A] is LineStatus.FLAGGED)


def test_law_3_quotas_hold_over_a_failover_that_lost_nothing(fleet: Any, pool: str) -> None:
    with new_guard(fleet, pool, policy=replace(POLICY, at_risk=None)) as guard:
        guard.observe(A, status="ACTIVE")
        allowed = sum(guard.decide(f"+1415557{i:04d}").allowed for i in range(LIMIT // 2))
        looked(guard)
        old = primary(fleet, pool)
        wait_taken_in(old)
        old.kill()
        wait_for_failover(fleet, pool, old)
        wait_until(lambda: guard.decide("+14155570000").allowed)  # sticky: it starts nothing
        allowed += sum(guard.decide(f"+1415558{i:04d}").allowed for i in range(LIMIT))
        assert allowed == LIMIT


def test_the_async_guard_follows_too(fleet: Any, pool: str) -> None:
    async def run() -> None:
        async with AsyncSendGuard(fleet.url, pool=pool, refresh=0.2) as guard:
            await guard.observe(A, status="ACTIVE")
            assert (await guard.decide(ANN)).allowed
            old = primary(fleet, pool)
            await asyncio.sleep(0.3)
            old.kill()
            await asyncio.to_thread(wait_for_failover, fleet, pool, old)
            deadline = time.monotonic() + 5
            while not (await guard.decide(ANN)).allowed:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_paused_primary_costs_nobody_more_than_the_timeout(fleet: Any, pool: str) -> None:
    with new_guard(fleet, pool) as guard:
        guard.observe(A, status="ACTIVE")
        assert guard.decide(ANN).allowed
        looked(guard)
        old = primary(fleet, pool)
        time.sleep(0.3)
        old.pause()
        with Load([guard], lambda guard, key: guard.decide(ANN, idempotency_key=key)) as load:
            wait_for_failover(fleet, pool, old)
            failed_over = time.monotonic()
            wait_until(lambda: load.allowed_since(failed_over), timeout=5)
        slow = sum(1 for _ in load.decisions if load.longest > 0.25 + 0.25)  # a busy machine may be late once
        assert not slow, load.longest


def test_scripts_forgotten_under_load(fleet: Any, pool: str) -> None:
    with new_guard(fleet, pool, timeout=2) as guard:
        guard.observe(A, status="ACTIVE")
        with Load([guard], lambda guard, key: guard.decide(ANN, idempotency_key=key)) as load:
            for round_ in range(5):
                wait_until(lambda round_=round_: len(load.decisions) > 20 * round_)
                fleet.functions_flush()
        assert all(decision.allowed for _, decision in load.decisions)


def test_two_versions_of_the_scripts_side_by_side(fleet: Any, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rolling upgrade: both are known to the server by digests of their text, and share one budget."""
    with new_guard(fleet, pool, timeout=2) as old:
        old.observe(A, status="ACTIVE")
        assert old.decide(ANN).allowed
        before = scripts.DECIDE
        after = scripts.build(lambda name: scripts.text_of(name) + "-- the next version\n")[before.name]
        assert after.sha != before.sha
        assert after.function != before.function
        with new_guard(fleet, pool, timeout=2) as new:
            allowed = 1
            for i in range(LIMIT):
                monkeypatch.setattr(scripts, "DECIDE", after if i % 2 else before)
                allowed += (new if i % 2 else old).decide(f"+1415559{i:04d}").allowed
            assert allowed == LIMIT


def test_a_live_migration_of_the_slot(cluster: Cluster, pool: str) -> None:
    """MOVED and ASK are followed. Where only some keys have moved, the server answers nobody: the send is denied."""
    fleet = cluster
    with new_guard(fleet, pool, timeout=0.5) as guard:
        guard.observe(A, status="ACTIVE")
        assert guard.decide(ANN).allowed
        key = f"sendguard:{{{pool}}}:"
        to = next(each for each in fleet.primaries() if each is not fleet.primary_of(key))
        seen: dict[str, Reason] = {}
        with Load([guard], lambda guard, key: guard.decide(ANN, idempotency_key=key)) as load:
            for stage in fleet.migration(key, to):
                seen[stage] = guard.decide(ANN).reason
            moved = time.monotonic()
            wait_until(lambda: load.allowed_since(moved))
        assert fleet.primary_of(key) is to
        assert set(seen.values()) <= {Reason.STICKY, Reason.STORE_UNAVAILABLE}
        assert {decision.reason for _, decision in load.decisions} <= {Reason.STICKY, Reason.STORE_UNAVAILABLE}
        paid = len({decision.decision_id for _, decision in load.decisions if decision.allowed})
        paid += 1 + sum(reason is Reason.STICKY for reason in seen.values())
        lines = guard.lines()
        assert [line.new_conversations for line in lines] == [1]
        assert paid > 1
