"""Leases: what is borrowed, what is called back and given back, what is recorded, and what is not lent at all."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from sendguard import (
    AsyncSendGuard,
    Decision,
    Health,
    Lease,
    LineStatus,
    Outcome,
    Policy,
    Quota,
    Reason,
    SendGuard,
    TokenBucket,
)
from sendguard.loans import Asked, Loans, Returned, running_time
from sendguard.request import Chat, Request
from sendguard.store import scripts
from tests.borrowers import (
    LOOSE,
    NOW,
    borrow,
    borrow_async,
    held,
    hold_listener,
    inbound_webhook,
    listening,
    loans_of,
    signed,
    status_webhook,
    watch,
)
from tests.servers import Server
from tests.support import SECRET, ManualClock, raw_client, wait_until

A, B = "+12025550101", "+12025550102"
ANN, BOB = "+14155550123", "+14155550124"
SOON = 5.0
"""Seconds that no acknowledgement takes where everybody listens; a loan of these tests lasts far longer."""
NewGuard = Callable[..., SendGuard]


@pytest.fixture(params=["valkey", "redis_server"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The real stores: nothing is lent by the embedded one."""
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture
def lender(new_guard: NewGuard) -> NewGuard:
    """Makes guards that borrow for long, on the test's clock."""

    def make(**options: Any) -> SendGuard:
        return new_guard(**{"lease": Lease(ttl=30.0), "webhook_secret": SECRET, **options})

    return make


@pytest.fixture
def teller(new_guard: NewGuard) -> SendGuard:
    """A guard that borrows nothing, with a line."""
    guard = new_guard(webhook_secret=SECRET)
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    return guard


def volume(guard: SendGuard) -> int:
    return sum(line.daily_volume for line in guard.lines())


def has_lent(url: str, pool: str) -> bool:
    """Whether the store's record of the line says that something of it is lent."""
    with redis.Redis.from_url(url) as client:
        record = client.hget(f"sendguard:{{{pool}}}:lines", A)
    assert isinstance(record, bytes)
    return record[:1].isupper()


# Borrowing -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("teller")
def test_later_sends_of_a_conversation_are_decided_in_memory(lender: NewGuard) -> None:
    guard = listening(lender(policy=LOOSE, lease=Lease(ttl=30.0, sends=5)))
    lent = watch(guard)
    first, second = guard.decide(ANN), guard.decide(ANN)
    assert (first.reason, second.reason, lent) == (Reason.NEW_CONVERSATION, Reason.STICKY, [])
    later = [guard.decide(ANN) for _ in range(5)]
    assert later == lent
    for each in later:
        assert (each.allowed, each.reason, each.from_number) == (True, Reason.STICKY, A)
        assert (each.status, each.health, each.retry_after) == (LineStatus.ACTIVE, Health.HEALTHY, None)
        assert (each.new_conversation, each.previous_from_number, each.wait) == (False, None, 0.0)
    assert len({each.decision_id for each in later}) == 5
    assert guard.decide(ANN).allowed
    assert len(lent) == 5, "it is used up, and the store lends anew"
    assert held(guard, ANN) == 5


@pytest.mark.usefixtures("teller")
def test_at_most_a_quarter_of_what_each_limit_has_left_is_lent(lender: NewGuard) -> None:
    for i, (policy, most) in enumerate(
        [
            (Policy(pair=Quota(30, per=60)), 7),
            (Policy(pair=None, daily_volume=Quota(30, per=60)), 6),
            (Policy(pair=None, healthy=TokenBucket(1, per=60, burst=50)), 12),
            (Policy(pair=None), 32),
        ]
    ):
        guard = lender(policy=policy)
        assert borrow(guard, f"+1415555030{i}") == most
        guard.close()


@pytest.mark.usefixtures("teller")
def test_no_more_than_a_quarter_of_a_line_is_out_at_once(lender: NewGuard) -> None:
    guard = listening(lender(policy=Policy(pair=None, healthy=TokenBucket(1, per=60, burst=50))))
    for i in range(8):
        to = f"+1415555040{i}"
        assert guard.decide(to).allowed
        assert guard.decide(to).allowed
        assert held(guard) <= 12
    assert held(guard) == 12


@pytest.mark.usefixtures("teller")
def test_nothing_is_lent_where_less_than_four_are_left(lender: NewGuard) -> None:
    guard = listening(lender(policy=Policy(pair=Quota(5, per=60))))
    lent = watch(guard)
    assert [guard.decide(ANN).allowed for _ in range(7)] == [True] * 5 + [False] * 2
    assert lent == []


def test_what_is_lent_counts_for_everybody_at_once(lender: NewGuard, teller: SendGuard, clock: ManualClock) -> None:
    """Law 3: one pair, two borrowers and another, to the unit."""
    policy = Policy(pair=Quota(30, per=60))
    one, two, plain = (lender(policy=policy, **more) for more in ({}, {}, {"lease": None}))
    for guard in (one, two):
        borrow(guard, ANN)
    assert held(one) == 7
    assert held(two) == 5
    assert volume(teller) == 3 + 7 + 5
    allowed = 3
    for guard in (plain, one, two):
        while guard.decide(ANN).allowed:
            allowed += 1
    assert allowed == 30
    clock.advance(59)
    assert not any(guard.decide(ANN).allowed for guard in (plain, one, two))


def test_a_conversation_stays_on_its_line_and_only_that_is_decided_in_memory(
    lender: NewGuard, teller: SendGuard
) -> None:
    teller.observe(B, status="ACTIVE", health="HEALTHY")
    guard = lender()
    borrow(guard, ANN)
    home = guard.decide(ANN).from_number
    other = B if home == A else A
    lent = watch(guard)
    assert guard.decide(ANN, from_number=other).from_number == other
    assert guard.decide(BOB).reason is Reason.NEW_CONVERSATION
    assert guard.decide((ANN, BOB)).reason is Reason.NEW_CONVERSATION
    assert lent == []
    asked = guard.decide(ANN, from_number=home)
    memo = guard.decide(ANN, kind="voice_memo", exclude=[str(home)])
    assert (asked.reason, asked.from_number) == (Reason.REQUESTED, home)
    assert (memo.reason, memo.from_number) == (Reason.STICKY, home)
    assert lent == [asked, memo]


@pytest.mark.usefixtures("teller")
def test_a_send_into_a_chat_is_decided_in_memory_on_its_line(lender: NewGuard) -> None:
    guard = lender()
    borrow(guard, ANN)
    lent = watch(guard)
    conversation = guard._flows.protocol.conversation(Request.of(ANN, "chat", None, (), None, None))
    chat = Chat(A, conversation, False)
    request = Request.in_chat(chat, kind=Request.of(ANN, "chat", None, (), None, None).kind, idempotency_key=None,
                              override_optout=False)  # fmt: skip
    decision = guard._drive(guard._flows.decide(request))
    assert (decision.reason, decision.from_number) == (Reason.REQUESTED, A)
    assert lent == [decision]


def test_law_8_one_key_pays_once_among_borrowers_and_is_never_decided_in_memory(
    lender: NewGuard, teller: SendGuard
) -> None:
    one, two = lender(policy=LOOSE), lender(policy=LOOSE)
    for guard in (one, two):
        borrow(guard, ANN)
    before = volume(teller)
    lent = [watch(one), watch(two)]
    answers = {guard.decide(ANN, idempotency_key="job-1") for guard in (one, two, one, two)}
    assert len(answers) == 1
    assert lent == [[], []]
    assert volume(teller) == before + 1
    one.report(answers.pop(), "not_sent")
    assert volume(teller) == before


def test_threads_never_use_more_than_was_lent(lender: NewGuard, teller: SendGuard) -> None:
    guard = listening(lender(policy=Policy(pair=Quota(400, per=600)), lease=Lease(ttl=30.0, sends=9)))
    lent = watch(guard)

    def send(_: int) -> int:
        return sum(guard.decide(ANN).allowed for _ in range(100))

    with ThreadPoolExecutor(8) as threads:
        allowed = sum(threads.map(send, range(8)))
    guard.close()
    assert len(lent) > 200
    assert 200 < allowed <= 400, "law 3"
    assert volume(teller) == allowed, "what counts is what was let go, neither more nor less"


# Calling back --------------------------------------------------------------------------------------------------------

Act = Callable[[SendGuard, Decision, float], Any]


def _stop(guard: SendGuard, _: Decision, at: float) -> None:
    guard.handle_webhook(*inbound_webhook(A, ANN, "STOP", "stop", at))


WORSE: dict[str, tuple[Act, Reason | None]] = {
    "flagged": (lambda guard, _, at: signed(guard, A, "FLAGGED", "flag", at), Reason.FLAGGED),
    "pause": (lambda guard, _, __: guard.pause(A), Reason.PAUSED),
    "pause until": (lambda guard, _, at: guard.pause(A, until=at + 60), Reason.PAUSED),
    "2027": (lambda guard, decision, _: guard.report(decision, Outcome(code=2027)), Reason.COOLING_DOWN),
    "4002": (lambda guard, decision, _: guard.report(decision, Outcome(code=4002)), Reason.COOLING_DOWN),
    "2006": (lambda guard, decision, _: guard.report(decision, Outcome(code=2006)), Reason.NO_LINES),
    "at risk": (lambda guard, _, __: guard.observe(A, health="AT_RISK"), None),
    "critical": (lambda guard, _, __: guard.observe(A, health="CRITICAL"), Reason.THROTTLED),
    "stop": (_stop, Reason.OPTED_OUT),
    "2024": (lambda guard, decision, _: guard.report(decision, Outcome(code=2024)), Reason.OPTED_OUT),
    "1007": (
        lambda guard, decision, _: guard.report(decision, Outcome(sent=False, code=1007, retry_after=50.0)),
        Reason.PAIR,
    ),
}


REPORTED = ("2027", "4002", "2006", "2024", "1007")
"""What a sender reports is called back as soon, but the sender does not wait for it."""


@pytest.mark.parametrize("what", WORSE)
@pytest.mark.parametrize("by", ["another", "a borrower"])
@pytest.mark.usefixtures("teller")
def test_what_is_told_calls_back_what_is_lent_before_it_is_acknowledged(
    lender: NewGuard, clock: ManualClock, what: str, by: str
) -> None:
    policy = Policy(on_flagged="hold", critical=TokenBucket(0, per=60))
    act, reason = WORSE[what]
    guards = [lender(policy=policy), lender(policy=policy)]
    for guard in guards:
        borrow(guard, ANN)
    decision = guards[0].decide(ANN)
    lent = [watch(guard) for guard in guards]
    clock.advance(1)
    begun = time.monotonic()
    actor = lender(policy=policy, lease=None) if by == "another" else guards[0]
    act(actor, decision, clock())
    if what in REPORTED:
        wait_until(lambda: not any(held(guard, ANN) for guard in guards), SOON)
    assert [held(guard, ANN) for guard in guards] == [0, 0]
    assert time.monotonic() - begun < SOON, "they said that they hold nothing; nobody waited for a loan to run out"
    for guard in guards:
        after = guard.decide(ANN)
        assert (after.allowed, after.reason) == ((True, Reason.STICKY) if reason is None else (False, reason))
    assert lent == [[], []]


@pytest.mark.parametrize("what", ["flagged", "pause", "stop"])
@pytest.mark.usefixtures("teller")
def test_who_tells_the_same_again_waits_as_long(lender: NewGuard, clock: ManualClock, what: str) -> None:
    """Of an event that is delivered twice, neither is acknowledged before nobody can use what was lent."""
    guard = lender(policy=LOOSE)
    borrow(guard, ANN)
    decision = guard.decide(ANN)
    go_on = hold_listener(guard)
    clock.advance(1)
    act, _ = WORSE[what]
    returned = [threading.Event(), threading.Event()]
    threads = []
    for done in returned:
        actor = lender(lease=None)

        def tell(actor: SendGuard = actor, done: threading.Event = done) -> None:
            act(actor, decision, clock())
            done.set()

        threads.append(threading.Thread(target=tell))
        threads[-1].start()
        assert not done.wait(0.2), "acknowledged while a process holds what was lent"
    assert held(guard, ANN) > 0
    go_on()
    for done, thread in zip(returned, threads, strict=True):
        assert done.wait(SOON)
        thread.join()
    assert held(guard, ANN) == 0


def test_an_acknowledgement_waits_for_what_was_asked_for_and_has_not_come(
    lender: NewGuard, teller: SendGuard, clock: ManualClock
) -> None:
    """A loan that is on its way while it is called back is not used when it comes."""
    guard = listening(lender(policy=LOOSE))
    assert guard.decide(ANN).allowed
    came, go_on = threading.Event(), threading.Event()
    run = guard._store.run

    def late(call: Any, expires: float | None = None) -> Any:
        reply = run(call, expires)
        if getattr(call, "script", None) is scripts.DECIDE:
            came.set()
            assert go_on.wait(20)
        return reply

    guard._store.run = late  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        decision = threads.submit(guard.decide, ANN)
        assert came.wait(20)
        clock.advance(1)
        begun = time.monotonic()
        signed(teller, A, "FLAGGED", "flag", clock())
        assert time.monotonic() - begun < SOON
        go_on.set()
        assert decision.result(20).allowed, "that one was decided before"
    assert held(guard) == 0
    assert guard.decide(ANN).reason is Reason.FLAGGED


@pytest.mark.usefixtures("teller")
def test_law_1_a_late_answer_to_one_call_does_not_answer_the_next(lender: NewGuard, clock: ManualClock) -> None:
    """What a process says may arrive after it was given up, when more was lent and called back again."""
    guard = lender(policy=LOOSE)
    borrow(guard, ANN)
    hold_listener(guard)
    loans, lending = loans_of(guard), guard._flows.lending
    assert lending is not None
    loans.call_back([A])
    late = lending.calls.give_back(loans.process, _back(loans, clock()), clock())
    assert guard.decide(ANN).allowed
    assert held(guard, ANN) > 0
    guard._drive(guard._flows.run(late))
    assert loans.process in str(raw_client(guard).hget(guard._flows.protocol.key("lines"), A))


def test_law_1_a_line_that_rests_after_it_became_known_is_not_flagged_at_once(store_url: str, pool: str) -> None:
    """A store that forgot the line has forgotten who had borrowed; the rest says nothing of that."""
    with SendGuard(store_url, pool=pool, lease=Lease(ttl=1.0), webhook_secret=SECRET, timeout=5.0) as guard:
        guard.handle_webhook(*status_webhook(A, "ACTIVE", "known", time.time() - 10))
        (line,) = guard.lines()
        assert line.cooling_down_until is not None
        begun = time.monotonic()
        guard.handle_webhook(*status_webhook(A, "FLAGGED", "flag"))
        assert time.monotonic() - begun > 0.5


def test_nothing_is_lent_to_a_process_that_has_not_answered(
    lender: NewGuard, teller: SendGuard, clock: ManualClock
) -> None:
    """Its answer, when it comes, would be taken for one about the new loan, too."""
    guard = lender(policy=LOOSE)
    borrow(guard, ANN)
    guard.decide(BOB)
    go_on = hold_listener(guard)
    clock.advance(1)
    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(teller.observe, A, health="AT_RISK")
        wait_until(lambda: teller.lines()[0].health is Health.AT_RISK)
        assert guard.decide(BOB).from_number == A
        assert held(guard, BOB) == 0
        go_on()
        told.result(20)
    clock.advance(60)
    assert borrow(guard, BOB) > 0


def test_what_is_given_back_is_told_once_the_loans_are_there(loans: Loans) -> None:
    _lend(loans)
    loans.call_back([A])
    assert [number for number, _ in loans.returned(None).lines] == [A]
    loans.call_back([A])
    assert loans.returned(None).lines == (), "loans of it are under way"
    loans.carried()
    loans.carried()
    assert [number for number, _ in _back(loans, None).lines] == [A]


def test_what_is_unused_comes_back_though_the_listener_answers_first(lender: NewGuard, teller: SendGuard) -> None:
    """A guard tells of a line that it borrows of itself; what its caller and its listener say may cross."""
    guard = lender(policy=LOOSE)
    borrow(guard, ANN)
    begun, answered = threading.Event(), threading.Event()
    own, run = threading.current_thread(), guard._store.run

    def crossed(call: Any, expires: float | None = None) -> Any:
        gives_back = getattr(call, "script", None) is scripts.GIVE_BACK
        if threading.current_thread() is not own:
            begun.wait(2)  # as if what it is told came late
        elif gives_back:
            begun.set()
            answered.wait(1)
        reply = run(call) if gives_back else run(call, expires)
        if gives_back and threading.current_thread() is not own:
            answered.set()
        return reply

    guard._store.run = crossed  # type: ignore[method-assign]
    guard.pause(A)
    assert held(guard) == 0
    wait_until(lambda: loans_of(guard)._over == [])
    assert volume(teller) == 2


# Giving back ---------------------------------------------------------------------------------------------------------


def test_what_is_not_used_comes_back_when_it_has_run_out(
    lender: NewGuard, teller: SendGuard, clock: ManualClock, store_url: str, pool: str
) -> None:
    policy = Policy(pair=Quota(30, per=3600))
    guard, other = lender(policy=policy), lender(policy=policy, lease=None)
    assert borrow(guard, ANN) == 7
    assert all(guard.decide(ANN).allowed for _ in range(3))
    assert volume(teller) == 2 + 7
    lent = watch(guard)
    clock.advance(30.1)
    wait_until(lambda: volume(teller) == 5)
    assert not has_lent(store_url, pool)
    assert sum(other.decide(ANN).allowed for _ in range(40)) == 30 - 5, "so does what it took of the pair"
    assert lent == []


@pytest.mark.usefixtures("teller")
def test_close_gives_all_back_at_once(lender: NewGuard, store_url: str, pool: str) -> None:
    policy = Policy(healthy=TokenBucket(1, per=60, burst=42), pair=Quota(60, per=3600))
    guard, other = lender(policy=policy), lender(policy=policy, lease=None)
    assert borrow(guard, ANN) == 10
    assert all(guard.decide(ANN).allowed for _ in range(4))
    assert (volume(other), other.lines()[0].tokens) == (2 + 10, 42 - 2 - 10)
    guard.close()
    assert (volume(other), other.lines()[0].tokens) == (2 + 4, 42 - 2 - 4)
    assert not has_lent(store_url, pool)
    assert sum(other.decide(ANN).allowed for _ in range(60)) == 42 - 6


def test_a_used_up_loan_is_settled(lender: NewGuard, teller: SendGuard, store_url: str, pool: str) -> None:
    guard = lender(policy=Policy(healthy=TokenBucket(1, per=60, burst=42)))
    count = borrow(guard, ANN)
    assert all(guard.decide(ANN).allowed for _ in range(count))
    wait_until(lambda: not has_lent(store_url, pool))
    assert (volume(teller), teller.lines()[0].daily_volume) == (2 + count, 2 + count)
    assert guard.lines()[0].tokens == 42 - 2 - count


@pytest.mark.usefixtures("teller")
def test_law_6_who_is_denied_for_what_others_hold_is_told_when_it_is_over(lender: NewGuard, clock: ManualClock) -> None:
    policy = Policy(healthy=TokenBucket(1, per=10, burst=9), pair=None)
    guard, other = lender(policy=policy), lender(policy=policy, lease=None)
    assert borrow(guard, ANN) == 1
    hold_listener(guard)
    decisions = [other.decide(BOB) for _ in range(9)]
    assert [each.allowed for each in decisions] == [True] * 6 + [False] * 3
    assert decisions[-1].reason is Reason.THROTTLED
    assert decisions[-1].retry_after is not None
    clock.advance(decisions[-1].retry_after)
    assert other.decide(BOB).allowed


# The record ----------------------------------------------------------------------------------------------------------


def test_the_record_tells_of_what_was_decided_in_memory(
    lender: NewGuard, teller: SendGuard, clock: ManualClock
) -> None:
    guard = lender(policy=LOOSE)
    borrow(guard, ANN)
    decision, asked = guard.decide(ANN), guard.decide(ANN, kind="voice_memo", from_number=A)
    wait_until(lambda: [r for r in teller.decisions() if r.decision_id == asked.decision_id])
    (record,) = (r for r in teller.decisions() if r.decision_id == decision.decision_id)
    assert (record.remembered, record.reason, record.from_number) == ("lent", Reason.STICKY, A)
    assert (record.allowed, record.kind, record.health) == (True, "chat", Health.HEALTHY)
    assert [each.number for each in record.considered] == [A]
    assert abs(record.decided_at - clock()) < 5
    explained = teller.explain(asked.decision_id)
    assert [(r.remembered, r.reason, r.kind) for r in explained.records] == [("lent", Reason.REQUESTED, "voice_memo")]


def test_a_guard_that_records_nothing_does_not_record_these(lender: NewGuard, teller: SendGuard) -> None:
    guard = lender(policy=LOOSE, record_decisions=False)
    count = borrow(guard, ANN)
    assert all(guard.decide(ANN).allowed for _ in range(count))
    guard.close()
    assert teller.decisions() == ()


def test_a_send_decided_in_memory_that_did_not_go_is_counted_no_more(lender: NewGuard, teller: SendGuard) -> None:
    policy = Policy(pair=Quota(30, per=3600))
    guard, other = lender(policy=policy), lender(policy=policy, lease=None)
    count = borrow(guard, ANN)
    lent = watch(guard)
    decisions = [guard.decide(ANN) for _ in range(count)]
    assert lent == decisions
    for decision in decisions[:3]:
        other.report(decision, "not_sent")
        other.report(decision, "not_sent")
    guard.close()
    assert volume(teller) == 2 + count - 3
    assert sum(other.decide(ANN).allowed for _ in range(40)) == 30 - (2 + count - 3)


# Forks, tasks and stores that fail -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("teller")
def test_a_forked_process_uses_nothing_of_its_parents(lender: NewGuard) -> None:
    guard = lender(policy=LOOSE)
    count = borrow(guard, ANN)
    name = loans_of(guard).process
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (held(guard), loans_of(guard).process, loans_of(guard).hears)
            decision = guard.decide(ANN)
            borrowed = borrow(guard, ANN)
            there.send((answer, decision.allowed, borrowed > 0))
        finally:
            os._exit(0)
    assert here.poll(20)
    (held_there, name_there, heard_there), allowed, borrowed = here.recv()
    os.waitpid(pid, 0)
    assert (held_there, heard_there, allowed, borrowed) == (0, False, True, True)
    assert name_there != name
    assert held(guard, ANN) == count


def test_async_guards_do_as_the_others(store_url: str, pool: str) -> None:
    """Above all when one of them tells of a line that it borrows of itself: it does not wait for its own loan."""
    lease = Lease(ttl=30.0)
    options: dict[str, Any] = {"pool": pool, "policy": LOOSE, "timeout": 10, "webhook_secret": SECRET}

    async def run() -> None:
        async with AsyncSendGuard(store_url, **options) as plain:
            await plain.observe(A, status="ACTIVE", health="HEALTHY", observed_at=time.time() - 10)
        async with AsyncSendGuard(store_url, lease=lease, **options) as one:
            two = AsyncSendGuard(store_url, lease=lease, **options)
            for i, teller in enumerate((one, two)):
                for guard in (one, two):
                    await borrow_async(guard, ANN)
                lent = [watch(guard) for guard in (one, two)]
                assert (await one.decide(ANN)).allowed
                assert len(lent[0]) == 1
                begun = time.monotonic()
                await teller.handle_webhook(*status_webhook(A, "FLAGGED", f"flag-{i}", time.time() + 0.01))
                assert [held(guard) for guard in (one, two)] == [0, 0]
                assert time.monotonic() - begun < SOON
                assert (await one.decide(ANN)).reason is Reason.FLAGGED
                await teller.observe(A, status="ACTIVE")
            count = await borrow_async(two, ANN)
            before = (await one.lines())[0].daily_volume
            await two.close()
            after = (await one.lines())[0].daily_volume
            assert before - after >= count

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.fixture
def alone(server: Server) -> Iterator[SendGuard]:
    """A guard that borrows plenty, on a store of its own."""
    with SendGuard(server.url, policy=LOOSE, timeout=0.25, lease=Lease(ttl=4.0, sends=10_000)) as guard:
        guard.observe(A, status="ACTIVE", health="HEALTHY")
        yield guard


def test_loans_end_soon_where_the_store_is_lost(server: Server, alone: SendGuard) -> None:
    borrow(alone, ANN)
    server.kill()
    wait_until(lambda: held(alone) == 0, 2)
    assert alone.decide(ANN).reason is Reason.STORE_UNAVAILABLE
    server.start()
    wait_until(lambda: loans_of(alone).hears and alone.decide(ANN).reason is not Reason.STORE_UNAVAILABLE)
    alone.observe(A, status="ACTIVE", health="HEALTHY")
    alone.resume(A)
    wait_until(lambda: alone.decide(BOB).allowed)
    assert borrow(alone, BOB) > 0


def test_a_store_that_stands_still_hangs_nobody_and_its_loans_end(server: Server, alone: SendGuard) -> None:
    borrow(alone, ANN)
    server.pause()
    begun, slowest = time.monotonic(), 0.0
    while True:
        asked = time.monotonic()
        decision = alone.decide(ANN)
        slowest = max(slowest, time.monotonic() - asked)
        if not decision.allowed:
            break
        time.sleep(0.001)
    assert decision.reason is Reason.STORE_UNAVAILABLE
    assert time.monotonic() - begun < 2.5, "before the loan's time, as nothing would be heard"
    assert slowest < 0.25 + 0.5, "law 9"
    assert held(alone) == 0


@pytest.mark.usefixtures("teller")
def test_a_loan_is_used_no_longer_than_its_time_though_the_clock_of_the_guard_stands(lender: NewGuard) -> None:
    guard = lender(policy=LOOSE, lease=Lease(ttl=0.3, sends=10_000))
    borrow(guard, ANN)
    hold_listener(guard)
    lent = watch(guard)
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        seen = len(lent)
        asked = time.monotonic()
        guard.decide(ANN)
        if len(lent) > seen:
            assert asked - begun < 0.3
        else:
            break
    assert time.monotonic() - begun < 0.5


# Off by default, and what is refused ---------------------------------------------------------------------------------


def test_off_by_default(new_guard: NewGuard) -> None:
    before = set(threading.enumerate())
    guard = new_guard(refresh=1.0)
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    ran = list[str]()
    run = guard._store.run

    def watched(call: Any, *rest: Any) -> Any:
        ran.append(call.script.name if hasattr(call, "script") else call.args[0])
        return run(call, *rest)

    guard._store.run = watched  # type: ignore[method-assign]
    assert all(guard.decide(ANN).allowed for _ in range(5))
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert "sendguard-lender" not in started
    assert guard._flows.lending is None
    assert guard._flows.protocol.decide(
        Request.of(ANN, "chat", None, (), None, None), max_wait=0, waiter=False, now=NOW
    ).script is scripts.DECIDE  # fmt: skip
    assert ran.count("decide") == 5
    assert "XREAD" not in ran


def test_the_embedded_store_lends_nothing(pool: str) -> None:
    with SendGuard("memory://", pool=pool, lease=Lease()) as guard:
        guard.observe(A, status="ACTIVE", health="HEALTHY")
        assert guard._flows.lending is None
        assert all(guard.decide(ANN).allowed for _ in range(5))
        assert {record.remembered for record in guard.decisions()} == {None}


@pytest.mark.parametrize(
    ("field", "value"),
    [("ttl", value) for value in (0, -1, 0.05, 61, True, "2", None, float("nan"), float("inf"))]
    + [("sends", value) for value in (0, -1, True, 1.5, "3", None, 10_001)],
)
def test_a_lease_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        Lease(**{field: value})


@pytest.mark.parametrize("kind", [SendGuard, AsyncSendGuard])
def test_what_is_no_lease_is_refused_by_name(kind: Any) -> None:
    for wrong in ("x", 2.0, True, {"ttl": 2}):
        with pytest.raises(ValueError, match="lease must be"):
            kind("memory://", lease=wrong)


def test_the_lease_of_the_environment(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> None:
    monkeypatch.setenv("SENDGUARD_STORE", valkey.url)
    monkeypatch.setenv("SENDGUARD_LEASE_TTL", "1.5")
    guard = SendGuard.from_env()
    assert guard._flows.lending is not None
    assert guard._flows.protocol._span == "1500000"
    monkeypatch.setenv("SENDGUARD_LEASE_TTL", "")
    assert SendGuard.from_env()._flows.lending is None
    for wrong in ("soon", "0", "-1", "nan", "1e9"):
        monkeypatch.setenv("SENDGUARD_LEASE_TTL", wrong)
        with pytest.raises(ValueError, match=r"SENDGUARD_LEASE_TTL|^ttl"):
            SendGuard.from_env()


@pytest.mark.usefixtures("teller")
def test_no_text_of_a_guard_tells_what_it_holds(lender: NewGuard) -> None:
    guard = lender(policy=LOOSE, hash_key="a secret of the fleet")
    borrow(guard, ANN)
    loans = loans_of(guard)
    for text in (repr(guard), str(guard), repr(loans), repr(guard._flows.lending), *map(repr, loans._loans.values())):
        for secret in (ANN, "a secret", SECRET, loans.process):
            assert secret not in text


# Loans alone ---------------------------------------------------------------------------------------------------------


def _decided(number: str = A, letter: str = "a") -> Decision:
    return Decision(
        True, Reason.STICKY, number, status=LineStatus.ACTIVE, health=Health.HEALTHY, decision_id=letter * 24
    )


def _request(**options: Any) -> Request:
    return Request.of(ANN, "chat", options.get("from_number"), (), None, options.get("key"))


@pytest.fixture
def loans() -> Loans:
    made = Loans(30.0, record=True)
    made.heard(running_time())
    return made


def _back(loans: Loans, now: float | None) -> Returned:
    """What goes back, and arrives."""
    back = loans.returned(now)
    loans.carried()
    return back


def _lend(loans: Loans, conversation: str = "c", *, asked: Asked | None = None, letter: str = "a", n: int = 5) -> None:
    asked = asked or loans.asks(_request(), None)
    assert asked is not None
    loans.take(_decided(letter=letter), conversation, f"{n},{n},{int((NOW + 30) * 1e6)}", asked)


def test_loans_are_counted_down_to_nothing_and_no_further(loans: Loans) -> None:
    _lend(loans, n=3)
    assert [loans.decide(_request(), "c", None) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    assert loans._loans["c"].left == 0
    back = _back(loans, None)
    assert [(loan.left, loan.tokens) for loan in back.loans] == [(0, 3)]
    assert [number for number, _ in back.lines] == [A]
    assert len(back.sent) == 3
    assert _back(loans, None) == ((), [], [])


def test_loans_are_of_one_conversation_one_line_and_no_key(loans: Loans) -> None:
    _lend(loans)
    assert loans.decide(_request(), "d", None) is None
    assert loans.decide(_request(from_number=B), "c", None) is None
    assert loans.decide(_request(key="k"), "c", None) is None
    assert loans.asks(_request(key="k"), None) is None
    assert loans.decide(_request(from_number=A), "c", None) is not None


def test_nothing_is_borrowed_while_nothing_is_heard() -> None:
    loans = Loans(30.0, record=True)
    assert loans.asks(_request(), None) is None


@pytest.mark.parametrize("between", ["called back", "deaf", "deaf and hearing again", "given back"])
def test_a_loan_is_not_used_that_was_called_back_on_its_way(loans: Loans, between: str) -> None:
    asked = loans.asks(_request(), None)
    assert asked is not None
    if between == "called back":
        loans.call_back([A])
    elif between == "given back":
        _lend(loans, "d", asked=asked, n=1)
        assert loans.decide(_request(), "d", None) is not None
        assert _back(loans, None).lines
    else:
        loans.deafen()
        if between == "deaf and hearing again":
            loans.heard(running_time())
    _lend(loans, asked=asked, letter="b")
    assert loans.decide(_request(), "c", None) is None
    back = _back(loans, None)
    if "deaf" in between:
        assert back.loans == [], "the store may have forgotten it: it counts as sent"
    else:
        assert [(loan.conversation, loan.left, loan.tokens) for loan in back.loans] == [("c", 5, 5)]
        assert dict(back.lines)[A] > asked.turn


def test_a_line_called_back_leaves_the_others(loans: Loans) -> None:
    asked = loans.asks(_request(), None)
    assert asked is not None
    loans.call_back([B])
    _lend(loans, asked=asked)
    assert loans.decide(_request(), "c", None) is not None
    back = _back(loans, None)
    assert [number for number, _ in back.lines] == [B]
    assert loans.decide(_request(), "c", None) is not None


def test_a_line_is_given_back_once_nothing_of_it_is_held(loans: Loans) -> None:
    _lend(loans, "c", letter="a", n=1)
    _lend(loans, "d", letter="b", n=1)
    assert loans.decide(_request(), "c", None) is not None
    back = _back(loans, None)
    assert back.lines == (), "of the line something is held"
    assert [loan.conversation for loan in back.loans] == ["c"]
    assert loans.decide(_request(), "d", None) is not None
    asked = loans.asks(_request(), None)
    assert asked is not None
    ((number, turn),) = _back(loans, None).lines
    assert number == A
    assert turn > asked.turn, "what was asked for before is not taken in any more"
    again = loans.asks(_request(), None)
    assert again is not None
    assert again.turn >= turn, "and what is asked for now is not meant by it"


def test_two_answers_that_overtake_each_other_lose_nothing(loans: Loans) -> None:
    first, second = (loans.asks(_request(), None) for _ in range(2))
    assert first is not None
    assert second is not None
    _lend(loans, asked=second, letter="b", n=4)
    assert loans.decide(_request(), "c", None) is not None
    _lend(loans, asked=first, letter="a", n=6)
    used = 1
    while loans.decide(_request(), "c", None) is not None:
        used += 1
    back = _back(loans, None)
    assert used + sum(loan.left for loan in back.loans) == 4 + 6
    assert sum(loan.tokens for loan in back.loans) == 4 + 6
    assert all(loan.left >= 0 for loan in back.loans)


@pytest.mark.parametrize("by", ["the clock of the machine", "the clock of the guard"])
def test_a_loan_ends_before_the_store_has_it_end(loans: Loans, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    at = [running_time(), NOW]
    monkeypatch.setattr("sendguard.loans.running_time", lambda: at[0])
    asked = loans.asks(_request(), at[1])
    _lend(loans, asked=asked)
    which = 0 if by == "the clock of the machine" else 1
    at[which] += 29.0
    loans.heard(at[0])
    assert loans.decide(_request(), "c", at[1]) is not None
    at[which] += 0.99
    loans.heard(at[0])
    assert loans.decide(_request(), "c", at[1]) is None
    back = _back(loans, at[1])
    assert [loan.left for loan in back.loans] == [4]


def test_a_forgotten_process_has_another_name_and_nothing_else(loans: Loans) -> None:
    name = loans.process
    _lend(loans)
    loans.call_back([B])
    loans.forget()
    assert loans.process != name
    assert not loans.hears
    loans.close()
    assert _back(loans, None) == ((), [], [])
