"""Law 9 for a store that comes back without its memory: no record is never taken for ACTIVE."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sendguard import AsyncSendGuard, LineStatus, Policy, Quota, Reason, SendGuard
from sendguard.simulator import Simulator
from tests.servers import Server, redis_binary, valkey_binary
from tests.support import SECRET, wait_until

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550101", "+14155550102"
LOOK = 0.1


@pytest.fixture(params=[valkey_binary, redis_binary], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param(), tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator([A, B], webhook_secret=SECRET, seed=1) as simulator:
        yield simulator


def knows(guard: SendGuard | AsyncSendGuard, number: str, status: LineStatus) -> bool:
    """Whether a process has taken in how a line stands."""
    line = guard._flows.keeper.lines.get(number)
    return line is not None and line.status is status


def new_guard(server: Server, **options: Any) -> SendGuard:
    return SendGuard(server.url, pool="p", timeout=1, **{"refresh": LOOK, **options})


@pytest.mark.parametrize("loss", ["flush", "restart"])
def test_law_9_a_flag_outlives_the_stores_memory(server: Server, simulator: Simulator, loss: str) -> None:
    """One process polled, another one, which never polls, remembers what a webhook told long ago."""
    api = {"api_key": simulator.api_key, "api_base_url": simulator.base_url}
    with new_guard(server, **api) as poller, new_guard(server) as sender:
        poller.sync_lines()
        sender.observe(A, status="FLAGGED")
        sender.pause(B)
        assert sender.decide(ANN).reason is Reason.FLAGGED
        wait_until(lambda: knows(sender, A, LineStatus.FLAGGED))
        for guard in (sender, poller):  # of two that tell of a line, the first is heeded about a pause
            wait_until(lambda guard=guard: B in (known := guard._flows.keeper.lines) and known[B].paused)
        if loss == "flush":
            server.client.flushall()
        else:
            server.restart()
        with new_guard(server, **api) as fresh:
            fresh.sync_lines()
            assert fresh.decide(BOB).reason is Reason.FLAGGED
            by_number = {line.number: line for line in fresh.lines()}
        assert by_number[A].status is LineStatus.FLAGGED
        assert by_number[B].paused


def test_law_9_nothing_is_allowed_between_the_loss_and_the_restoring(server: Server) -> None:
    with new_guard(server, refresh=10) as guard:
        guard.observe(A, status="FLAGGED")
        guard.observe(B, status="ACTIVE")
        guard._drive(guard._flows.keep())
        server.restart()
        # The connection was lost: what this process knows is told before the decision is asked for.
        assert guard.decide(ANN).reason is Reason.COOLING_DOWN
        assert {line.number: line.status for line in guard.lines()} == {A: LineStatus.FLAGGED, B: LineStatus.ACTIVE}
        server.client.flushall()
        # The connection stands, and nothing is known: nothing goes, until the next look.
        assert guard.decide(ANN).reason is Reason.NO_LINES
        assert guard.decide(ANN, from_number=A).reason is Reason.UNKNOWN_LINE
        guard._drive(guard._flows.keep())
        assert guard.decide(ANN, from_number=A).reason is Reason.FLAGGED


def test_law_1_nothing_goes_before_whoever_knows_more_has_told_it(server: Server) -> None:
    """One process took the flag in, and another one, which did not yet, is the first to tell the store of the line."""
    with new_guard(server, refresh=10) as knowing, new_guard(server, refresh=10) as other:
        for guard in (knowing, other):
            guard.lines()
            wait_until(lambda guard=guard: guard._flows.keeper.looked_at is not None)
        other.observe(A, status="ACTIVE")
        other._drive(other._flows.keep())
        knowing.observe(A, status="FLAGGED")
        knowing._drive(knowing._flows.keep())
        assert knows(other, A, LineStatus.ACTIVE)
        server.client.flushall()
        other._drive(other._flows.keep())
        denial = other.decide(ANN)
        assert denial.reason is Reason.COOLING_DOWN
        assert denial.retry_after is not None
        assert 14 < denial.retry_after <= 15
        knowing._drive(knowing._flows.keep())
        assert other.decide(ANN).reason is Reason.FLAGGED


def test_law_1_a_flag_that_a_failover_lost_is_told_again(server: Server) -> None:
    """The store goes back to what it was before the last writes, as a promoted replica does that missed them."""
    with new_guard(server, refresh=10) as guard:
        guard.observe(A, status="ACTIVE")
        guard.observe(B, status="ACTIVE")
        raw = _raw(server)
        keys = {key: raw.dump(key) for key in raw.keys("*")}
        guard.observe(A, status="FLAGGED")
        guard._drive(guard._flows.keep())
        raw.flushall()
        for key, value in keys.items():
            raw.restore(key, 0, value)
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal")
        assert guard.decide(ANN).from_number == B
        assert guard.decide(BOB, from_number=A).reason is Reason.FLAGGED


def _raw(server: Server) -> Any:
    return redis.Redis(port=server.port)


def test_law_2_a_process_that_slept_through_it_brings_nothing_old_back(server: Server) -> None:
    with new_guard(server, refresh=10) as slept, new_guard(server, refresh=10) as awake:
        awake.observe(A, status="FLAGGED")
        slept._drive(slept._flows.keep())
        awake.observe(A, status="ACTIVE")
        awake._drive(awake._flows.keep())
        server.client.flushall()
        awake._drive(awake._flows.keep())
        slept._drive(slept._flows.keep())
        assert [line.status for line in awake.lines()] == [LineStatus.ACTIVE]


def test_law_3_what_a_quota_had_counted_is_counted_after_the_loss(server: Server) -> None:
    policy = Policy(new_conversations=Quota(3, per=3600))
    with new_guard(server, policy=policy, refresh=0.4) as guard:
        guard.observe(A, status="ACTIVE")
        assert guard.decide(ANN).allowed
        assert guard.decide(BOB).allowed
        wait_until(lambda: guard._flows.keeper.looked_at is not None)
        guard._flows.keeper._read_at = 0.0
        guard._drive(guard._flows.keep())
        server.client.flushall()
        guard._drive(guard._flows.keep())
        wait_until(lambda: guard.decide("+14155550103").allowed)
        assert guard.decide("+14155550104").reason is Reason.NEW_CONVERSATIONS


def test_a_poll_waits_only_where_the_pool_is_empty(server: Server, simulator: Simulator) -> None:
    api = {"api_key": simulator.api_key, "api_base_url": simulator.base_url}
    waits: list[float] = []
    with new_guard(server, **api) as guard:
        perform = guard._perform

        def noting(step: Any) -> Any:
            if type(step).__name__ == "Wait":
                waits.append(step.seconds)
            return perform(step)

        guard._perform = noting  # type: ignore[method-assign]
        guard.sync_lines()
        guard.sync_lines()
        assert waits == [2 * LOOK]
        assert guard.decide(ANN).allowed


def test_the_async_guard_remembers_too(server: Server) -> None:
    async def run() -> None:
        async with AsyncSendGuard(server.url, pool="p", timeout=1, refresh=LOOK) as guard:
            await guard.observe(A, status="FLAGGED")
            async with asyncio.timeout(20):
                while not knows(guard, A, LineStatus.FLAGGED):
                    await asyncio.sleep(0.01)
                server.client.flushall()
                while not await guard.lines():
                    await asyncio.sleep(0.01)
            assert (await guard.decide(ANN)).reason is Reason.FLAGGED

    asyncio.run(run())


def test_a_guard_that_nobody_holds_ends_its_thread(server: Server) -> None:
    def keepers() -> int:
        return sum(thread.name == "sendguard-keeper" for thread in threading.enumerate())

    guard = new_guard(server)
    guard.observe(A, status="ACTIVE")
    assert keepers() == 1
    del guard
    gc.collect()
    wait_until(lambda: keepers() == 0)
