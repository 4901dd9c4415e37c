"""The laws with leases, where several borrow: processes that are flagged, stopped and killed, and guards at random."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from sendguard import Decision, Lease, Outcome, Policy, Quota, Reason, SendGuard, TokenBucket
from sendguard.steps import Step, Wait
from sendguard.store.scripts import Command
from tests.borrowers import (
    LOOSE,
    NOW,
    borrow,
    borrower,
    hammers,
    held,
    hold_listener,
    inbound_webhook,
    signed,
    status_webhook,
    watch,
)
from tests.support import SECRET, ManualClock, wait_until

A, B = "+12025550101", "+12025550102"
ANN, BOB = "+14155550123", "+14155550124"
STORES = pytest.mark.parametrize("server_name", ["valkey", "redis_server"])


@pytest.fixture
def url(request: pytest.FixtureRequest, server_name: str) -> str:
    return str(request.getfixturevalue(server_name).url)


def lent_until(url: str, pool: str, number: str) -> list[float]:
    """When what is lent of a line has run out, for each process, by the store's record."""
    import redis

    with redis.Redis.from_url(url) as client:
        record = client.hget(f"sendguard:{{{pool}}}:lines", number)
    assert isinstance(record, bytes)
    if not record[:1].isupper():
        return []
    entries = record[22:].split(b"!")[0].split(b";")[:-1]
    return [int(entry.split(b",")[3]) / 1e6 for entry in entries]


# Law 1, processes ----------------------------------------------------------------------------------------------------


@STORES
@pytest.mark.parametrize("kinds", ["sss", "sa"])
def test_law_1_no_borrower_sends_after_the_flag_is_acknowledged(url: str, pool: str, kinds: str) -> None:
    """Borrowers send as fast as they can, while a line is flagged and cleared over and over."""
    rounds, flagged = 12, list[tuple[float, float]]()
    with (
        SendGuard(url, pool=pool, policy=LOOSE, webhook_secret=SECRET, timeout=10) as teller,
        hammers(url, pool, 20.0, ANN, kinds) as processes,
    ):
        teller.observe(A, status="ACTIVE", health="HEALTHY", observed_at=time.time() - 10)
        for i in range(rounds):
            before = [each.allowed.value for each in processes]
            wait_until(lambda b=before: all(p.allowed.value > n + 100 for p, n in zip(processes, b, strict=True)))
            acknowledged = signed(teller, A, "FLAGGED", f"flag-{i}")
            denied = [each.denied.value for each in processes]
            wait_until(lambda d=denied: all(p.denied.value > n + 2 for p, n in zip(processes, d, strict=True)))
            flagged.append((acknowledged, time.monotonic()))
            signed(teller, A, "ACTIVE", f"clear-{i}")
        sent = [each.ended() for each in processes]
    for each in sent:
        wrong = [
            (asked - since, knew - since)
            for asked, knew in each.times
            for since, until in flagged
            if asked > since and knew < until
        ]
        assert not wrong, "law 1"
        assert each.lent > len(each.times) / 2, "most were decided in memory"
        assert len(each.times) > rounds * 100


@STORES
def test_law_1_a_process_that_stands_still_has_its_loan_run_out_first(url: str, pool: str) -> None:
    """Who flags its line waits for that, and no longer; so does who is told of the same event again meanwhile."""
    ttl, returned = 1.5, list[float]()
    with SendGuard(url, pool=pool, policy=LOOSE, webhook_secret=SECRET, timeout=10) as teller:
        teller.observe(A, status="ACTIVE", health="HEALTHY", observed_at=time.time() - 10)
        with borrower(url, pool, policy=LOOSE, lease=Lease(ttl=ttl)) as process:
            assert process.do("borrow", ANN) > 1
            process.stand_still()
            (ends,) = lent_until(url, pool, A)
            body, headers = status_webhook(A, "FLAGGED", "flag")
            begun = time.monotonic()

            def tell() -> None:
                teller.handle_webhook(body, headers)
                returned.append(time.time())

            first = threading.Thread(target=tell)
            first.start()
            wait_until(lambda: any(line.status.value == "FLAGGED" for line in teller.lines()))
            tell()
            first.join()
            assert time.monotonic() - begun < ttl + 1
            assert all(at >= ends - 0.02 for at in returned), "acknowledged before the loan ran out"
            process.ask("decide", ANN)
            process.go_on()
            decision, lent = process.answer()
            assert (decision.reason, lent) == (Reason.FLAGGED, False)
            begun = time.monotonic()
            teller.observe(A, status="ACTIVE")
            teller.observe(A, status="FLAGGED")
            assert time.monotonic() - begun < ttl / 2, "nothing is lent any more"


@STORES
def test_law_1_a_guard_whose_listener_does_not_run_may_send_until_the_acknowledgement(url: str, pool: str) -> None:
    lease, acknowledged = Lease(ttl=1.0, sends=10_000), list[float]()
    with (
        SendGuard(url, pool=pool, policy=LOOSE, webhook_secret=SECRET, timeout=10) as teller,
        SendGuard(url, pool=pool, policy=LOOSE, lease=lease, timeout=10) as guard,
    ):
        teller.observe(A, status="ACTIVE", health="HEALTHY", observed_at=time.time() - 10)
        lent = watch(guard)
        borrow(guard, ANN)
        go_on = hold_listener(guard)
        begun = time.monotonic()
        thread = threading.Thread(target=lambda: acknowledged.append(signed(teller, A, "FLAGGED", "flag")))
        thread.start()
        times = list[float]()
        while not acknowledged:
            asked = time.monotonic()
            if guard.decide(ANN).allowed:
                times.append(asked)
            time.sleep(0.001)
        thread.join()
        assert len(lent) > 10, "it went on in memory, as it did not hear"
        assert max(times) < acknowledged[0], "law 1"
        assert 0.5 < acknowledged[0] - begun < 2.0
        assert guard.decide(ANN).reason is Reason.FLAGGED
        go_on()


@STORES
def test_a_killed_borrower_costs_others_what_it_held_and_no_longer_than_its_time(url: str, pool: str) -> None:
    clock, ttl = ManualClock(NOW), 30.0
    policy = Policy(healthy=TokenBucket(60, per=60, burst=21), pair=None)
    with SendGuard(url, pool=pool, policy=policy, clock=clock, timeout=10, webhook_secret=SECRET) as other:
        other.observe(A, status="ACTIVE", health="HEALTHY")
        with borrower(url, pool, now=NOW, policy=policy, lease=Lease(ttl=ttl)) as process:
            count = process.do("borrow", ANN)
            process.die()
        (line,) = other.lines()
        assert count == 4
        assert line.daily_volume == 2 + count, "what was lent counts as sent: it may have been"
        assert line.tokens == 21 - 2 - count
        clock.advance(ttl - 1)
        assert other.lines()[0].tokens == 21 - count, "they are kept aside"
        clock.advance(1 + count)
        (line,) = other.lines()
        assert (line.tokens, line.daily_volume) == (21, 2 + count)
        begun = time.monotonic()
        signed(other, A, "FLAGGED", "late", clock())
        assert time.monotonic() - begun < 1, "nobody holds anything any more"


def test_law_1_a_killed_borrower_delays_the_flag_until_its_time_is_over(valkey: Any, pool: str) -> None:
    with SendGuard(valkey.url, pool=pool, policy=LOOSE, webhook_secret=SECRET, timeout=10) as teller:
        teller.observe(A, status="ACTIVE", health="HEALTHY", observed_at=time.time() - 10)
        with borrower(valkey.url, pool, policy=LOOSE, lease=Lease(ttl=1.0)) as process:
            process.do("borrow", ANN)
            process.die()
        (ends,) = lent_until(valkey.url, pool, A)
        begun = time.monotonic()
        signed(teller, A, "FLAGGED", "flag")
        assert time.time() >= ends - 0.02
        assert time.monotonic() - begun < 2


# Law 3, by example ---------------------------------------------------------------------------------------------------

FAST = Policy(healthy=TokenBucket(60, per=60, burst=41), pair=None)
"""A token a second: a loan outlasts several."""


def _burst(guard: SendGuard, prefix: int) -> int:
    """How many sends of new conversations a guard is allowed at once."""
    count = 0
    while guard.decide(f"+1415{prefix:03d}{count:04d}").allowed:
        count += 1
    return count


@pytest.fixture
def two(valkey: Any, pool: str, clock: ManualClock) -> Any:
    """A guard that borrows, and one that does not, on a line whose bucket fills fast."""
    options: dict[str, Any] = {"pool": pool, "clock": clock, "timeout": 10, "policy": FAST}
    with (
        SendGuard(valkey.url, lease=Lease(ttl=8.0), **options) as guard,
        SendGuard(valkey.url, **options) as other,
    ):
        other.observe(A, status="ACTIVE", health="HEALTHY")
        yield guard, other


def test_law_3_tokens_used_late_and_settled_are_not_back_at_once(two: Any, clock: ManualClock) -> None:
    guard, other = two
    count = borrow(guard, ANN)
    clock.advance(7.5)
    lent = watch(guard)
    assert all(guard.decide(ANN).allowed for _ in range(count))
    assert len(lent) == count
    guard.close()
    assert _burst(other, 1) + count <= 41, "law 3: more than the burst at one moment"


def test_law_3_tokens_used_late_are_not_back_when_the_loan_runs_out(two: Any, clock: ManualClock) -> None:
    guard, other = two
    count = borrow(guard, ANN)
    hold_listener(guard)
    clock.advance(7.8)
    assert all(guard.decide(ANN).allowed for _ in range(count))
    clock.advance(0.2)
    assert _burst(other, 2) + count <= 41, "law 3: more than the burst within 0.2 seconds"


def test_law_3_tokens_used_late_are_not_back_when_the_pace_changes(two: Any, clock: ManualClock) -> None:
    guard, other = two
    count = borrow(guard, ANN)
    clock.advance(7.5)
    assert all(guard.decide(ANN).allowed for _ in range(count))
    other.observe(A, health="AT_RISK")
    clock.advance(0.01)
    other.observe(A, health="HEALTHY")
    assert _burst(other, 3) + count <= 41, "law 3: more than the burst within 0.01 seconds"


def test_law_3_what_an_old_loan_gives_back_is_not_taken_from_a_newer_one(two: Any, clock: ManualClock) -> None:
    """The listener comes too late with a loan that ran out, and the process has borrowed again since."""
    guard, other = two
    borrow(guard, ANN)
    go_on = hold_listener(guard)
    clock.advance(8.5)
    guard.decide(ANN)
    count = held(guard, ANN)
    assert count > 5
    gone = len(loans_over(guard))
    assert gone == 1
    go_on()
    wait_until(lambda: not loans_over(guard))
    hold_listener(guard)
    clock.advance(7.0)
    assert held(guard, ANN) == count
    assert all(guard.decide(ANN).allowed for _ in range(count))
    assert _burst(other, 4) + count <= 41, "law 3: more than the burst at one moment"


def loans_over(guard: SendGuard) -> list[Any]:
    assert guard._flows.lending is not None
    return guard._flows.lending.loans._over


# Law 3 and the others, at random -------------------------------------------------------------------------------------

LINES = [A, B]
PEOPLE: list[Any] = [ANN, BOB, "+14155550125", (ANN, BOB)]
TTL = 4.0
POLICIES = [
    Policy(
        healthy=TokenBucket(20, per=10, burst=24),
        at_risk=TokenBucket(10, per=10, burst=13),
        critical=TokenBucket(1, per=5, burst=6),
        daily_volume=Quota(60, per=120),
        new_conversations=None,
        pair=Quota(24, per=40),
    ),
    Policy(
        at_risk=TokenBucket(8, per=32, burst=17),
        critical=TokenBucket(0, per=60),
        daily_volume=Quota(40, per=60),
        new_conversations=None,
        pair=Quota(13, per=10),
        on_flagged="hold",
        overrides={B: {"pair": Quota(9, per=20), "healthy": TokenBucket(30, per=10, burst=30)}},
    ),
]
_names = (f"leases-{os.getpid()}-{n}" for n in itertools.count())


_clocks: list[ManualClock] = []


def _at_once(call: Any) -> Any:
    """A command that waits for nothing."""
    if isinstance(call, Command) and call.args[:2] == ("XREAD", "BLOCK"):
        return Command(("XREAD", *call.args[3:]))
    return call


class Stepped(SendGuard):
    """Does what it does in the background when it is told to. While it waits, the others listen, and time passes."""

    others: Callable[[], None]
    clock: ManualClock

    def _keep(self) -> None:
        self._unkept = False

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Wait):
            self.others()
            self.clock.advance(max(step.seconds, 0.25))
            return None
        return super()._perform(step)

    def listen(self) -> None:
        assert self._flows.lending is not None
        run = self._store.run
        self._store.run = lambda call, expires=None: run(_at_once(call), expires)  # type: ignore[method-assign]
        self._drive(self._flows.lending.listen())
        del self._store.run

    def give_all_back(self) -> None:
        self._drive(self._flows.close())


class Known:
    """What the laws go by of a line, and all that was sent from it: (at, to, health)."""

    def __init__(self) -> None:
        self.status, self.health, self.paused = "ACTIVE", "HEALTHY", 0.0
        self.sent: list[tuple[float, Any, str]] = []
        self.received: list[float] = []


class Borrowing(RuleBasedStateMachine):
    """Three guards that borrow and one that does not, judged by a list of all that was allowed."""

    url = ""

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy: Policy) -> None:
        self.clock, self.policy, self.pool = ManualClock(NOW), policy, next(_names)
        _clocks[:] = [self.clock]
        self.known = {number: Known() for number in LINES}
        self.home: dict[Any, str] = {}
        self.out: set[Any] = set()
        self.events, self.lost = itertools.count(), False
        self.last: Decision | None = None
        self.deaf: set[int] = set()
        self.guards = [self.new(Lease(ttl=TTL, sends=8)) for _ in range(3)]
        self.plain = self.new(None)
        for number in LINES:
            self.plain.observe(number, status="ACTIVE", health="HEALTHY")

    def new(self, lease: Lease | None) -> Stepped:
        guard = Stepped(
            self.url, pool=self.pool, policy=self.policy, clock=self.clock, timeout=10, refresh=None, lease=lease,
            webhook_secret=SECRET,
        )  # fmt: skip
        guard.clock, guard.others = self.clock, self.listen_all
        if lease is not None:
            guard.listen()
        return guard

    def teardown(self) -> None:
        if not hasattr(self, "guards"):
            return
        for guard in self.guards:
            guard.give_all_back()
        now, quota = self.clock(), self.policy.daily_volume
        assert quota is not None
        for line in self.plain.lines():
            known = self.known[line.number]
            times = [at for at, _, _ in known.sent] + known.received
            assert line.daily_volume >= sum(at + quota.per > now for at in times), "law 3"
            if not self.lost:
                most = sum(at + quota.per + TTL + 0.01 > now for at in times)
                assert line.daily_volume <= most, "what was not used is back"
        for each in (*self.guards, self.plain):
            each.close()

    def listen_all(self) -> None:
        for i, guard in enumerate(self.guards):
            if i not in self.deaf:
                guard.listen()

    @rule(i=st.integers(0, 2))
    def listen(self, i: int) -> None:
        self.guards[i].listen()

    @rule(i=st.integers(0, 2))
    def cannot_be_reached(self, i: int) -> None:
        self.deaf ^= {i}

    @rule(i=st.integers(0, 2), dies=st.booleans())
    def begin_anew(self, i: int, dies: bool) -> None:
        if dies:
            self.lost = True
        else:
            self.guards[i].give_all_back()
        self.guards[i].close()
        self.guards[i] = self.new(Lease(ttl=TTL, sends=8))

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 1.75, 2.0, 3.5, 5.0, 40.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, and who is not deaf listens all the time."""
        ends = self.clock() + seconds
        while self.clock() < ends:
            self.clock.now = min(ends, self.clock() + TTL)
            self.listen_all()
        self.lost |= bool(self.deaf)

    @rule(
        number=st.sampled_from(LINES),
        status=st.sampled_from([None, "ACTIVE", "ACTIVE", "FLAGGED"]),
        health=st.sampled_from([None, "HEALTHY", "HEALTHY", "AT_RISK", "CRITICAL"]),
        by=st.integers(0, 3),
    )
    def observe(self, number: str, status: str | None, health: str | None, by: int) -> None:
        if status is None and health is None:
            return
        self.clock.advance(0.25)
        [*self.guards, self.plain][by].observe(number, status=status, health=health)
        self.known[number].status = status or self.known[number].status
        self.known[number].health = health or self.known[number].health

    @rule(number=st.sampled_from(LINES), seconds=st.sampled_from([None, 3.0, 20.0]), by=st.integers(0, 3))
    def pause(self, number: str, seconds: float | None, by: int) -> None:
        until = None if seconds is None else self.clock() + seconds
        [*self.guards, self.plain][by].pause(number, until=until)
        self.known[number].paused = math.inf if until is None else until

    @rule(number=st.sampled_from(LINES))
    def resume(self, number: str) -> None:
        self.plain.resume(number)
        self.known[number].paused = 0

    @rule(to=st.sampled_from([ANN, BOB]), text=st.sampled_from(["STOP", "Hello", "Hello"]), by=st.integers(0, 3))
    def hear(self, to: str, text: str, by: int) -> None:
        number, at = self.home.get(to), self.clock()
        if number is None:
            return
        webhook = inbound_webhook(number, to, text, f"event-{next(self.events)}", at)
        [*self.guards, self.plain][by].handle_webhook(*webhook)
        self.known[number].received.append(at)
        self.clock.advance(0.25)
        if text == "STOP":
            self.out.add(to)
        else:
            self.out.discard(to)

    @rule(to=st.sampled_from(PEOPLE), by=st.integers(0, 3), times=st.integers(1, 12))
    def send(self, to: Any, by: int, times: int) -> None:
        for _ in range(times):
            self.judge(to, [*self.guards, self.plain][by].decide(to))

    @rule(to=st.sampled_from(PEOPLE), by=st.integers(0, 2), pause=st.sampled_from([0.0, 1.0, 3.5, 3.75]))
    def borrow_and_use_late(self, to: Any, by: int, pause: float) -> None:
        guard = self.guards[by]
        self.judge(to, guard.decide(to))
        self.judge(to, guard.decide(to))
        self.clock.advance(pause)
        for _ in range(held(guard, to)):
            self.judge(to, guard.decide(to))
        self.listen_all()
        self.lost |= bool(self.deaf)

    @rule(by=st.integers(0, 3))
    def not_sent(self, by: int) -> None:
        """The last one did not go, and counts for nothing."""
        if self.last is not None and not self.last.new_conversation:
            [*self.guards, self.plain][by].report(self.last, Outcome(sent=False))
            self.known[str(self.last.from_number)].sent.pop()
            self.last = None

    @rule(to=st.sampled_from(PEOPLE), by=st.integers(0, 3))
    def wait_as_told(self, to: Any, by: int) -> None:
        """Law 6: asking again after `retry_after`, with nobody else asking, succeeds."""
        guard = [*self.guards, self.plain][by]
        decision = guard.decide(to)
        self.judge(to, decision)
        if decision.retry_after is not None:
            self.pass_time(decision.retry_after)
            again = guard.decide(to)
            assert again.allowed, f"law 6: {decision}, then {again}"
            self.judge(to, again)

    def judge(self, to: Any, decision: Decision) -> None:
        now = self.clock()
        home = self.home.get(to)
        if not decision.allowed:
            assert decision.reason is not Reason.STORE_UNAVAILABLE
            return
        number = str(decision.from_number)
        known = self.known[number]
        assert known.status == "ACTIVE", "law 1"
        assert known.paused <= now, "law 1"
        assert to not in self.out, "opted out"
        assert decision.health is not None
        assert decision.health.value == known.health, "another pace holds now"
        if home is not None and self.known[home].status == "ACTIVE":
            assert number == home, "law 4"
        self.home[to] = number
        self.last = decision
        known.sent.append((now, to, known.health))
        self.judge_limits(number)

    def judge_limits(self, number: str) -> None:
        """Law 3, over all that was allowed."""
        sent, limits = self.known[number].sent, self.policy.limits_of(number)
        at, to, health = sent[-1]
        volume, pair, bucket = limits["daily_volume"], limits["pair"], limits[health.lower()]
        assert sum(s > at - volume.per for s, _, _ in sent) <= volume.limit, "law 3: daily_volume"
        assert sum(s > at - pair.per for s, who, _ in sent if who == to) <= pair.limit, "law 3: pair"
        if bucket is not None:
            for i, (first, _, _) in enumerate(reversed([s for s in sent if s[2] == health])):
                most = bucket.burst + bucket.tokens * (at - first) / bucket.per
                assert i + 1 <= most + 1e-6, f"law 3: {i + 1} sends in {at - first} seconds at {health}"


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a loan to run out waits by the test's clock."""
    monkeypatch.setattr("sendguard.lending.time", SimpleNamespace(monotonic=lambda: _clocks[0]()))


def _run(url: str, examples: int) -> None:
    machine: Callable[[], Borrowing] = type("Machine", (Borrowing,), {"url": url})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))


@pytest.mark.usefixtures("time_passes")
def test_laws_1_3_4_and_6_at_random_with_leases_on_valkey(valkey: Any) -> None:
    _run(valkey.url, 30)


@pytest.mark.usefixtures("time_passes")
def test_laws_1_3_4_and_6_at_random_with_leases_on_redis(redis_server: Any) -> None:
    _run(redis_server.url, 15)
