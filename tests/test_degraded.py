"""`on_store_error="degraded"`: a process goes on alone with its share, and tells the store what it sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sendguard import AsyncSendGuard, Health, Outcome, Policy, Quota, Reason, SendGuard, StoreUnavailable, TokenBucket
from sendguard.degraded import shared
from sendguard.metrics import Metrics
from tests.servers import Server
from tests.support import SECRET, iso, payload, standard_headers, wait_until

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550101", "+14155550102"
POLICY = Policy(
    on_store_error="degraded",
    degraded_share=0.5,
    at_risk=TokenBucket(20, per=10, burst=4),
    new_conversations=Quota(10, per=3600),
)


def person(i: int) -> str:
    return f"+1415556{i:04d}"


@pytest.fixture
def guard(server: Server) -> Iterator[SendGuard]:
    with SendGuard(server.url, pool="p", timeout=0.25, policy=POLICY, refresh=0.1, webhook_secret=SECRET) as guard:
        guard.observe(A, status="ACTIVE", health="HEALTHY")
        guard.observe(B, status="ACTIVE", health="AT_RISK")
        guard.observe(C, status="FLAGGED", health="HEALTHY")
        yield guard


def seen(guard: Any) -> None:
    """Return once a process has taken in all that stands now."""
    at = time.monotonic()
    wait_until(lambda: (guard._flows.keeper.looked_at or 0) > at)


def lose(server: Server, guard: SendGuard) -> None:
    seen(guard)
    server.pause()
    assert guard.decide(person(9999), from_number=A).allowed
    assert guard.degraded_since is not None


def test_metrics_and_state_say_since_when(server: Server, guard: SendGuard) -> None:
    registry = CollectorRegistry()
    name, labels = "sendguard_degraded_since_seconds", {"pool": "p"}
    with SendGuard(server.url, pool="p", policy=POLICY, refresh=0.1, metrics=Metrics(registry)) as other:
        other.measure()
        assert registry.get_sample_value(name, labels) == 0
        lose(server, other)
        other.measure()
        since = registry.get_sample_value(name, labels)
        assert since is not None
        assert since == other.degraded_since
        assert abs(since - time.time()) < 10
        bring_back(server, other)
        other.measure()
        assert registry.get_sample_value(name, labels) == 0
    assert guard.degraded_since is None


def bring_back(server: Server, guard: SendGuard) -> None:
    server.resume()
    wait_until(lambda: guard.degraded_since is None)


def test_conversations_go_on_and_flagged_stays_flagged(server: Server, guard: SendGuard) -> None:
    assert guard.decide(ANN).from_number == A
    assert guard.decide(BOB, from_number=B).allowed
    lose(server, guard)
    assert (guard.decide(ANN).from_number, guard.decide(ANN).reason) == (A, Reason.STICKY)
    assert guard.decide(ANN, from_number=C).reason is Reason.FLAGGED
    new = [guard.decide(person(i)) for i in range(8)]
    assert new[0].allowed
    # No conversation starts on a weak line, not even on the only one that has room.
    assert {decision.from_number for decision in new if decision.allowed} == {A}
    assert new[-1].reason is Reason.NEW_CONVERSATIONS
    bring_back(server, guard)
    assert guard.decide(ANN).reason is Reason.STICKY


def test_law_3_a_share_of_the_bucket_that_starts_empty(server: Server, guard: SendGuard) -> None:
    """At risk: 20 in 10 s with a burst of 4. Half of it is one a second, and 2 in a burst once they have filled up."""
    assert guard.decide(BOB, from_number=B).allowed
    lose(server, guard)
    denial = guard.decide(BOB)
    assert denial.reason is Reason.COOLING_DOWN
    assert denial.retry_after is not None
    assert 1 < denial.retry_after <= 2


def test_law_3_quotas_hold_while_alone_and_are_true_after(server: Server, guard: SendGuard) -> None:
    """10 conversations a line: 3 are used, so that half of what is left, rounded down, may start without the store."""
    for i in range(3):
        assert guard.decide(person(i)).from_number == A

    def counted() -> bool:
        guard._flows.keeper._read_at = 0.0
        return A in guard._flows.keeper.lines and guard._flows.keeper.lines[A].new_conversations == 3

    wait_until(counted)
    lose(server, guard)  # which starts one
    started = 1
    while guard.decide(person(100 + started)).allowed:
        started += 1
    assert started == 3
    bring_back(server, guard)
    (line,) = [line for line in guard.lines() if line.number == A]
    # What was asked of the paused store was carried out when it woke up: one more at most, to the safe side.
    assert 3 + started <= line.new_conversations <= 3 + started + 1
    assert guard.decide(person(101)).reason is Reason.STICKY


def test_law_8_what_was_sent_is_told_once_whatever_process_tells_it(server: Server, guard: SendGuard) -> None:
    lose(server, guard)
    first = guard.decide(ANN, idempotency_key="k")
    degraded = guard._flows.degraded
    assert degraded is not None
    journal = dict(degraded._journal)
    bring_back(server, guard)
    told = [line.daily_volume for line in guard.lines()]
    degraded._journal.update(journal)
    guard._drive(degraded.settle(guard._flows.run, guard._flows._now))
    assert [line.daily_volume for line in guard.lines()] == told
    again = guard.decide(ANN, idempotency_key="k")
    assert (again.decision_id, again.from_number) == (first.decision_id, first.from_number)


def test_a_send_that_did_not_leave_is_given_back(server: Server, guard: SendGuard) -> None:
    lose(server, guard)
    decision = guard.decide(ANN)
    guard.report(decision, "not_sent")
    guard.report(decision, "sent")
    bring_back(server, guard)
    volume = {line.number: line.daily_volume for line in guard.lines()}[A]
    assert volume <= 2


def test_law_1_a_webhook_that_comes_meanwhile_is_heeded_and_delivered_again(server: Server, guard: SendGuard) -> None:
    assert guard.decide(ANN).from_number == A
    lose(server, guard)
    content = payload("status_updated.reputation")
    content["data"].update(phone_number=A, new_status="FLAGGED", changed_at=iso(time.time()))
    body = json.dumps(content).encode()
    headers = standard_headers(body, time.time())
    with pytest.raises(StoreUnavailable):
        guard.handle_webhook(body, headers)
    assert guard.decide(ANN, from_number=A).reason is Reason.FLAGGED
    assert guard.decide(ANN).reason is not Reason.STICKY
    bring_back(server, guard)
    assert guard.handle_webhook(body, headers)
    assert guard.decide(ANN, from_number=A).reason is Reason.FLAGGED


def test_who_opted_out_is_not_written_to(server: Server, guard: SendGuard) -> None:
    decision = guard.decide(ANN)
    guard.report(decision, Outcome(sent=False, code=2024))
    assert guard.decide(ANN).reason is Reason.OPTED_OUT
    lose(server, guard)
    assert guard.decide(ANN).reason is Reason.OPTED_OUT


def test_it_ends_after_its_time_and_never_starts_on_nothing(server: Server) -> None:
    policy = Policy(on_store_error="degraded", degraded_for=0.5)
    with SendGuard(server.url, pool="p", timeout=0.1, policy=policy, refresh=0.1) as guard:
        server.pause()
        assert guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE
        server.resume()
        wait_until(lambda: guard._flows.keeper.looked_at is not None)
        guard.observe(A, status="ACTIVE")
        seen(guard)
        server.pause()
        assert guard.decide(ANN).allowed
        wait_until(lambda: guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE, timeout=5)


def test_law_9_many_lines_are_taken_over_in_the_background(server: Server) -> None:
    with SendGuard(server.url, pool="p", timeout=0.25, policy=POLICY, refresh=0.1) as guard:
        for i in range(300):
            guard.observe(f"+1202556{i:04d}", status="ACTIVE")
        wait_until(lambda: len(guard._flows.keeper.lines) == 300)
        server.pause()
        assert guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE
        wait_until(lambda: guard.decide(ANN).allowed)
        assert guard.degraded_since is not None


def test_the_async_guard_goes_on_too(server: Server) -> None:
    async def run() -> None:
        async with AsyncSendGuard(server.url, pool="p", timeout=0.25, policy=POLICY, refresh=0.1) as guard:
            await guard.observe(A, status="ACTIVE")
            async with asyncio.timeout(20):
                while not guard._flows.keeper.lines:
                    await asyncio.sleep(0.01)
                server.pause()
                assert (await guard.decide(ANN)).from_number == A
                assert guard.degraded_since is not None
                server.resume()
                while guard.degraded_since is not None:
                    await asyncio.sleep(0.01)
            assert (await guard.lines())[0].daily_volume >= 1

    asyncio.run(run())


@pytest.mark.parametrize("field", ["degraded_share", "degraded_for"])
@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan")])
def test_a_bad_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Policy(**{field: value})


def test_a_share_is_rounded_down_and_may_be_nothing() -> None:
    policy = shared(Policy(overrides={A: {"pair": Quota(9, per=60)}}))
    assert policy.at_risk == TokenBucket(2.5, per=60, burst=1)
    assert policy.critical is not None
    assert policy.critical.tokens == 0
    assert policy.daily_volume == Quota(1750, per=86_400)
    assert policy.overrides[A]["pair"] == Quota(2, per=60)
    assert policy.new_conversations_on == (Health.HEALTHY,)
