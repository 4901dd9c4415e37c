"""The laws at random: observations, sends, clock steps and retries against the real scripts and a plain model of them.

The model knows nothing of windows packed into bytes or of sorted sets: it keeps every send with its time and asks the
laws' own words of that list. Times are whole quarters of a second, so that it can be exact.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sendguard import Decision, Policy, Quota, Reason, SendGuard, TokenBucket
from tests.support import ManualClock

LINES = [f"+1202555010{i}" for i in range(4)]
PEOPLE: list[Any] = [f"+1415555012{i}" for i in range(4)] + [("+14155550120", "+14155550121")]
TIERS = ["HEALTHY", "AT_RISK", "CRITICAL"]
START = 1_771_000_000.0
DAY = 86_400.0
POLICIES = [
    Policy(
        at_risk=TokenBucket(3, per=30, burst=2),
        critical=TokenBucket(1, per=60),
        daily_volume=Quota(12, per=300),
        new_conversations=Quota(4, per=200),
        pair=Quota(3, per=40),
    ),
    Policy(
        healthy=TokenBucket(4, per=8, burst=3),
        at_risk=TokenBucket(1, per=5),
        critical=TokenBucket(0, per=60),
        daily_volume=Quota(9, per=100),
        new_conversations=Quota(3, per=100),
        pair=Quota(2, per=10),
        on_flagged="hold",
        overrides={LINES[0]: {"pair": Quota(1, per=20), "healthy": None}},
    ),
]


@dataclass
class Sent:
    """One send that was allowed."""

    at: float
    to: Any
    started: bool
    health: str


@dataclass
class ModelLine:
    """What the model knows of a line; a time of -1 is never."""

    status: str = "ACTIVE"
    status_at: float = -1
    health: str = "HEALTHY"
    health_at: float = -1
    paused: float = 0
    tat: float = 0
    used: float = 0
    sent: list[Sent] = field(default_factory=list)


class Model:
    """The laws in plain Python."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.lines: dict[str, ModelLine] = {}
        self.home: dict[Any, str] = {}
        self.known: set[tuple[Any, str]] = set()
        self.answers: dict[tuple[Any, str], tuple[float, Decision]] = {}

    def bucket(self, number: str, health: str) -> TokenBucket | None:
        found: TokenBucket | None = self.policy.limits_of(number)[health.lower()]
        return found

    def observe(self, number: str, status: str | None, health: str | None, at: float, now: float) -> None:
        """Law 2."""
        line = self.lines.setdefault(number, ModelLine())
        if status is not None and (at > line.status_at or (at == line.status_at and status == "FLAGGED")):
            line.status, line.status_at = status, at
        if health is not None and (
            at > line.health_at or (at == line.health_at and TIERS.index(health) > TIERS.index(line.health))
        ):
            old = self.bucket(number, line.health)
            if health != line.health and old is not None and old.tokens:
                line.tat = min(line.tat, now + old.per / old.tokens * old.burst)
            line.health, line.health_at = health, at

    def clear_at(self, number: str, to: Any, now: float, starts: bool) -> float:
        """When everything that stands in a line's way has cleared; `inf` for never."""
        line = self.lines[number]
        if line.status != "ACTIVE":
            return math.inf
        limits = self.policy.limits_of(number)
        at = max(now, line.paused)
        bucket = self.bucket(number, line.health)
        if bucket is not None:
            interval = bucket.per / bucket.tokens if bucket.tokens else math.inf
            at = math.inf if not bucket.tokens else max(at, line.tat - interval * (bucket.burst - 1))
        at = max(at, self._free([s.at for s in line.sent], limits["daily_volume"]))
        at = max(at, self._free([s.at for s in line.sent if s.to == to], limits["pair"]))
        if starts:
            at = max(at, self._free([s.at for s in line.sent if s.started], limits["new_conversations"]))
        return at

    @staticmethod
    def _free(times: list[float], quota: Quota) -> float:
        return 0.0 if len(times) < quota.limit else sorted(times)[-quota.limit] + quota.per

    def candidates(self, to: Any, now: float) -> tuple[set[str], float]:
        """Law 5: the lines that a new conversation may go to now, and when the first will be clear if there is none.

        One that something stood in the way of counts as idle since that cleared, or since its last use.
        """
        soonest = math.inf
        for tier in self.policy.new_conversations_on:
            lines = [n for n, line in self.lines.items() if line.health == tier.value]
            clear = {n: self.clear_at(n, to, now, True) for n in lines}
            ready = [n for n in lines if clear[n] <= now]
            if ready:
                idle = {n: max(self.lines[n].used, self.clear_of_line(n)) for n in ready}
                first = min(idle.values())
                return {n for n in ready if self.lines[n].used <= first + 0.001}, now
            soonest = min([soonest, *clear.values()])
        return set(), soonest

    def clear_of_line(self, number: str) -> float:
        return self.clear_at(number, None, 0.0, True)

    def spend(self, number: str, to: Any, now: float, starts: bool) -> None:
        line = self.lines[number]
        bucket = self.bucket(number, line.health)
        if bucket is not None:
            line.tat = max(line.tat, now) + bucket.per / bucket.tokens
        line.used = max(now, line.used + 1e-6)
        line.sent.append(Sent(now, to, starts, line.health))
        self.known.add((to, number))


def key_of(to: Any) -> Any:
    return to if isinstance(to, str) else tuple(sorted(to))


_names = (f"model-{os.getpid()}-{n}" for n in itertools.count())


class Guarded(RuleBasedStateMachine):
    """Drives a guard and the model side by side."""

    url = "memory://"

    @initialize(policy=st.sampled_from(POLICIES))
    def begin(self, policy: Policy) -> None:
        self.clock = ManualClock(START)
        self.guard = SendGuard(self.url, pool=next(_names), policy=policy, clock=self.clock, timeout=10)
        self.model = Model(policy)
        self.model_lines = self.model.lines

    def teardown(self) -> None:
        if hasattr(self, "guard"):
            self.check_lines()
            self.guard.close()

    def check_lines(self) -> None:
        """Law 2, and that a denial consumed nothing (law 6): what is known is what the model knows."""
        found = {line.number: line for line in self.guard.lines()}
        assert set(found) == set(self.model_lines)
        now = self.clock()
        for number, line in self.model_lines.items():
            assert (found[number].status.value, found[number].health.value) == (line.status, line.health), "law 2"
            quota = self.model.policy.daily_volume
            assert quota is not None
            assert found[number].daily_volume == sum(s.at + quota.per > now for s in line.sent), "law 6"

    @rule(
        number=st.sampled_from(LINES),
        status=st.sampled_from([None, "ACTIVE", "ACTIVE", "FLAGGED"]),
        health=st.sampled_from([None, "HEALTHY", "HEALTHY", "AT_RISK", "CRITICAL"]),
        age=st.sampled_from([0.0, 0.0, 0.0, 0.25, 5.0, 60.0]),
    )
    def observe(self, number: str, status: str | None, health: str | None, age: float) -> None:
        if status is None and health is None:
            return
        at = self.clock() - age
        self.guard.observe(number, status=status, health=health, observed_at=at)
        self.model.observe(number, status, health, at, self.clock())
        self.check_lines()

    @precondition(lambda self: self.model_lines)
    @rule(data=st.data(), until=st.sampled_from([None, 3.0, 20.0]))
    def pause(self, data: st.DataObject, until: float | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.model_lines)))
        end = None if until is None else self.clock() + until
        self.guard.pause(number, until=end)
        self.model_lines[number].paused = math.inf if end is None else end

    @precondition(lambda self: self.model_lines)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model_lines)))
        self.guard.resume(number)
        self.model_lines[number].paused = 0

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 10.0, 40.0, 100.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        to=st.sampled_from(PEOPLE),
        kind=st.sampled_from(["chat", "chat", "voice_memo"]),
        key=st.sampled_from([None, None, "a", "b"]),
        times=st.integers(1, 4),
    )
    def send(self, to: Any, kind: str, key: str | None, times: int) -> None:
        for _ in range(times):
            self.judge(to, kind, key, self.guard.decide(to, kind=kind, idempotency_key=key))

    @precondition(lambda self: self.model_lines)
    @rule(data=st.data(), to=st.sampled_from(PEOPLE))
    def ask_for_a_line(self, data: st.DataObject, to: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.model_lines)))
        decision = self.guard.decide(to, from_number=number)
        who, now = key_of(to), self.clock()
        starts = (who, number) not in self.model.known
        at = self.model.clear_at(number, who, now, starts)
        tiers = [health.value for health in self.model.policy.new_conversations_on]
        if starts and self.model_lines[number].health not in tiers:
            at = math.inf
        assert decision.allowed == (at <= now), "laws 1 and 3"
        if decision.allowed:
            assert (decision.reason, decision.from_number) == (Reason.REQUESTED, number)
            self.model.spend(number, who, now, starts)
            home = self.model.home.get(who)
            if home is None or self.model_lines[home].status != "ACTIVE":
                self.model.home[who] = number
        else:
            self.judge_wait(decision, at)

    @rule(to=st.sampled_from(PEOPLE))
    def wait_as_told(self, to: Any) -> None:
        """Law 6: asking again after `retry_after`, with nobody else asking, succeeds."""
        decision = self.guard.decide(to)
        self.judge(to, "chat", None, decision)
        if decision.retry_after is not None:
            self.clock.advance(decision.retry_after)
            again = self.guard.decide(to)
            assert again.allowed, "law 6"
            self.judge(to, "chat", None, again)

    def judge(self, to: Any, kind: str, key: str | None, decision: Decision) -> None:
        who, now, model = key_of(to), self.clock(), self.model
        if key is not None and (who, key) in model.answers:
            then, first = model.answers[who, key]
            line = self.model_lines[str(first.from_number)]
            if now - then < DAY and line.status == "ACTIVE" and line.paused <= now:
                assert decision.decision_id == first.decision_id, "law 8"
                assert decision.from_number == first.from_number, "law 8"
                return
        home = model.home.get(who)
        moves = home is not None and self.model_lines[home].status != "ACTIVE"
        if home is not None and not (moves and kind == "chat" and model.policy.on_flagged == "failover"):
            at = model.clear_at(home, who, now, False)
            expected, reason = {home}, Reason.STICKY
        else:
            expected, at = model.candidates(who, now)
            reason = Reason.NEW_CONVERSATION if home is None else Reason.FAILOVER
        assert decision.allowed == (at <= now), f"laws 1, 3 and 4: {decision}, clear in {at - now}"
        if not decision.allowed:
            self.judge_wait(decision, at)
            return
        assert decision.from_number in expected, "laws 4 and 5"
        assert decision.reason is reason
        number = str(decision.from_number)
        assert self.model_lines[number].status == "ACTIVE", "law 1"
        model.spend(number, who, now, reason is not Reason.STICKY)
        model.home[who] = number
        if key is not None:
            model.answers[who, key] = (now, decision)
        self.judge_limits(number)

    def judge_wait(self, decision: Decision, at: float) -> None:
        expected = None if at == math.inf else pytest.approx(at - self.clock(), abs=1e-3)
        assert decision.retry_after == expected, "law 6"

    def judge_limits(self, number: str) -> None:
        """Law 3, over all that was admitted."""
        sent = self.model_lines[number].sent
        limits = self.model.policy.limits_of(number)
        last = sent[-1]
        for quota, among in (
            (limits["daily_volume"], sent),
            (limits["pair"], [s for s in sent if s.to == last.to]),
            (limits["new_conversations"], [s for s in sent if s.started]),
        ):
            assert sum(s.at > last.at - quota.per for s in among) <= quota.limit, "law 3"
        bucket = self.model.bucket(number, last.health)
        if bucket is not None:
            for i, first in enumerate(reversed([s for s in sent if s.health == last.health])):
                assert i + 1 <= bucket.burst + bucket.tokens * (last.at - first.at) / bucket.per + 1e-6, "law 3"


def _run(url: str, examples: int) -> None:
    machine: Callable[[], Guarded] = type("Machine", (Guarded,), {"url": url})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))


def test_laws_1_to_8_at_random_on_the_embedded_store() -> None:
    _run("memory://", 60)


def test_laws_1_to_8_at_random_on_valkey(valkey: Any) -> None:
    _run(valkey.url, 200)
