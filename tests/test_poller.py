"""The poller: one of a fleet polls at a time, and no error ends it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import pytest

from sendguard import AsyncSendGuard, LinqError, SendGuard
from sendguard.linq.events import LineUpdate
from sendguard.linq.poller import AsyncPoller
from tests.support import wait_until

A = "+12025550101"


class Api:
    """Counts the polls that reach it, and how many are under way at once."""

    def __init__(self, failures: int = 0) -> None:
        self.polls = self.under_way = self.most = 0
        self.failures = failures
        self.lock = threading.Lock()
        self.go_on = threading.Event()
        self.go_on.set()

    def phone_numbers(self, at: float) -> tuple[LineUpdate, ...]:
        with self.lock:
            self.polls += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.go_on.wait(10)
        with self.lock:
            self.under_way -= 1
            if self.polls <= self.failures:
                raise LinqError("GET /v3/phone_numbers: 503", status=503)
        return (LineUpdate(A, at, health="AT_RISK", assigned=True),)

    def close(self) -> None:
        pass


def test_one_of_a_fleet_polls_at_a_time_and_once_an_interval(new_guard: Callable[..., SendGuard]) -> None:
    api = Api()
    api.go_on.clear()
    pollers = []
    for _ in range(5):
        guard = new_guard(clock=None)
        guard._client = api  # type: ignore[assignment]
        pollers.append(guard.poller(interval=600).start())
    wait_until(lambda: api.polls)
    api.go_on.set()
    wait_until(lambda: guard._drive(guard._flows.poll_if_due("another", 600, 10)) > 500)
    for poller in pollers:
        poller.stop()
    assert (api.polls, api.most) == (1, 1)
    assert [line.number for line in guard.lines()] == [A]


def test_a_poller_survives_errors_and_says_so(
    new_guard: Callable[..., SendGuard], caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(failures=3)
    guard = new_guard(clock=None)
    guard._client = api  # type: ignore[assignment]
    with guard.poller(interval=0.02):
        wait_until(lambda: guard.lines())
    assert caplog.text.count("poll failed: GET /v3/phone_numbers: 503") == 3


def test_a_poller_survives_a_missing_key(
    new_guard: Callable[..., SendGuard], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINQ_API_KEY", raising=False)
    monkeypatch.delenv("LINQ_API_V3_API_KEY", raising=False)
    with new_guard(clock=None).poller(interval=0.02):
        wait_until(lambda: caplog.text.count("poll failed: api_key") >= 2)
    assert "Traceback" not in caplog.text


def test_a_holder_that_died_is_replaced_when_its_lease_runs_out(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard(clock=None)
    guard._client = Api()  # type: ignore[assignment]
    lease = guard._flows.protocol.lease("dead", ttl=0.2, interval=60, give_back=False, now=None)
    assert guard._store.run(lease) == 0
    assert 0 < guard._drive(guard._flows.poll_if_due("alive", 60, 10)) <= 0.2
    wait_until(lambda: guard._drive(guard._flows.poll_if_due("alive", 60, 10)) == 60)


def test_the_async_poller(store_url: str, pool: str) -> None:
    async def run() -> int:
        url = f"memory://{pool}" if store_url == "memory://" else store_url
        api = Api(failures=1)

        class Client:
            async def phone_numbers(self, at: float) -> tuple[LineUpdate, ...]:
                return api.phone_numbers(at)

            async def close(self) -> None:
                pass

        async with AsyncSendGuard(url, pool=pool, timeout=5) as guard:
            guard._client = Client()  # type: ignore[assignment]
            async with guard.poller(interval=0.02):
                while not await guard.lines():
                    await asyncio.sleep(0.005)
            return api.most

    assert asyncio.run(asyncio.wait_for(run(), 20)) == 1


def test_the_async_poller_stops_though_its_cancellation_is_swallowed() -> None:
    async def run() -> int:
        polls, began = 0, asyncio.Event()

        async def deaf(*_: object) -> float:
            nonlocal polls
            polls += 1
            began.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return 3600.0

        poller = AsyncPoller(deaf, 3600).start()
        await began.wait()
        await poller.stop()
        return polls

    assert asyncio.run(asyncio.wait_for(run(), 20)) == 1


@pytest.mark.parametrize("interval", [0, -1, 86_401])
def test_an_interval_out_of_range_is_named(guard: SendGuard, interval: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        guard.poller(interval=interval)
