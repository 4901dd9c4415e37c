"""What the store holds of a line at its limits: long windows, paces of nothing, lines on which nothing may start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from sendguard import Policy, Quota, Reason, SendGuard, TokenBucket
from sendguard.linq.events import MessageSeen
from sendguard.request import Request
from sendguard.store.wire import words
from tests.servers import Server
from tests.support import ManualClock

A, B, ANN = "+12025550101", "+12025550102", "+14155550101"
NewGuard = Callable[..., SendGuard]


def test_a_window_that_grows_long_is_counted_together(valkey: Server, pool: str, clock: ManualClock) -> None:
    """Of a small quota each event has an entry of its own; messages that come in are counted whatever it says."""
    policy = Policy(daily_volume=Quota(50, per=86_400))
    count = 9_000
    with (
        SendGuard(valkey.url, pool=pool, policy=policy, timeout=5, clock=clock, refresh=None) as guard,
        redis.Redis.from_url(valkey.url) as client,
    ):
        guard.observe(A, status="ACTIVE")
        pipe: Any = client.pipeline(transaction=False)
        for i in range(count):
            call = guard._flows.protocol.message(MessageSeen(A, inbound=True, at=clock()), f"event-{i}", clock())
            pipe.execute_command(*words("FCALL", call.script.function, call))
            clock.advance(0.002)
        pipe.execute()
        (line,) = guard.lines()
        assert line.daily_volume == count
        assert guard.decide(ANN).reason is Reason.DAILY_VOLUME
        assert client.hstrlen(f"sendguard:{{{pool}}}:lines", A) < 66_000
        clock.advance(86_400 + 60)
        assert guard.decide(ANN).allowed


def test_what_was_sent_at_no_pace_is_owed_nothing(new_guard: NewGuard, clock: ManualClock) -> None:
    """A line that recovers from a pace that gives nothing sends at its new one."""
    guard = new_guard(policy=Policy(critical=TokenBucket(tokens=0, per=60), at_risk=TokenBucket(tokens=1, per=60)))
    guard.observe(A, status="ACTIVE", health="CRITICAL")
    sent = Request.of(ANN, "chat", A, (), None, None)._replace(place="sent")
    decision = guard._drive(guard._flows.decide(sent))
    assert decision.allowed
    assert guard.decide(ANN).reason is Reason.THROTTLED
    clock.advance(1)
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    assert guard.decide(ANN).allowed
    guard.report(decision, "not_sent")
    clock.advance(60)
    assert guard.decide(ANN).allowed


@pytest.mark.parametrize("quota", ["new_conversations", "daily_volume"])
def test_law_6_a_denial_writes_nothing_but_its_record(
    valkey: Server, pool: str, clock: ManualClock, quota: str
) -> None:
    """Not even where no waiting helps: neither a record of a line nor the index."""
    quotas: dict[str, Any] = {quota: Quota(0, per=60)}
    with (
        SendGuard(valkey.url, pool=pool, policy=Policy(**quotas), timeout=5, clock=clock, refresh=None) as guard,
        redis.Redis.from_url(valkey.url) as client,
    ):
        for number in (A, B):
            guard.observe(number, status="ACTIVE")
        guard.decide(ANN)
        client.config_resetstat()
        assert guard.decide(ANN).retry_after is None
        stats: Any = client.info("commandstats")
        assert not {f"cmdstat_{name}" for name in ("hset", "zadd", "zrem", "set")} & set(stats)


@pytest.mark.parametrize("max_wait", [None, "", [], "5", -1.0, float("nan")])
def test_a_wait_that_is_none_is_refused_by_name(new_guard: NewGuard, max_wait: Any) -> None:
    guard = new_guard(clock=None)
    guard.observe(A, status="ACTIVE")
    with pytest.raises(ValueError, match="max_wait"):
        guard.choose_from_number(ANN, max_wait=max_wait)
