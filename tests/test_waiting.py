"""`choose_from_number(max_wait=)`: fair, cheap, and never onto a line that turned FLAGGED."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sendguard import AsyncSendGuard, Policy, Reason, SendBlocked, SendGuard, TokenBucket
from sendguard.store.scripts import Call
from tests.support import wait_until

A, B = "+12025550101", "+12025550102"
ANN = "+14155550123"
PACE = Policy(at_risk=TokenBucket(tokens=10, per=1, burst=1), pair=None, critical=TokenBucket(1, per=30))


def person(i: int) -> str:
    return f"+1415{i:07d}"


@pytest.fixture
def guard(new_guard: Callable[..., SendGuard]) -> SendGuard:
    guard = new_guard(clock=None, policy=PACE)
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    return guard


def count_calls(guard: SendGuard) -> list[str]:
    """The scripts that a guard runs from now on, by name."""
    calls: list[str] = []
    run = guard._store.run

    def counting(call: Any, *rest: Any) -> Any:
        calls.append(call.script.name if isinstance(call, Call) else call.args[0])
        return run(call, *rest)

    guard._store.run = counting  # type: ignore[method-assign]
    return calls


def test_waiters_are_served_in_the_order_they_came(guard: SendGuard) -> None:
    """Ten wait for one line; each asks twice however long it waits, and an impatient one gets in front of nobody."""
    guard.choose_from_number(ANN)
    calls = count_calls(guard)
    served: list[int] = []

    def wait(i: int) -> None:
        guard.choose_from_number(person(i), max_wait=10)
        served.append(i)

    with ThreadPoolExecutor(10) as threads:
        for i in range(10):
            threads.submit(wait, i)
            wait_until(lambda n=i: guard.lines()[0].daily_volume == n + 2)
        impatient = guard.decide(ANN)
        assert impatient.reason is Reason.THROTTLED
        assert impatient.retry_after is not None
        assert impatient.retry_after > 0.5
    assert served == list(range(10))
    assert calls.count("decide") == 2 * 10 + 1


def test_a_wait_longer_than_max_wait_is_denied_at_once(guard: SendGuard) -> None:
    guard.choose_from_number(ANN)
    before = guard.lines()
    started = time.monotonic()
    with pytest.raises(SendBlocked) as blocked:
        guard.choose_from_number(ANN, max_wait=0.01)
    assert time.monotonic() - started < 0.09
    assert blocked.value.reason is Reason.THROTTLED
    assert guard.lines()[0].daily_volume == before[0].daily_volume


def test_law_1_a_line_flagged_during_the_wait_is_not_sent_on(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard(clock=None, policy=Policy(at_risk=TokenBucket(2, per=1, burst=1)))
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    guard.choose_from_number(ANN)
    calls = count_calls(guard)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(guard.choose_from_number, ANN, max_wait=5)
        wait_until(lambda: calls)
        guard.observe(B, status="ACTIVE")
        guard.observe(A, status="FLAGGED")
        assert waiting.result() == B


def test_law_1_a_waiter_with_nowhere_to_go_is_told_why(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard(clock=None, policy=Policy(at_risk=TokenBucket(2, per=1, burst=1)))
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    guard.choose_from_number(ANN)
    calls = count_calls(guard)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(guard.choose_from_number, ANN, max_wait=5)
        wait_until(lambda: calls)
        guard.observe(A, status="FLAGGED")
        with pytest.raises(SendBlocked) as blocked:
            waiting.result()
    assert blocked.value.reason is Reason.FLAGGED


def test_law_3_a_line_that_weakens_during_the_wait_keeps_its_new_pace(new_guard: Callable[..., SendGuard]) -> None:
    """Five hold slots 0.5 s apart when the line turns CRITICAL, which paces it at one in 30 s: at most one goes."""
    guard = new_guard(
        clock=None, policy=Policy(at_risk=TokenBucket(2, per=1, burst=1), critical=TokenBucket(1, per=30))
    )
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    guard.choose_from_number(ANN)
    calls = count_calls(guard)
    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(guard.choose_from_number, ANN, max_wait=4) for _ in range(5)]
        wait_until(lambda: len(calls) >= 5)
        guard.observe(A, health="CRITICAL")
        outcomes = [future.exception() for future in waiting]
    blocked = [error for error in outcomes if isinstance(error, SendBlocked)]
    assert len(blocked) >= 4
    assert {error.reason for error in blocked} == {Reason.THROTTLED}
    assert calls.count("decide") <= 3 * 5


def test_law_8_two_workers_waiting_with_one_key_share_one_slot(guard: SendGuard) -> None:
    guard.choose_from_number(ANN)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(guard.choose_from_number, ANN, max_wait=5, idempotency_key="k") for _ in range(2)]
        assert [future.result() for future in both] == [A, A]
    assert guard.lines()[0].daily_volume == 2


def test_a_cancelled_waiter_gives_its_slot_back(store_url: str, pool: str) -> None:
    url = f"memory://{pool}" if store_url == "memory://" else store_url

    async def run() -> None:
        policy = Policy(at_risk=TokenBucket(1, per=20, burst=1))
        async with AsyncSendGuard(url, pool=pool, policy=policy, timeout=5) as guard:
            await guard.observe(A, status="ACTIVE", health="AT_RISK")
            await guard.choose_from_number(ANN)
            task = asyncio.create_task(guard.choose_from_number(ANN, max_wait=60))
            while (await guard.lines())[0].daily_volume < 2:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            denied = await guard.decide(ANN)
            assert denied.retry_after is not None
            assert denied.retry_after <= 20
            assert (await guard.lines())[0].daily_volume == 1

    asyncio.run(run())


def test_async_waiters_are_served_in_the_order_they_came(store_url: str, pool: str) -> None:
    url = f"memory://{pool}" if store_url == "memory://" else store_url

    async def run() -> list[int]:
        served: list[int] = []
        async with AsyncSendGuard(url, pool=pool, policy=PACE, timeout=5) as guard:
            await guard.observe(A, status="ACTIVE", health="AT_RISK")

            async def wait(i: int) -> None:
                await guard.choose_from_number(ANN, max_wait=10)
                served.append(i)

            tasks = []
            for i in range(6):
                tasks.append(asyncio.create_task(wait(i)))
                while (await guard.lines())[0].daily_volume < i + 1:
                    await asyncio.sleep(0.002)
            await asyncio.gather(*tasks)
        return served

    assert asyncio.run(run()) == list(range(6))


@pytest.mark.parametrize("max_wait", [-1, 86_401, float("nan")])
def test_a_wait_out_of_range_names_max_wait(guard: SendGuard, max_wait: float) -> None:
    with pytest.raises(ValueError, match="max_wait"):
        guard.choose_from_number(ANN, max_wait=max_wait)


def test_nobody_waits_longer_than_told_on_a_clock_that_stands_still(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard(policy=PACE)
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    guard.choose_from_number(ANN)
    finished = threading.Event()

    def wait() -> None:
        with pytest.raises(SendBlocked):
            guard.choose_from_number(ANN, max_wait=0.3)
        finished.set()

    threading.Thread(target=wait, daemon=True).start()
    assert finished.wait(10)
