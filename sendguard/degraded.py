"""Deciding while the store is out of reach: the same scripts, on an embedded store, with a share of the budget.

A process that goes on alone knows the lines as it last saw them. It starts with empty token buckets, so that what the
fleet has just sent and what the processes send now stay within the pace together, as long as the shares add up to no
more than one. What it sends is told to the store when that is back, before this process decides there again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from sendguard.errors import SendGuardError
from sendguard.keeper import Keeper
from sendguard.logs import tell
from sendguard.middleware.memory import Recent
from sendguard.models import Decision, Health, Line, Reason, SendKind
from sendguard.policy import LIMIT_NAMES, Policy, Quota, TokenBucket
from sendguard.protocol import Protocol
from sendguard.request import Request
from sendguard.steps import Flow, Renew
from sendguard.store import Store
from sendguard.store.scripts import Call, Command

_CONVERSATIONS, _CONVERSATIONS_FOR = 50_000, 86_400.0
_MAX_JOURNAL = 100_000
_LINES_PER_CALL = 100
_AT_ONCE = 100
"""Lines that a decision takes over itself: some 30 ms. More are taken over in the background, and it is denied."""
_PATIENCE = 0.02
"""Seconds that a decision waits for another one's use of the embedded store."""


class _Sent(NamedTuple):
    """A send that the store has not been told of. answer: the idempotency key it was decided with."""

    line: str
    conversation: str
    decision: Decision
    key: str | None


class Degraded:
    """What a process decides with on its own. since: when the store was lost, Unix seconds; None while it is there."""

    def __init__(self, protocol: Protocol, keeper: Keeper) -> None:
        self.since: float | None = None
        self._main, self._keeper, self._policy = protocol, keeper, protocol.policy
        self._homes: Recent[str] = Recent(_CONVERSATIONS, _CONVERSATIONS_FOR)
        self._journal: dict[str, _Sent] = {}
        self._lock, self._wanted = threading.Lock(), False
        self._store: Store | None = None
        self._known: dict[str, Line] = {}
        self._protocol = protocol
        Store("memory://", key="", timeout=1)  # says now if the extra is missing

    # While the store is there -----------------------------------------------------------------------------------------

    def learn(self, request: Request, decision: Decision) -> None:
        """Keep which line a conversation lives on, and who has opted out."""
        if decision.allowed and decision.from_number is not None:
            self._homes.put(self._main.conversation(request), decision.from_number)
        elif decision.reason is Reason.OPTED_OUT:
            self._homes.put(self._main.conversation(request), "")

    # While it is not --------------------------------------------------------------------------------------------------

    def decide(self, request: Request, now: float | None) -> Decision | None:
        """A decision without the store; None where this process does not know enough, or for too long already."""
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            here = time.monotonic()
            looked_at = self._keeper.looked_at
            if looked_at is None or not self._keeper.lines or here - looked_at > self._policy.degraded_for:
                return None
            if len(self._journal) >= _MAX_JOURNAL:
                return None
            at = time.time() + self._keeper.offset if now is None else now
            if self._store is None and len(self._keeper.lines) > _AT_ONCE:
                self._wanted = True
                return None
            if self._store is None:
                self._begin(at)
            elif self._keeper.lines is not self._known:  # it has looked, and is telling the store what was sent
                self._tell_lines(self._store, at)
            assert self._store is not None
            conversation = self._main.conversation(request)
            home = self._homes.get(conversation)
            if home is not None:
                self._store.run(self._protocol.remember_conversation(conversation, home, at))
            known = request._replace(conversation=conversation)
            reply = self._store.run(self._protocol.decide(known, max_wait=0, waiter=False, now=at))
            decision = self._protocol.decision(reply, known)
            if decision.allowed and decision.receipt and decision.decision_id not in self._journal:
                line = decision.from_number or ""
                self._journal[decision.decision_id] = _Sent(line, conversation, decision, request.idempotency_key)
                self._homes.put(conversation, line)
            return decision
        finally:
            self._lock.release()

    def prepare(self, now: float | None) -> None:
        """Take the lines over in the background, where they are too many for a decision to wait for that."""
        with self._lock:
            if self._wanted and self._store is None:
                self._begin(time.time() + self._keeper.offset if now is None else now)
            self._wanted = False

    def observe(self, call: Call) -> None:
        """Apply here what the store could not be told; it is told again by whoever told it."""
        with self._lock:
            if self._store is None:
                return
            try:
                self._store.run(call)
            except SendGuardError:
                text = "a degraded guard could not apply what it was told"
                tell(logging.DEBUG, "degraded_deaf", text, pool=self._main.pool)

    def unsent(self, decision: Decision, now: float | None) -> bool:
        """Forget a send that did not leave; False if the store knows of it, and must be told."""
        with self._lock:
            sent = self._journal.pop(decision.decision_id, None)
            if sent is None or self._store is None:
                return False
            at = time.time() + self._keeper.offset if now is None else now
            call = self._protocol.settle(sent.decision, unsent=True, opted_out=False, closed_for=None, now=at)
            if call is not None:
                self._store.run(call)
            return True

    def _begin(self, at: float) -> None:
        policy = shared(self._policy)
        self._protocol = Protocol(self._main.pool, policy, None)
        self._store = Store("memory://", key="", timeout=60)
        self.since, self._known = at, {}
        for protocol in (self._main, self._protocol):
            for command in protocol.overrides() if protocol.policy.overrides else ():
                self._store.run(command)
        lines = self._tell_lines(self._store, at)
        text = "the store is out of reach: deciding on %d known lines with a share of their budget"
        tell(logging.ERROR, "degraded", text, len(lines), pool=self._main.pool, lines=len(lines))

    def _tell_lines(self, store: Store, at: float) -> list[Line]:
        """Take over what the last look found; what is known better here stays."""
        before, self._known = self._known, self._keeper.lines
        policy, share = self._protocol.policy, self._policy.degraded_share
        lines = [
            _shared_line(line, policy, share, at)
            for number, line in self._known.items()
            if number not in before or (line.status, line.health) != (before[number].status, before[number].health)
        ]
        for i in range(0, len(lines), _LINES_PER_CALL):
            store.run(self._protocol.restore(lines[i : i + _LINES_PER_CALL], at, rest=0.0))
        return lines

    # When it is back --------------------------------------------------------------------------------------------------

    def settle(self, run: Callable[[Call | Command], Flow[Any]], now: Callable[[], float | None]) -> Flow[None]:
        """Tell the store what was sent without it, each once, and then go back to it. Raises StoreUnavailable."""
        while True:
            with self._lock:
                if not self._journal:
                    if self.since is not None:
                        text = "the store is back, and knows what was sent without it"
                        tell(logging.WARNING, "degraded_over", text, pool=self._main.pool)
                    self._store, self.since = None, None
                    return
                decision_id, sent = next(iter(self._journal.items()))
            yield Renew()
            yield from run(self._main.decide(_late(sent, decision_id), max_wait=0, waiter=False, now=now()))
            answer = None if sent.key is None else self._main.remember_answer(sent.decision, sent.key)
            if answer is not None:
                yield from run(answer)
            self._journal.pop(decision_id, None)


def _late(sent: _Sent, decision_id: str) -> Request:
    return Request(
        recipients=(),
        kind=SendKind.CHAT,
        from_number=sent.line,
        exclude=(),
        line_type=None,
        idempotency_key=decision_id,
        decision_id=decision_id,
        place="late",
        conversation=sent.conversation,
        override_optout=True,
    )


def shared(policy: Policy) -> Policy:
    """A process's share of a policy: each bucket and quota times `degraded_share`, rounded down."""
    scaled: dict[str, Any] = {name: _scaled(getattr(policy, name), policy.degraded_share) for name in LIMIT_NAMES}
    overrides = {
        number: {name: _scaled(limit, policy.degraded_share) for name, limit in limits.items()}
        for number, limits in policy.overrides.items()
    }
    starting = tuple(health for health in policy.new_conversations_on if health is Health.HEALTHY)
    return replace(policy, **scaled, overrides=overrides, new_conversations_on=starting)


def _scaled(limit: TokenBucket | Quota | None, share: float) -> TokenBucket | Quota | None:
    if limit is None:
        return None
    if isinstance(limit, Quota):
        return Quota(math.floor(limit.limit * share), limit.per)
    burst = math.floor(limit.burst * share)
    return TokenBucket(limit.tokens * share if burst else 0, limit.per, burst)


def _shared_line(line: Line, policy: Policy, share: float, at: float) -> Line:
    """A line as a process may use it alone: quotas as far used, the bucket empty and filling from now on."""
    bucket: TokenBucket | None = policy.limits_of(line.number)[line.health.value.lower()]
    fills_at = at + bucket.burst * bucket.per / bucket.tokens if bucket is not None and bucket.tokens else 0.0
    return replace(
        line,
        cooling_down_until=max(line.cooling_down_until or 0.0, fills_at),
        daily_volume=math.ceil(line.daily_volume * share),
        new_conversations=math.ceil(line.new_conversations * share),
    )
