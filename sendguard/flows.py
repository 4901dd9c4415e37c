"""What a guard does, step by step, without doing any of it.

Each method is a generator that yields what it needs done (a script run, a wait, a poll) and is sent the result, so that
`SendGuard` and `AsyncSendGuard` share every step and differ only in how they carry one out.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sendguard.arguments import as_outcome, check_max_wait, check_page, check_source, check_time, check_value
from sendguard.degraded import Degraded
from sendguard.errors import LinqError, SendBlocked, SendGuardError, StoreUnavailable, UnknownDecision, UnknownLine
from sendguard.keeper import Keeper
from sendguard.lease import Lease
from sendguard.lending import Lending, until_given_back
from sendguard.linq.events import LineUpdate, MessageFailed, MessageSeen
from sendguard.linq.webhooks import read_webhook
from sendguard.loan_calls import LoanCalls
from sendguard.logs import LOGGER, Outages, tell, tell_change, tell_decision
from sendguard.models import (
    Change,
    Decision,
    DecisionRecord,
    Explanation,
    Line,
    Outcome,
    Transition,
)
from sendguard.protocol import POLL_COOLDOWN_CODES, Protocol
from sendguard.replies import (
    called_back_of,
    changes_of,
    decisions_of,
    line_of,
    number_in,
    record_of,
    server_time,
    texts,
    transitions_of,
)
from sendguard.request import Request, check_number
from sendguard.steps import Flow, Poll, Renew, Wait
from sendguard.store import ScriptRefused, StoreRenewed
from sendguard.store.scripts import Call, Command
from sendguard.store.units import micros
from sendguard.watch import Watch

if TYPE_CHECKING:
    from sendguard.store import AsyncStore, Store

T = TypeVar("T")
_LINES_PER_CALL = 200
_RECORDS_PER_CALL = 1000
_LISTENS_AGAIN = 1.0
"""Seconds after which a process listens again for what is called back, where it could not."""
_SLOT_GRACE = 0.05
"""Seconds that a waiter may still wait for the slot it holds when its max_wait has just passed."""


class Work(NamedTuple):
    """What is done again and again. step: returns the seconds until the next; rest: those seconds after a failure."""

    name: str
    step: Callable[[], Flow[float]]
    rest: float


class Flows:
    """The steps of one guard. clock: Unix seconds, or None for the store's own time. refresh: as `Keeper` takes it.

    watch: what measures and traces; None if nobody does.
    """

    def __init__(
        self,
        protocol: Protocol,
        webhook_secrets: Sequence[str],
        clock: Callable[[], float] | None,
        refresh: float | None,
        watch: Watch | None = None,
        lease: Lease | None = None,
        record: bool = True,
    ) -> None:
        """lease: what this process may borrow, None for nothing. record: whether decisions are recorded."""
        self.protocol = protocol
        self.lending = None if lease is None else Lending(protocol, lease, self.run, self._now, record)
        self.watch = watch
        self.keeper = Keeper(protocol, refresh, clock)
        self.degraded = Degraded(protocol, self.keeper) if protocol.policy.on_store_error == "degraded" else None
        self._outages = Outages(protocol.pool)
        self._secrets = webhook_secrets
        self._clock = clock
        self._attended = not (self.lending is None and self.degraded is None and clock is None)

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    def now(self) -> Flow[float]:
        """Unix seconds by the guard's clock, or without one by the store's."""
        now = self._now()
        return server_time((yield from self.run(Command(("TIME",))))) if now is None else now

    def run(self, call: Call | Command) -> Flow[Any]:
        """Run one script or command; the overrides of the policy are put into the store where they are missing."""
        try:
            reply = yield call
        except (ScriptRefused, StoreUnavailable) as error:
            reply = yield from self._run_again(call, error)
        if self._outages.down:
            self._outages.answered()
        return reply

    def _run_again(self, call: Call | Command, error: ScriptRefused | StoreUnavailable) -> Flow[Any]:
        """What becomes of a call that failed: the store is given what it lacks, or the error is noted and raised."""
        try:
            if not isinstance(error, ScriptRefused):
                raise error
            if error.code == "UNKNOWNLINE":
                raise UnknownLine(error.detail) from None
            if error.code != "NOOVERRIDES":
                raise error
            for command in self.protocol.overrides():  # noqa: UP028 (a tuple takes no answers)
                yield command
            return (yield call)
        except StoreRenewed:
            raise
        except StoreUnavailable as failure:
            self._outages.failed(failure)
            if self.watch is not None:
                self.watch.store_failed()
            raise

    # Decisions -------------------------------------------------------------------------------------------------------

    def decide(self, request: Request, max_wait: float = 0.0, *, waiter: bool = False) -> Flow[Decision]:
        """One decision, in one round trip."""
        flow = self._decide(request, max_wait, waiter=waiter)
        return flow if self.watch is None else self.watch.decision("decide", flow, waited=waiter)

    def _decide(self, request: Request, max_wait: float, *, waiter: bool) -> Flow[Decision]:
        now = self._now()
        conversation = self.protocol.conversation(request)
        if self.lending is not None and (lent := self.lending.loans.decide(request, conversation, now)) is not None:
            if LOGGER.isEnabledFor(logging.DEBUG):
                tell_decision(self.protocol.pool, conversation, lent)
            return lent
        try:
            if self.degraded is not None and self.degraded.since is not None:
                raise StoreUnavailable("the store is not asked before it knows what was sent without it")
            decision = yield from self._decided(request, conversation, max_wait, waiter, now)
        except StoreUnavailable:
            self.keeper.suspect = True
            found = None if self.degraded is None else self.degraded.decide(request, now)
            decision = self.protocol.undecided(request) if found is None else found
        else:
            if self.degraded is not None:
                self.degraded.learn(request, decision)
        if now is not None and decision.retry_after is not None:
            decision = replace(decision, retry_after=_reaching(now, decision.retry_after))
        if LOGGER.isEnabledFor(logging.DEBUG):
            tell_decision(self.protocol.pool, conversation, decision)
        return decision

    def _decided(
        self, request: Request, conversation: str, max_wait: float, waiter: bool, now: float | None
    ) -> Flow[Decision]:
        """The store's decision, and what it lent with it."""
        asked = None if self.lending is None else self.lending.loans.asks(request, now)
        borrower = None if asked is None or self.lending is None else (self.lending.loans.process, asked.turn)
        call = self.protocol.decide(
            request, max_wait=max_wait, waiter=waiter, now=now, conversation=conversation, borrower=borrower
        )
        reply = yield from self._answered(call)
        decision = understood(self.protocol.decision, reply, request, conversation)
        if asked is not None and self.lending is not None:
            understood(self.lending.lent, reply, decision, conversation, asked)
        return decision

    def _answered(self, call: Call) -> Flow[Any]:
        """The store's answer to a question; after it came back, only once it knows what this process remembers."""
        if self.keeper.suspect and self.keeper.refresh is not None and self.keeper.lines:
            yield from self.keeper.look(self.run, patient=False)
        try:
            return (yield from self.run(call))
        except StoreRenewed:
            if self.keeper.refresh is not None and self.keeper.lines:
                yield from self.keeper.look(self.run, patient=False)
            return (yield from self.run(call))

    def dry_run(self, request: Request, max_wait: float) -> Flow[DecisionRecord]:
        """What `decide` would answer now, and why; nothing is taken, and nothing is written."""
        check_max_wait(max_wait)
        call = self.protocol.dry_run(request, max_wait=max_wait, now=self._now())
        return understood(record_of, (yield from self.run(call)))

    def number(self, request: Request, max_wait: float) -> Flow[str]:
        """The line of a decision that is waited for. Raises SendBlocked."""
        watched = self.watch is not None and self.watch.wanted()
        if type(max_wait) is not float or max_wait or self._attended or watched or LOGGER.isEnabledFor(logging.DEBUG):
            return number_of((yield from self.choose(request, max_wait)))
        conversation = self.protocol.conversation(request)
        call = self.protocol.decide(request, max_wait=0.0, waiter=False, now=None, conversation=conversation)
        try:
            reply = yield from self._answered(call)
            if (number := understood(number_in, reply)) is not None:
                return number  # of an allowed decision nobody wants to know more
            decision = understood(self.protocol.decision, reply, request, conversation)
        except StoreUnavailable:
            self.keeper.suspect = True
            decision = self.protocol.undecided(request)
        return number_of(decision)

    def choose(self, request: Request, max_wait: float) -> Flow[Decision]:
        """A decision, waited for: a slot is taken at once, in the order of asking, and confirmed when it has come."""
        flow = self._choose(request, max_wait)
        return flow if self.watch is None else self.watch.decision("choose", flow, waited=max_wait != 0)

    def _choose(self, request: Request, max_wait: float) -> Flow[Decision]:
        check_max_wait(max_wait)
        if self.protocol.policy.mode == "observe":
            max_wait = 0.0
        deadline = time.monotonic() + max_wait
        decision = yield from self._decide(request, max_wait, waiter=max_wait > 0)
        while decision.allowed and decision.wait > 0:
            try:
                yield Wait(decision.wait)
            except BaseException:
                yield from self.report(decision, Outcome(sent=False))
                raise
            left = max(deadline - time.monotonic(), _SLOT_GRACE)
            decision = yield from self._decide(request, left, waiter=True)
        return decision

    def report(self, decision: Decision, outcome: Outcome | str) -> Flow[None]:
        """Settle a decision: give back what an unsent message took, and learn what an error code tells."""
        outcome = as_outcome(outcome)
        if not isinstance(decision, Decision):
            raise ValueError("decision must be a Decision")
        flow = self._report(decision, outcome)
        return flow if self.watch is None else self.watch.report(flow, decision, outcome)

    def _report(self, decision: Decision, outcome: Outcome) -> Flow[None]:
        code = outcome.code
        unsent = outcome.sent is False or (outcome.sent is None and code is not None and 1000 <= code < 3000)
        closed_for = (outcome.retry_after or 0.0) if code == 1007 else None
        number, now = decision.from_number, self._now()
        if unsent or code == 2024 or closed_for is not None:
            call = self.protocol.settle(decision, unsent=unsent, opted_out=code == 2024, closed_for=closed_for, now=now)
            known = not (unsent and self.degraded is not None and self.degraded.unsent(decision, now))
            if call is not None and known:
                yield from self.run(call)
        if number is not None and code in POLL_COOLDOWN_CODES:
            self._learnt((yield from self.run(self.protocol.cool_down(number, now))), "outcome")
        elif number is not None and code == 2006:
            self._learnt((yield from self.run(self.protocol.release([number], None, now, "outcome"))), "outcome")

    # Observations ----------------------------------------------------------------------------------------------------

    def _told(self, reply: Sequence[Any], source: str) -> Flow[tuple[Change, ...]]:
        """What an observation changed, once no process can use any more what it was lent of the lines that changed."""
        changes = self._learnt(reply, source)
        called_back = understood(called_back_of, reply)
        if called_back:
            yield from until_given_back(called_back, self.lending, LoanCalls(self.protocol), self.run, self._now)
        return changes

    def _learnt(self, reply: Sequence[Any], source: str) -> tuple[Change, ...]:
        """What was changed; what it calls back is given back when that is heard, which a sender does not wait for."""
        changes = understood(changes_of, reply, source)
        for change in changes:
            tell_change(self.protocol.pool, change)
        return changes

    def handle_webhook(self, body: bytes | str, headers: Mapping[str, str] | Iterable[Any]) -> Flow[tuple[Change, ...]]:
        """Verify a webhook and apply it once."""
        flow = self._handle_webhook(body, headers)
        return flow if self.watch is None else self.watch.webhook(flow)

    def webhook_refused(self, result: str) -> None:
        """Count a webhook that was refused before it came here."""
        if self.watch is not None:
            self.watch.webhook_refused(result)

    def _handle_webhook(
        self, body: bytes | str, headers: Mapping[str, str] | Iterable[Any]
    ) -> Flow[tuple[Change, ...]]:
        now = self._now()
        event = read_webhook(body, headers, self._secrets, time.time() if now is None else now)
        news = event.news
        if isinstance(news, LineUpdate):
            call = self.protocol.observe(
                [news], source="webhook", event_id=event.event_id, rest=self.keeper.rest, now=now
            )
        elif isinstance(news, MessageSeen):
            call = self.protocol.message(news, event.event_id, now)
        elif isinstance(news, MessageFailed) and news.code in POLL_COOLDOWN_CODES and news.chat_id:
            call = self.protocol.failed(news, event.event_id, now)
        else:
            tell(
                logging.DEBUG, "webhook_ignored", "webhook %r is of no use", event.event_type,
                pool=self.protocol.pool, event_type=event.event_type,
            )  # fmt: skip
            return ()
        try:
            reply = yield from self.run(call)
        except StoreUnavailable:
            if self.degraded is not None:
                self.degraded.observe(call)
            raise
        if isinstance(news, LineUpdate):
            self.keeper.told(call)
        return (yield from self._told(reply, "webhook"))

    def sync_lines(self) -> Flow[tuple[Change, ...]]:
        """One poll, applied; what it learnt counts from when its request was sent."""
        return self._sync_lines() if self.watch is None else self.watch.sync(self._sync_lines())

    def _sync_lines(self) -> Flow[tuple[Change, ...]]:
        sent_at = yield from self.now()
        updates: tuple[LineUpdate, ...] = yield Poll(sent_at)
        rest = yield from self._found()
        changes: list[Change] = []
        for batch in _batches(updates, _LINES_PER_CALL):
            yield Renew()
            call = self.protocol.observe(batch, source="poll", rest=rest, now=self._now())
            changes += yield from self._told((yield from self.run(call)), "poll")
        yield Renew()
        numbers = [update.number for update in updates]
        released, held = yield from self.run(self.protocol.sweep(numbers, sent_at, self._now()))
        if held:
            text = "poll: %d lines are gone from the list at once; waiting for a second poll"
            tell(logging.WARNING, "lines_held", text, len(held), pool=self.protocol.pool, lines=len(held))
        if released:
            call = self.protocol.release(texts(released), sent_at, self._now(), "poll")
            changes += yield from self._told((yield from self.run(call)), "poll")
        return tuple(changes)

    def _found(self) -> Flow[float]:
        """Before a poll fills an empty pool: it may be one that was forgotten, and a poll tells no status.

        What this process remembers is told first, and every other one is left the time to do so. Returns the seconds
        that a line rests which becomes known now: none after that time.
        """
        notice = self.keeper.notice
        yield Renew()
        if not notice or (yield from self.run(self.protocol.is_founded())):
            return self.keeper.rest
        if self.keeper.lines:
            yield from self.keeper.look(self.run, patient=True)
        yield Wait(notice)
        yield Renew()
        return 0.0

    def works_on(self, store: Store | AsyncStore, given: object) -> bool:
        """Whether a guard on a store has anything to do in the background. given: what the store was made of.

        What an embedded store holds ends with this process; so there is nothing to remember, and nothing to borrow.
        Raises ValueError if `lease` cannot be had with a client that asks the store in its own way.
        """
        if not store.is_server:
            if self.lending is not None and not isinstance(given, str):
                raise ValueError("lease needs a store that is a URL, or a client of redis-py's own class")
            self.keeper.refresh = self.lending = None
        elif self.keeper.refresh is not None:
            store.watch()
        return bool(self.background())

    def background(self) -> tuple[Work, ...]:
        """What each process does in the background."""
        works = []
        if self.keeper.refresh is not None:
            works.append(Work("sendguard-keeper", self.keep, self.keeper.refresh))
        if self.lending is not None:
            works.append(Work("sendguard-lender", self.lending.listen, _LISTENS_AGAIN))
        return tuple(works)

    def close(self) -> Flow[None]:
        """Give back what is lent to this process; what cannot be given back runs out."""
        if self.lending is not None:
            self.lending.loans.close()
            try:
                yield from self.lending.give_back()
            except StoreUnavailable as error:
                keep_failed(error)

    def keep(self) -> Flow[float]:
        """One round of looking at the pool. Returns the seconds until the next."""
        assert self.keeper.refresh is not None
        try:
            yield from self.keeper.look(self.run, patient=True)
        except StoreUnavailable:
            if self.degraded is not None:
                self.degraded.prepare(self._now())
            raise
        if self.degraded is not None:
            yield from self.degraded.settle(self.run, self._now)
        return self.keeper.refresh

    def observe(
        self, number: str, status: str | None, health: str | None, observed_at: float | None, source: str
    ) -> Flow[Line]:
        """What somebody says of a line; a line not known yet joins the pool."""
        check_number("number", number)
        if status is None and health is None:
            raise ValueError("status or health must be given")
        call = self.protocol.observe_one(
            number,
            observed_at=check_time("observed_at", observed_at),
            source=check_source(source),
            status=check_value("status", status),
            health=check_value("health", health),
            now=self._now(),
        )
        yield from self._told((yield from self.run(call)), source)
        return (yield from self.line(number))

    def pause(self, number: str, until: float | None) -> Flow[Line]:
        """Stop sends on a line."""
        check_number("number", number)
        call = self.protocol.pause(number, check_time("until", until), self._now())
        yield from self._told((yield from self.run(call)), "operator")
        return (yield from self.line(number))

    def resume(self, number: str) -> Flow[Line]:
        """End a pause and a cooling down."""
        call = self.protocol.resume(check_number("number", number), self._now())
        yield from self._told((yield from self.run(call)), "operator")
        return (yield from self.line(number))

    # The pool --------------------------------------------------------------------------------------------------------

    def line(self, number: str) -> Flow[Line]:
        """One line as it stands. Raises UnknownLine."""
        rows = yield from self.run(self.protocol.lines([number], self._now()))
        if not rows:
            raise UnknownLine(number)
        return understood(line_of, rows[0])

    def lines(self) -> Flow[tuple[Line, ...]]:
        """All lines, by number."""
        rows = yield from self.run(self.protocol.lines((), self._now()))
        return understood(lambda: tuple(sorted(map(line_of, rows), key=lambda line: line.number)))

    def transitions(self, after: str, count: int) -> Flow[tuple[Transition, ...]]:
        """What changed of lines after a transition, oldest first."""
        check_page(after, count, "the id of a transition")
        reply = yield from self.run(self.protocol.transitions(after, count))
        return understood(transitions_of, reply)

    def decisions(self, after: str, count: int) -> Flow[tuple[DecisionRecord, ...]]:
        """The decisions recorded after an entry, oldest first."""
        check_page(after, count, "the entry_id of a record")
        return understood(decisions_of, (yield from self.run(self.protocol.decisions(after, count))))

    def explain(self, decision_id: str) -> Flow[Explanation]:
        """What the record says of a decision, from the newest entry back to the one that is not a repetition."""
        if not isinstance(decision_id, str) or not re.fullmatch(r"[0-9a-f]{24}", decision_id, re.ASCII):
            raise ValueError("decision_id must be as a decision has it: 24 digits and letters a to f")
        found: list[DecisionRecord] = []
        before, page = "", _RECORDS_PER_CALL
        while page == _RECORDS_PER_CALL and not (found and found[-1].remembered in (None, "lent")):
            reply = yield from self.run(self.protocol.decisions_before(before, page))
            records = understood(decisions_of, reply)
            found += (record for record in records if record.decision_id == decision_id)
            page, before = len(records), records[-1].entry_id if records else ""
        if not found:
            raise UnknownDecision(decision_id)
        return Explanation(tuple(reversed(found)), (yield from self.lines()))

    def poll_if_due(self, token: str, interval: float, ttl: float) -> Flow[float]:
        """Poll if no process of the fleet holds the lease or polled lately. Returns the seconds until it is due."""
        now = self._now()
        take = self.protocol.lease(token, ttl=ttl, interval=interval, give_back=False, now=now)
        wait = yield from self.run(take)
        if wait:
            return float(wait) / 1_000_000
        try:
            yield from self.sync_lines()
        finally:
            yield from self._give_back(token, ttl, interval)
        return interval

    def poll_age(self) -> Flow[float | None]:
        """Seconds since any process last polled and applied what it learnt; None if none did."""
        return (yield from self._age(self.protocol.polled_at()))

    def webhook_age(self) -> Flow[float | None]:
        """Seconds since any process last took a webhook that tells a guard something; None if none did."""
        return (yield from self._age(self.protocol.heard_at()))

    def _age(self, question: Command) -> Flow[float | None]:
        now = yield from self.now()
        at: bytes | str | None = yield from self.run(question)
        return None if at is None else max(0.0, now - int(at) / 1_000_000)

    def measure(self) -> Flow[None]:
        """Tell the metrics how the pool stands, or that the store does not answer."""
        if self.watch is None or self.watch.metrics is None:
            raise ValueError("metrics must be given to a guard that is measured")
        since = None if self.degraded is None else self.degraded.since
        try:
            self.watch.stand((yield from self.lines()), (yield from self.now()), (yield from self.poll_age()), since)
        except StoreUnavailable:
            self.watch.stand(None, degraded_since=since)

    def _give_back(self, token: str, ttl: float, interval: float) -> Flow[None]:
        call = self.protocol.lease(token, ttl=ttl, interval=interval, give_back=True, now=self._now())
        try:
            yield from self.run(call)
        except StoreUnavailable:
            text = "the poll lease could not be given back; it runs out by itself"
            tell(logging.WARNING, "lease_kept", text, pool=self.protocol.pool)


def understood(read: Callable[..., T], *answer: Any) -> T:
    """What a reader makes of the store's answer. Raises StoreUnavailable if it is none that a script gives."""
    try:
        return read(*answer)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise StoreUnavailable("the store failed: its answer cannot be read") from None


def keep_failed(error: Exception) -> None:
    """Say in the log that a look at the pool failed."""
    text = error if isinstance(error, SendGuardError) else type(error).__name__
    tell(logging.DEBUG, "look_failed", "look failed: %s", text, error=type(error).__name__)


def poll_failed(error: Exception) -> None:
    """Say in the log that a poll failed; only the library's own errors have a text that is safe to log."""
    known = isinstance(error, (LinqError, SendGuardError, ValueError))
    text = error if known else type(error).__name__
    tell(logging.ERROR, "poll_failed", "poll failed: %s", text, error=type(error).__name__)


def number_of(decision: Decision) -> str:
    """The line of a decision. Raises SendBlocked if it was denied."""
    if not decision.allowed or decision.from_number is None:
        raise SendBlocked(decision)
    return decision.from_number


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _reaching(now: float, wait: float) -> float:
    """`wait`, lengthened by what the float clock's own rounding needs for `now + wait` to reach the store's moment."""
    moment = micros(now) + micros(wait)
    while micros(now + wait) < moment:
        wait += 1e-7
    return wait
