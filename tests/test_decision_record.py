"""The decision record: what `decisions` and `explain` tell of a decision, and what a dry run does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from sendguard import (
    AsyncSendGuard,
    Considered,
    DecisionRecord,
    Health,
    Policy,
    Quota,
    Reason,
    SendGuard,
    TokenBucket,
    UnknownDecision,
)
from sendguard.request import Request
from sendguard.store.scripts import Call, Command
from sendguard.store.wire import words
from tests.servers import Server
from tests.support import ManualClock

A, B, C, D = (f"+1202555010{i}" for i in range(1, 5))
PERSON, OTHER = "+14155550123", "+14155550124"
NewGuard = Callable[..., SendGuard]


def add(guard: SendGuard, *numbers: str, **told: Any) -> None:
    for number in numbers:
        guard.observe(number, **{"status": "ACTIVE", "health": "HEALTHY", **told})


def last(guard: SendGuard) -> DecisionRecord:
    return guard.decisions()[-1]


# What a record says --------------------------------------------------------------------------------------------------


def test_a_record_says_what_the_decision_said(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    decision = guard.decide(PERSON)
    (record,) = guard.decisions()
    assert record == DecisionRecord(
        entry_id=record.entry_id,
        decision_id=decision.decision_id,
        decided_at=clock.now,
        allowed=True,
        from_number=A,
        reason=Reason.NEW_CONVERSATION,
        retry_after=None,
        wait=0.0,
        status=decision.status,
        health=Health.HEALTHY,
        new_conversation=True,
        previous_from_number=None,
        kind="chat",
        line_type=None,
        conversation=record.conversation,
        remembered=None,
        considered=(Considered(A, None, clock.now),),
    )
    assert record.conversation == guard._flows.protocol.digest(PERSON)
    guard.decide(PERSON, kind="voice_memo")
    again = last(guard)
    assert (again.kind, again.reason, again.conversation) == ("voice_memo", Reason.STICKY, record.conversation)
    assert not again.new_conversation


def test_every_line_looked_at_is_told_with_why_not_and_when_free(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(tokens=1, per=60, burst=1), pair=Quota(1, per=30)))
    add(guard, A)
    add(guard, B, health="AT_RISK")
    assert guard.decide(PERSON, from_number=A).allowed
    guard.decide(OTHER, exclude=[A])  # B's one token
    clock.advance(10)
    guard.pause(A, until=clock.now + 1000)
    denied = guard.decide("+14155550125")
    record = last(guard)
    assert (record.allowed, record.from_number, record.reason) == (False, B, Reason.THROTTLED)
    assert record.retry_after == denied.retry_after == 50
    assert record.considered == (
        Considered(A, "paused", clock.now + 1000),
        Considered(B, "throttled", clock.now + 50),
    )
    guard.resume(A)
    guard.decide(PERSON, from_number=A)
    assert last(guard).considered == (Considered(A, "pair", pytest.approx(clock.now + 20, abs=0.002)),)  # type: ignore[comparison-overlap]


def test_lines_that_are_out_or_excluded_are_told(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    add(guard, B, status="FLAGGED")
    guard.decide(PERSON, exclude=[A])
    record = last(guard)
    assert (record.reason, record.from_number) == (Reason.FLAGGED, B)
    assert record.considered == (Considered(A, "excluded", None), Considered(B, "flagged", None))
    clock.advance(1)
    guard.pause(A)
    guard.observe(B, status="ACTIVE")
    guard.pause(B)
    guard.decide(PERSON)
    assert set(last(guard).considered) <= {Considered(A, "paused", None), Considered(B, "paused", None)}
    assert last(guard).considered


def test_lines_whose_health_starts_no_conversation_are_told(guard: SendGuard) -> None:
    add(guard, A, health="CRITICAL")
    guard.decide(PERSON)
    assert last(guard).considered == (Considered(A, "new_conversations", None),)


def test_a_failover_tells_the_line_that_was_left(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    guard.decide(PERSON)
    add(guard, B)
    guard.observe(A, status="FLAGGED")
    guard.decide(PERSON)
    record = last(guard)
    assert (record.reason, record.previous_from_number, record.from_number) == (Reason.FAILOVER, A, B)
    assert record.considered == (Considered(A, "flagged", None), Considered(B, None, clock.now))


def test_a_line_that_is_not_known_is_told(guard: SendGuard) -> None:
    add(guard, A)
    guard.decide(PERSON, from_number=D)
    record = last(guard)
    assert (record.from_number, record.reason) == (None, Reason.UNKNOWN_LINE)
    assert record.considered == (Considered(D, "unknown_line", None),)


def test_an_empty_pool_is_told(guard: SendGuard) -> None:
    guard.decide(PERSON)
    assert (last(guard).reason, last(guard).from_number, last(guard).considered) == (Reason.NO_LINES, None, ())


def test_at_most_sixteen_lines_are_told(guard: SendGuard) -> None:
    numbers = [f"+1202555{i:04d}" for i in range(40)]
    add(guard, *numbers)
    guard.decide(PERSON, exclude=numbers[:30])
    assert len(last(guard).considered) == 16
    assert guard.decisions()[-1].from_number not in numbers[:30]


def test_the_line_type_asked_for_is_told(guard: SendGuard) -> None:
    add(guard, A)
    guard.decide(PERSON, line_type="RCS")
    assert (last(guard).line_type, last(guard).reason) == ("RCS", Reason.NO_LINES)


# Answers given again -------------------------------------------------------------------------------------------------


def test_a_repeated_answer_is_an_entry_of_its_own(guard: SendGuard) -> None:
    add(guard, A)
    first, second = (guard.decide(PERSON, idempotency_key="order-7") for _ in range(2))
    assert first.decision_id == second.decision_id
    assert [record.remembered for record in guard.decisions()] == [None, "repeated"]
    assert guard.decisions()[1].considered == ()
    told = guard.explain(first.decision_id)
    assert told.records == guard.decisions()
    assert [line.number for line in told.lines] == [A]


def test_a_slot_and_its_confirmation_are_told(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(tokens=1, per=10, burst=1)))
    add(guard, A, health="AT_RISK")
    guard.decide(PERSON)
    request = Request.of(OTHER, "chat", None, (), None, None)
    slot, confirmed = _waited(guard, request, clock, lambda: clock.advance(10))
    assert (slot.allowed, slot.wait, slot.remembered) == (True, 10, None)
    assert slot.considered == (Considered(A, "throttled", slot.decided_at + 10),)
    assert (confirmed.allowed, confirmed.wait, confirmed.remembered) == (True, 0, "confirmed")
    assert slot.decision_id == confirmed.decision_id == request.decision_id


def test_a_slot_that_was_lost_is_told(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(tokens=1, per=10, burst=1)))
    add(guard, A, health="AT_RISK")
    guard.decide(PERSON)

    def flagged() -> None:
        clock.advance(10)
        guard.observe(A, status="FLAGGED")

    request = Request.of(OTHER, "chat", None, (), None, None)
    slot, anew = _waited(guard, request, clock, flagged)
    assert (anew.allowed, anew.remembered, anew.reason) == (False, "void", Reason.FLAGGED)
    assert guard.explain(request.decision_id).records == (slot, anew)


def _waited(
    guard: SendGuard, request: Request, clock: ManualClock, meanwhile: Callable[[], None]
) -> tuple[DecisionRecord, ...]:
    """The records of one who waits up to a minute, while something happens."""
    before, decide = last(guard).entry_id, guard._flows.protocol.decide
    for step in (lambda: None, meanwhile):
        step()
        guard._drive(guard._flows.run(decide(request, max_wait=60, waiter=True, now=clock())))
    return guard.decisions(before)


# Reading -------------------------------------------------------------------------------------------------------------


def test_explain_pages_back_to_the_beginning(guard: SendGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    add(guard, A)
    monkeypatch.setattr("sendguard.flows._RECORDS_PER_CALL", 2)
    first = guard.decide(PERSON, idempotency_key="k")
    for i in range(7):
        guard.decide(f"+1415555{i:04d}")
    guard.decide(PERSON, idempotency_key="k")
    records = guard.explain(first.decision_id).records
    assert [record.remembered for record in records] == [None, "repeated"]
    assert records[0] == guard.decisions()[0]


@pytest.mark.parametrize("decision_id", ["", "x" * 24, "ab" * 11, 7, "AB" * 12])
def test_explain_refuses_what_is_no_id(guard: SendGuard, decision_id: Any) -> None:
    with pytest.raises(ValueError, match="decision_id"):
        guard.explain(decision_id)


def test_a_decision_that_is_not_recorded_is_not_known(new_guard: NewGuard) -> None:
    guard = new_guard(record_decisions=False)
    add(guard, A)
    decision = guard.decide(PERSON)
    assert decision.allowed
    assert guard.decisions() == ()
    with pytest.raises(UnknownDecision) as raised:
        guard.explain(decision.decision_id)
    assert raised.value.decision_id == decision.decision_id
    with pytest.raises(ValueError, match="record_decisions"):
        new_guard(record_decisions="no")


def test_decisions_are_paged_in_order(guard: SendGuard) -> None:
    add(guard, A)
    ids = [guard.decide(f"+1415555{i:04d}").decision_id for i in range(5)]
    first = guard.decisions(count=2)
    rest = guard.decisions(first[-1].entry_id)
    assert [record.decision_id for record in (*first, *rest)] == ids
    assert guard.decisions(rest[-1].entry_id) == ()
    for arguments in ({"after": "x"}, {"after": None}, {"count": 0}, {"count": True}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            guard.decisions(**arguments)


def test_the_async_guard_reads_the_same(valkey: Server, pool: str) -> None:
    async def run() -> None:
        guard = AsyncSendGuard(valkey.url, pool=pool, timeout=5)
        await guard.observe(A, status="ACTIVE")
        assert (await guard.dry_run(PERSON)).from_number == A
        assert await guard.decisions() == ()
        decision = await guard.decide(PERSON)
        assert (await guard.decisions())[0].decision_id == decision.decision_id
        assert (await guard.explain(decision.decision_id)).records == await guard.decisions()
        await guard.close()

    asyncio.run(run())


# What it costs and keeps ---------------------------------------------------------------------------------------------


def test_a_record_is_written_in_the_decisions_own_round_trip(valkey: Server, pool: str) -> None:
    calls: list[str] = []
    with SendGuard(valkey.url, pool=pool, timeout=5, refresh=None) as guard:
        add(guard, A)
        guard.decide(PERSON)
        run = guard._store.run

        def counting(call: Any, *rest: Any) -> Any:
            calls.append(call.script.name if isinstance(call, Call) else str(call))
            return run(call, *rest)

        guard._store.run = counting  # type: ignore[method-assign]
        guard.decide(PERSON)
    assert calls == ["decide"]


def test_the_record_is_capped(valkey: Server, pool: str) -> None:
    with SendGuard(valkey.url, pool=pool, timeout=5) as guard, redis.Redis.from_url(valkey.url) as client:
        add(guard, A)
        call = guard._flows.protocol.decide(
            Request.of(PERSON, "chat", A, (), None, None), max_wait=0, waiter=False, now=None
        )
        pipe = client.pipeline(transaction=False)
        for _ in range(12_000):
            pipe.execute_command(*words("FCALL", call.script.function, call))  # type: ignore[no-untyped-call]
        guard.decide(PERSON)
        pipe.execute()
        assert 10_000 <= client.xlen(f"sendguard:{{{pool}}}:decisions") <= 10_200


def test_no_recipient_stands_in_the_record(valkey: Server, pool: str) -> None:
    key = f"sendguard:{{{pool}}}:decisions"
    with SendGuard(valkey.url, pool=pool, timeout=5) as guard, redis.Redis.from_url(valkey.url) as client:
        add(guard, A)
        guard.decide([PERSON, "somebody@example.com"], idempotency_key="secret-key")
        dump = b"".join(b"".join(pairs) for _, fields in client.xrange(key) for pairs in fields.items())  # type: ignore[union-attr]
        assert A.encode() in dump
        for secret in (PERSON, PERSON[1:], "somebody", "secret-key"):
            assert secret.encode() not in dump


# A dry run -----------------------------------------------------------------------------------------------------------


def dumps(client: redis.Redis, pool: str) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.keys(f"sendguard:{{{pool}}}:*")}  # type: ignore[misc, union-attr]


TIGHT = Policy(
    at_risk=TokenBucket(tokens=1, per=60, burst=1),
    pair=Quota(2, per=60),
    overrides={C: {"healthy": TokenBucket(tokens=1, per=60, burst=1)}},
)


@pytest.mark.parametrize(
    ("to", "question"),
    [
        (PERSON, {}),
        (OTHER, {}),
        (OTHER, {"exclude": [A]}),
        (OTHER, {"exclude": [A, B, C]}),
        (OTHER, {"from_number": C}),
        (OTHER, {"from_number": D}),
        (PERSON, {"from_number": B}),
        (PERSON, {"kind": "voice_memo"}),
        ([PERSON, OTHER], {"line_type": "RCS"}),
        ("+14155550199", {}),
    ],
)
@pytest.mark.parametrize("flagged", [False, True])
def test_a_dry_run_tells_what_would_be_decided_and_changes_no_byte(
    valkey: Server, pool: str, clock: ManualClock, to: Any, question: dict[str, Any], flagged: bool
) -> None:
    with (
        SendGuard(valkey.url, pool=pool, timeout=5, policy=TIGHT, clock=clock) as guard,
        redis.Redis.from_url(valkey.url) as client,
    ):
        add(guard, A, C)
        add(guard, B, health="AT_RISK")
        guard.decide(PERSON, from_number=A)
        guard.decide("+14155550199", from_number=B)
        guard.decide("+14155550188", from_number=C)
        if flagged:
            guard.observe(A, status="FLAGGED")
        clock.advance(1)
        before = dumps(client, pool)
        told = guard.dry_run(to, **question)
        assert dumps(client, pool) == before
        assert told.entry_id == ""
        guard.decide(to, **question)
        real = last(guard)
        assert dumps(client, pool) != before
        same = ("allowed", "from_number", "reason", "retry_after", "wait", "status", "health", "new_conversation")
        for name in (*same, "previous_from_number", "kind", "line_type", "conversation", "considered", "decided_at"):
            assert getattr(told, name) == getattr(real, name), name


def test_a_dry_run_goes_by_overrides_that_are_not_in_the_store(valkey: Server, pool: str) -> None:
    with (
        SendGuard(valkey.url, pool=pool, timeout=5, refresh=None) as guard,
        SendGuard(
            valkey.url,
            pool=pool,
            timeout=5,
            policy=Policy(overrides={A: {"daily_volume": Quota(1, 60)}}),
            refresh=None,
        ) as own,
        redis.Redis.from_url(valkey.url) as client,
    ):
        add(guard, A)
        guard.decide(PERSON)
        before = dumps(client, pool)
        assert guard.dry_run(PERSON).allowed
        assert own.dry_run(PERSON).reason is Reason.DAILY_VOLUME
        assert dumps(client, pool) == before
        assert not any(b"overrides" in key for key in before)


def test_a_dry_run_tells_the_slot_that_a_waiter_would_get(new_guard: NewGuard) -> None:
    guard = new_guard(policy=TIGHT)
    add(guard, A, health="AT_RISK")
    guard.decide(PERSON)
    assert guard.dry_run(OTHER).retry_after == 60
    told = guard.dry_run(OTHER, max_wait=90)
    assert (told.allowed, told.wait) == (True, 60)
    assert guard.decide(OTHER).retry_after == 60
    with pytest.raises(ValueError, match="max_wait"):
        guard.dry_run(OTHER, max_wait=-1)


@pytest.mark.parametrize("server", ["valkey", "redis_server"])
def test_the_server_itself_finds_no_write_in_a_dry_run(
    server: str, request: pytest.FixtureRequest, pool: str, clock: ManualClock
) -> None:
    """EVAL_RO refuses a script that writes; a decision is one."""
    url = request.getfixturevalue(server).url
    with SendGuard(url, pool=pool, timeout=5, policy=TIGHT, clock=clock) as guard, redis.Redis.from_url(url) as client:
        add(guard, A, C)
        guard.decide(PERSON)
        protocol, question = guard._flows.protocol, Request.of(OTHER, "chat", None, (), None, None)
        real = protocol.decide(question, max_wait=0, waiter=False, now=clock())
        with pytest.raises(redis.ResponseError, match=r"[Ww]rite commands are not allowed"):
            client.execute_command(*words("EVAL_RO", real.script.source, real))  # type: ignore[no-untyped-call]
        dry = protocol.dry_run(question, max_wait=0, now=clock())
        assert client.execute_command(*words("EVAL_RO", dry.script.source, dry)).startswith(b"1|")  # type: ignore[no-untyped-call]
        assert client.execute_command(*words("FCALL_RO", dry.script.function, dry)).startswith(b"1|")  # type: ignore[no-untyped-call]


def test_the_page_of_the_store_names_the_stream(guard: SendGuard, pool: str) -> None:
    page = (Path(__file__).parent.parent / "docs" / "store.md").read_text("utf-8")
    add(guard, A)
    guard.decide(PERSON)
    assert guard._drive(guard._flows.run(Command(("EXISTS", f"sendguard:{{{pool}}}:decisions")))) == 1
    assert "| `decisions` | stream |" in page
