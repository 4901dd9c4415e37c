"""The laws, by example, on every store. `tests/test_model.py` drives them at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from sendguard import (
    Decision,
    Health,
    Outcome,
    Policy,
    Quota,
    Reason,
    SendBlocked,
    SendGuard,
    TokenBucket,
    UnknownLine,
)
from sendguard.request import Request
from tests.support import ManualClock

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550123", "+14155550124"
NewGuard = Callable[..., SendGuard]


def person(i: int) -> str:
    return f"+1415{i:07d}"


def add(guard: SendGuard, *numbers: str, health: str = "HEALTHY") -> None:
    for number in numbers:
        guard.observe(number, status="ACTIVE", health=health)


def line(guard: SendGuard, number: str) -> object:
    return next(line for line in guard.lines() if line.number == number)


def denied(decision: Decision, reason: Reason, retry_after: float | None = None) -> None:
    assert not decision.allowed
    assert decision.from_number is None
    assert decision.reason is reason
    assert decision.retry_after == (None if retry_after is None else pytest.approx(retry_after, abs=0.002))


# Law 1 ---------------------------------------------------------------------------------------------------------------


def test_law_1_no_process_sends_on_a_flagged_line(new_guard: NewGuard, clock: ManualClock) -> None:
    one, other = new_guard(), new_guard()
    add(one, A)
    assert other.choose_from_number(ANN) == A
    clock.advance(1)
    one.observe(A, status="FLAGGED")
    denied(other.decide(ANN), Reason.FLAGGED)
    denied(other.decide(BOB), Reason.FLAGGED)
    denied(other.decide(ANN, from_number=A), Reason.FLAGGED)
    denied(other.decide(ANN, kind="voice_memo"), Reason.FLAGGED)
    clock.advance(1)
    one.observe(A, status="ACTIVE")
    assert other.choose_from_number(ANN) == A


def test_law_1_a_remembered_answer_does_not_outlive_the_flag(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A, B)
    first = guard.decide(ANN, idempotency_key="job-1")
    clock.advance(1)
    guard.observe(str(first.from_number), status="FLAGGED")
    again = guard.decide(ANN, idempotency_key="job-1")
    assert again.reason is Reason.FAILOVER
    assert again.from_number != first.from_number
    assert guard.decide(ANN, idempotency_key="job-1") == again


# Law 2 ---------------------------------------------------------------------------------------------------------------


def test_law_2_each_field_has_its_own_time(guard: SendGuard, clock: ManualClock) -> None:
    now = clock()
    guard.observe(A, status="FLAGGED", observed_at=now - 10)
    guard.observe(A, health="CRITICAL", observed_at=now - 20)
    known = guard.observe(A, status="ACTIVE", health="HEALTHY", observed_at=now - 15)
    assert (known.status.value, known.health.value) == ("FLAGGED", "HEALTHY")
    assert (known.status_observed_at, known.health_observed_at) == (now - 10, now - 15)


@pytest.mark.parametrize(("first", "second"), [("ACTIVE", "FLAGGED"), ("FLAGGED", "ACTIVE")])
def test_law_2_at_equal_times_the_graver_status_wins(guard: SendGuard, first: str, second: str) -> None:
    guard.observe(A, status=first)
    assert guard.observe(A, status=second).status.value == "FLAGGED"


@pytest.mark.parametrize("order", [("HEALTHY", "AT_RISK", "CRITICAL"), ("CRITICAL", "AT_RISK", "HEALTHY")])
def test_law_2_at_equal_times_the_graver_health_wins(guard: SendGuard, order: tuple[str, ...]) -> None:
    for health in order:
        known = guard.observe(A, health=health)
    assert known.health is Health.CRITICAL


def test_law_2_unknown_values_count_as_grave_and_are_kept_and_logged(
    guard: SendGuard, caplog: pytest.LogCaptureFixture
) -> None:
    known = guard.observe(A, status="SUSPENDED", health="WOBBLY")
    assert (known.status.value, known.health.value) == ("FLAGGED", "AT_RISK")
    assert (known.raw_status, known.raw_health) == ("SUSPENDED", "WOBBLY")
    assert "SUSPENDED" in caplog.text
    assert "WOBBLY" in caplog.text
    denied(guard.decide(ANN), Reason.FLAGGED)


def test_law_2_an_observation_from_the_future_does_not_outlast_news(guard: SendGuard, clock: ManualClock) -> None:
    guard.observe(A, status="ACTIVE", observed_at=clock() + 10**6)
    clock.advance(301)
    assert guard.observe(A, status="FLAGGED").status.value == "FLAGGED"


# Law 3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("health", "burst", "interval"), [("AT_RISK", 5, 6.0), ("CRITICAL", 1, 60.0)])
def test_law_3_a_bucket_admits_its_burst_then_its_rate(
    guard: SendGuard, clock: ManualClock, health: str, burst: int, interval: float
) -> None:
    add(guard, A)
    assert guard.choose_from_number(ANN) == A
    clock.advance(100)
    guard.observe(A, health=health)
    assert [guard.decide(ANN).allowed for _ in range(burst + 2)] == [True] * burst + [False] * 2
    for _ in range(3):
        denied(guard.decide(ANN), Reason.THROTTLED, interval)
        clock.advance(interval)
        assert guard.decide(ANN).allowed
    assert not guard.decide(ANN).allowed


def test_law_3_pair_counts_in_any_rolling_window(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(pair=Quota(3, per=60)))
    add(guard, A)
    for at in (0, 20, 20):
        clock.advance(at)
        assert guard.decide(ANN).allowed
    denied(guard.decide(ANN), Reason.PAIR, 20)
    assert guard.decide(BOB).allowed
    clock.advance(20)
    assert guard.decide(ANN).allowed
    denied(guard.decide(ANN), Reason.PAIR, 20)


def test_law_3_new_conversations_are_counted_over_a_day(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard()
    add(guard, A, B)
    counts = Counter(guard.choose_from_number(person(i)) for i in range(100))
    assert counts == {A: 50, B: 50}
    denied(guard.decide(person(100)), Reason.NEW_CONVERSATIONS, 86_400)
    assert guard.decide(person(0)).reason is Reason.STICKY
    clock.advance(86_400)
    assert guard.decide(person(100)).allowed


def test_law_3_daily_volume_never_passes_its_limit_and_most_of_it_can_be_used(
    new_guard: NewGuard, clock: ManualClock
) -> None:
    """A steady sender that asks far more often than it may: every rolling window holds at most the limit, and 98%."""
    limit, per = 500, 5_000.0
    guard = new_guard(policy=Policy(daily_volume=Quota(limit, per=per), pair=None, new_conversations=None))
    add(guard, A)
    sent: list[float] = []
    while clock() < 1_771_000_000.0 + 3 * per:
        decision = guard.decide(ANN)
        if decision.allowed:
            sent.append(clock())
            clock.advance(7.0)
        else:
            assert decision.reason is Reason.DAILY_VOLUME
            clock.advance(float(decision.retry_after or 0))
    windows = [sum(1 for t in sent[i:] if t < start + per) for i, start in enumerate(sent)]
    assert max(windows) == limit
    steady = [t for t in sent if t >= 1_771_000_000.0 + per]
    assert len(steady) / 2 >= 0.98 * limit


def test_law_3_overrides_hold_for_their_line_alone(new_guard: NewGuard) -> None:
    guard = new_guard(policy=Policy(overrides={A: {"healthy": TokenBucket(1, per=10), "pair": Quota(2, per=60)}}))
    add(guard, A, B)
    assert guard.decide(ANN, from_number=A).allowed
    denied(guard.decide(ANN, from_number=A), Reason.THROTTLED, 10)
    assert all(guard.decide(ANN, from_number=B).allowed for _ in range(30))


def test_law_3_no_tokens_pauses_a_line(new_guard: NewGuard) -> None:
    guard = new_guard(policy=Policy(critical=TokenBucket(0, per=60)))
    add(guard, A)
    guard.choose_from_number(ANN)
    guard.observe(A, health="CRITICAL", observed_at=1_771_000_001)
    denied(guard.decide(ANN), Reason.THROTTLED)


def test_law_3_only_the_last_token_comes_back(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    guard.choose_from_number(ANN)
    guard.observe(A, health="CRITICAL", observed_at=clock() + 1)
    sent = guard.decide(ANN)
    guard.report(sent, "not_sent")
    again = guard.decide(ANN)
    assert again.allowed
    guard.report(sent, "not_sent")
    denied(guard.decide(ANN), Reason.THROTTLED, 60)
    clock.advance(60)
    assert guard.decide(ANN).allowed
    guard.report(again, "not_sent")
    denied(guard.decide(ANN), Reason.THROTTLED, 60)


# Law 4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("health", ["AT_RISK", "CRITICAL"])
def test_law_4_weak_health_slows_a_conversation_and_never_moves_it(
    guard: SendGuard, clock: ManualClock, health: str
) -> None:
    add(guard, A, B)
    home = guard.choose_from_number(ANN)
    clock.advance(1)
    guard.observe(home, health=health)
    answers = [guard.decide(ANN) for _ in range(8)]
    assert {answer.from_number for answer in answers if answer.allowed} == {home}
    assert {answer.reason for answer in answers if not answer.allowed} == {Reason.THROTTLED}


def test_law_4_flagged_moves_a_chat_for_good(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A, B)
    home = guard.choose_from_number(ANN)
    clock.advance(1)
    guard.observe(home, status="FLAGGED")
    moved = guard.decide(ANN)
    assert (moved.reason, moved.previous_from_number, moved.new_conversation) == (Reason.FAILOVER, home, True)
    clock.advance(1)
    guard.observe(home, status="ACTIVE")
    stays = guard.decide(ANN)
    assert (stays.reason, stays.from_number) == (Reason.STICKY, moved.from_number)


def test_law_4_a_failover_pays_for_a_conversation(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(new_conversations=Quota(1, per=86_400)))
    add(guard, A)
    guard.choose_from_number(ANN)
    add(guard, B)
    guard.choose_from_number(BOB)
    clock.advance(1)
    guard.observe(A, status="FLAGGED")
    denied(guard.decide(ANN), Reason.NEW_CONVERSATIONS, 86_399)


def test_law_4_hold_keeps_a_chat_on_its_flagged_line(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(on_flagged="hold"))
    add(guard, A)
    guard.choose_from_number(ANN)
    add(guard, B)
    clock.advance(1)
    guard.observe(A, status="FLAGGED")
    denied(guard.decide(ANN), Reason.FLAGGED)
    assert guard.choose_from_number(BOB) == B


def test_law_4_an_explicit_line_leaves_the_conversation_where_it_is(guard: SendGuard) -> None:
    add(guard, A)
    assert guard.choose_from_number(ANN) == A
    add(guard, B)
    asked = guard.decide(ANN, from_number=B)
    assert (asked.reason, asked.from_number, asked.new_conversation) == (Reason.REQUESTED, B, True)
    assert guard.decide(ANN, from_number=B).new_conversation is False
    assert guard.choose_from_number(ANN) == A


def test_law_4_groups_stick_whatever_their_order(guard: SendGuard) -> None:
    add(guard, A, B)
    home = guard.choose_from_number([ANN, BOB, "Cy@Example.com"])
    assert guard.choose_from_number(["cy@example.com", BOB, ANN, BOB]) == home
    assert guard.decide((BOB, ANN)).reason is Reason.NEW_CONVERSATION


# Law 5 ---------------------------------------------------------------------------------------------------------------


def test_law_5_new_conversations_take_turns(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A, B, C)
    turns = []
    for i in range(9):
        turns.append(guard.choose_from_number(person(i)))
        clock.advance(0.001)
    assert turns == [A, B, C] * 3
    guard.choose_from_number(person(0))
    clock.advance(1)
    assert [guard.choose_from_number(person(i)) for i in (20, 21)] == [B, C]


def test_law_5_the_healthiest_line_with_room_comes_first(new_guard: NewGuard) -> None:
    guard = new_guard(policy=Policy(new_conversations=Quota(2, per=86_400)))
    add(guard, A, health="CRITICAL")
    add(guard, B, health="AT_RISK")
    add(guard, C)
    assert [guard.choose_from_number(person(i)) for i in range(4)] == [C, C, B, B]
    denied(guard.decide(person(4)), Reason.NEW_CONVERSATIONS, 86_400)


def test_law_5_excluded_and_mistyped_lines_start_no_conversation(guard: SendGuard) -> None:
    add(guard, A, B)
    assert guard.choose_from_number(ANN, exclude=[A]) == B
    assert guard.choose_from_number(ANN, exclude=[B]) == B
    denied(guard.decide(BOB, exclude=[A, B]), Reason.NO_LINES)
    denied(guard.decide(BOB, line_type="RCS"), Reason.NO_LINES)
    assert guard.decide(BOB, line_type="iMessage").allowed


# Law 6 ---------------------------------------------------------------------------------------------------------------


def test_law_6_a_denial_names_what_clears_first(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard()
    add(guard, A, B, C, health="AT_RISK")
    clock.advance(1)
    guard.observe(C, status="FLAGGED")
    guard.pause(B, until=clock() + 3)
    for i in range(5):
        assert guard.decide(person(i)).from_number == A
    denied(guard.decide(ANN), Reason.PAUSED, 3)
    guard.pause(B)
    denied(guard.decide(ANN), Reason.THROTTLED, 6)
    guard.pause(A)
    denied(guard.decide(ANN), Reason.FLAGGED)


def test_law_6_a_line_waits_for_the_last_of_its_obstacles(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    guard.choose_from_number(ANN)
    clock.advance(1)
    guard.observe(A, health="CRITICAL")
    guard.decide(ANN)
    guard.pause(A, until=clock() + 90)
    denied(guard.decide(ANN), Reason.PAUSED, 90)
    clock.advance(90)
    assert guard.decide(ANN).allowed


def test_law_6_a_denial_consumes_nothing(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A, health="AT_RISK")
    for _ in range(5):
        assert guard.decide(ANN).allowed
    before = guard.lines()
    for _ in range(50):
        assert not guard.decide(ANN).allowed
        assert not guard.decide(BOB, idempotency_key="b").allowed
    assert guard.lines() == before
    clock.advance(6)
    assert guard.decide(BOB, idempotency_key="b").allowed


@pytest.mark.parametrize("start", [0.0, 1_771_000_000.123456, 1_795_485_644.9750921, 1e9 / 3])
def test_law_6_retry_after_is_exact_on_any_clock(new_guard: NewGuard, clock: ManualClock, start: float) -> None:
    clock.now = start
    guard = new_guard(policy=Policy(at_risk=TokenBucket(7, per=3), pair=None))
    add(guard, A, health="AT_RISK")
    for _ in range(60):
        decision = guard.decide(ANN)
        if not decision.allowed:
            assert decision.retry_after is not None
            assert decision.retry_after > 0
            clock.advance(decision.retry_after * 0.99)
            assert not guard.decide(ANN).allowed
            clock.now += guard.decide(ANN).retry_after or 0
            assert guard.decide(ANN).allowed


def test_law_6_a_blocked_send_carries_its_decision(guard: SendGuard) -> None:
    add(guard, A, health="AT_RISK")
    for _ in range(5):
        guard.choose_from_number(ANN)
    with pytest.raises(SendBlocked) as blocked:
        guard.choose_from_number(ANN)
    assert blocked.value.reason is blocked.value.decision.reason is Reason.THROTTLED
    assert blocked.value.retry_after == pytest.approx(6)


# Law 8 ---------------------------------------------------------------------------------------------------------------


def test_law_8_a_retried_send_pays_once(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A, health="AT_RISK")
    first = guard.decide(ANN, idempotency_key="job-7")
    clock.advance(3600)
    assert all(guard.decide(ANN, idempotency_key="job-7") == first for _ in range(20))
    assert guard.lines()[0].daily_volume == 1
    assert guard.decide(ANN, idempotency_key="job-8").decision_id != first.decision_id
    assert guard.decide(BOB, idempotency_key="job-7").decision_id != first.decision_id


def test_law_8_a_day_later_the_key_is_forgotten(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    first = guard.decide(ANN, idempotency_key="job-7")
    clock.advance(86_400)
    assert guard.decide(ANN, idempotency_key="job-7").decision_id != first.decision_id


def test_law_8_what_was_given_back_is_decided_and_paid_anew(guard: SendGuard) -> None:
    add(guard, A)
    first = guard.decide(ANN, idempotency_key="job-7")
    guard.report(first, "not_sent")
    again = guard.decide(ANN, idempotency_key="job-7")
    assert again.decision_id != first.decision_id
    assert guard.lines()[0].daily_volume == 1


def test_law_4_a_conversation_whose_first_message_never_left_has_not_begun(guard: SendGuard) -> None:
    add(guard, A)
    add(guard, B)
    first = guard.decide(ANN)
    guard.report(first, "not_sent")
    guard.observe(str(first.from_number), health="AT_RISK")
    second = guard.decide(ANN)
    assert second.reason is Reason.NEW_CONVERSATION
    assert second.from_number != first.from_number
    guard.decide(ANN)
    guard.report(second, "not_sent")
    assert guard.decide(ANN).reason is Reason.STICKY, "another message was sent in it"


def test_law_3_a_late_refund_takes_back_no_other_send(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(pair=Quota(2, per=60)))
    add(guard, A)
    first = guard.decide(ANN)
    clock.advance(61)
    assert guard.decide(ANN).allowed
    assert guard.decide(ANN).allowed
    guard.report(first, "not_sent")
    denied(guard.decide(ANN), Reason.PAIR, 60)


def test_law_4_a_late_refund_ends_no_conversation(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    first = guard.decide(ANN)
    clock.advance(61)
    assert guard.decide(ANN).reason is Reason.STICKY
    guard.report(first, "not_sent")
    assert guard.decide(ANN).reason is Reason.STICKY


def test_law_3_a_slot_that_nobody_took_in_time_is_decided_anew(new_guard: NewGuard, clock: ManualClock) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(1, per=60)))
    add(guard, A, health="AT_RISK")
    flows = guard._flows
    waiters = [Request.of(ANN, "chat", None, (), None, f"waiter-{i}") for i in range(3)]
    slots = [guard._drive(flows.decide(waiter, 600.0, waiter=True)) for waiter in waiters]
    clock.advance(430)
    answers = [guard._drive(flows.decide(waiter, 0.0, waiter=True)) for waiter in waiters]
    assert [slot.wait for slot in slots] == [0, 60, 120]
    assert [answer.allowed for answer in answers] == [True, True, False]


def test_law_3_a_pair_is_kept_on_more_lines_than_eight(new_guard: NewGuard) -> None:
    guard = new_guard(policy=Policy(pair=Quota(1, per=60)))
    numbers = [f"+120255502{i:02d}" for i in range(12)]
    for number in numbers:
        add(guard, number)
    assert all(guard.decide(ANN, from_number=number).allowed for number in numbers)
    for number in numbers:
        denied(guard.decide(ANN, from_number=number), Reason.PAIR, 60)


def test_an_operator_outranks_what_is_dated_ahead(guard: SendGuard, clock: ManualClock) -> None:
    guard.observe(A, status="FLAGGED", health="CRITICAL", observed_at=clock() + 120)
    line = guard.observe(A, status="ACTIVE", health="HEALTHY")
    assert (line.status.value, line.health.value) == ("ACTIVE", "HEALTHY")


def test_law_9_an_outcome_makes_no_line_known(guard: SendGuard, new_guard: NewGuard, clock: ManualClock) -> None:
    stranger = new_guard(pool=f"{guard.pool}-other")
    add(stranger, A)
    guard.report(stranger.decide(ANN), Outcome(sent=True, code=2027))
    clock.advance(301)
    denied(guard.decide(ANN), Reason.NO_LINES)


def test_observe_mode_never_waits_and_passes_a_named_line_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with SendGuard("redis://127.0.0.1:1/0", timeout=0.1, policy=Policy(mode="observe")) as guard:
        told = guard.decide(ANN, from_number=A)
    assert (told.allowed, told.from_number, told.reason) == (True, A, Reason.STORE_UNAVAILABLE)
    with SendGuard(policy=Policy(mode="observe", at_risk=TokenBucket(1, per=60))) as guard:
        guard.observe(A, health="AT_RISK")
        monkeypatch.setattr("sendguard.guard.time.sleep", lambda _: pytest.fail("it waits"))
        assert [guard.choose_from_number(ANN, max_wait=20) for _ in range(3)] == [A, A, A]


# Operators, modes and outcomes ---------------------------------------------------------------------------------------


def test_pausing_and_resuming(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    guard.choose_from_number(ANN)
    assert guard.pause(A).paused
    denied(guard.decide(ANN), Reason.PAUSED)
    denied(guard.decide(BOB), Reason.PAUSED)
    assert not guard.resume(A).paused
    assert guard.pause(A, until=clock() + 5).paused_until == clock() + 5
    denied(guard.decide(ANN), Reason.PAUSED, 5)
    clock.advance(5)
    assert guard.decide(ANN).allowed
    with pytest.raises(UnknownLine):
        guard.pause(C)
    with pytest.raises(UnknownLine):
        guard.resume(C)


def test_a_line_that_nobody_knows(guard: SendGuard) -> None:
    denied(guard.decide(ANN), Reason.NO_LINES)
    add(guard, A)
    denied(guard.decide(ANN, from_number=C), Reason.UNKNOWN_LINE)


def test_only_critical_lines_start_no_conversation(guard: SendGuard) -> None:
    add(guard, A, health="CRITICAL")
    denied(guard.decide(ANN), Reason.NEW_CONVERSATIONS)
    denied(guard.decide(ANN, from_number=A), Reason.NEW_CONVERSATIONS)


def test_observe_mode_tells_and_blocks_nothing(new_guard: NewGuard, clock: ManualClock) -> None:
    enforcing, observing = new_guard(), new_guard(policy=Policy(mode="observe"))
    add(enforcing, A)
    enforcing.choose_from_number(ANN)
    clock.advance(1)
    enforcing.observe(A, status="FLAGGED")
    told = observing.decide(ANN)
    assert (told.allowed, told.from_number, told.reason) == (True, A, Reason.FLAGGED)
    assert observing.choose_from_number(BOB) == A
    assert observing.choose_from_number(BOB, from_number=C) == C
    denied(enforcing.decide(ANN), Reason.FLAGGED)


@pytest.mark.parametrize("code", [2027, 4002])
def test_an_outcome_cools_the_line_down_for_every_process(new_guard: NewGuard, clock: ManualClock, code: int) -> None:
    guard, other = new_guard(), new_guard()
    add(guard, A)
    guard.report(guard.decide(ANN), Outcome(code=code))
    denied(other.decide(ANN), Reason.COOLING_DOWN, 300)
    clock.advance(300)
    assert other.decide(ANN).allowed


def test_an_outcome_releases_opts_out_and_closes_a_pair(guard: SendGuard, clock: ManualClock) -> None:
    add(guard, A)
    guard.report(guard.decide(ANN), Outcome(code=1007, retry_after=45))
    denied(guard.decide(ANN), Reason.PAIR, 45)
    clock.advance(45)
    guard.report(guard.decide(ANN), Outcome(code=2024))
    denied(guard.decide(ANN), Reason.OPTED_OUT)
    assert guard.decide([ANN, BOB]).allowed
    guard.report(guard.decide(BOB), Outcome(code=2006))
    denied(guard.decide(BOB, from_number=A), Reason.UNKNOWN_LINE)
    assert guard.lines() == ()


def test_a_server_error_changes_nothing(guard: SendGuard) -> None:
    add(guard, A)
    decision = guard.decide(ANN)
    before = guard.lines()
    guard.report(decision, Outcome(code=3006))
    guard.report(decision, "unknown")
    assert guard.lines() == before


def test_a_message_that_never_left_gives_back_its_quotas(guard: SendGuard) -> None:
    add(guard, A)
    guard.report(guard.decide(ANN), "not_sent")
    known = guard.lines()[0]
    assert (known.daily_volume, known.new_conversations) == (0, 0)
