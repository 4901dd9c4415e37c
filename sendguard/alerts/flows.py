"""What an alerter does, step by step, without doing any of it; as `sendguard.flows` for a guard.

Transitions are consumed exactly once: the script that raises an alert acknowledges the entry, and queues the alert for
each channel, in one step. A channel's queue is at-least-once: who takes an alert holds it for `claim_after` seconds,
and removes it once it is told. Only between the telling and the removal can a crash make an alert double.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import Any

from sendguard.alerts.audits import AuditFlows, audit_of
from sendguard.alerts.channels import Channel, Work
from sendguard.alerts.models import Alert, Audit, Severity
from sendguard.alerts.plan import Plan
from sendguard.alerts.protocol import (
    TOLD,
    AlertProtocol,
    claimed_of,
    entry_of,
    record_of,
    taken_of,
    told_of,
)
from sendguard.alerts.rules import AUDITED, severity_of
from sendguard.alerts.text import Facts, compose
from sendguard.errors import StoreUnavailable
from sendguard.flows import Flows
from sendguard.logs import tell
from sendguard.models import Line, LineStatus
from sendguard.replies import line_of, streams_of, texts
from sendguard.steps import Flow, Join, Wait
from sendguard.store import ScriptRefused

_LINES_PER_CALL = 50
_LINES_KEPT = 10.0
"""Seconds that the pool's lines are remembered for the texts, so that many alerts at once do not burden the store."""
_LONGEST_SEND = 120.0
_LONGEST_BACKOFF = 300.0
_GIVE_UP_AFTER = 6 * 3600.0
_MARKING_TRIES = 10
_AUDIT_LOOK = 1.0
_HEARS_BACK = 60.0
"""Seconds before the start of a pool's first alerter from which it hears of changes; clocks may differ by that."""
_REMINDER_LOOK = 60.0


class AlertFlows:
    """The steps of one alerter over the flows of its guard."""

    def __init__(self, flows: Flows, plan: Plan) -> None:
        self._flows, self._plan, self._pool = flows, plan, flows.protocol.pool
        self._protocol = AlertProtocol(flows.protocol, plan.name)
        self._audits = AuditFlows(flows, self._protocol, plan.claim_after, plan.interval)
        self._queues = {channel.identity: self._protocol.channel_key(channel.identity) for channel in plan.channels}
        self._hears_from = f"{int((time.time() - _HEARS_BACK) * 1000)}-0"
        self._lines: tuple[Line, ...] = ()
        self._lines_until = 0.0

    def _now(self) -> float | None:
        return self._flows._now()

    # Transitions become alerts ---------------------------------------------------------------------------------------

    def hear(self) -> Flow[float]:
        """Raise the alerts of what changed, and those whose quiet time is over. Returns the seconds until the next."""
        entries = yield from self._entries()
        silent: list[str] = []
        for entry in entries:
            transition = entry_of(entry)
            severity = None if transition is None else severity_of(transition.change)
            if transition is None or severity is None:
                silent.extend(texts(entry[:1]))
                continue
            yield from self._raise(transition.transition_id, severity, told_of(transition))
        if silent:
            yield from self._flows.run(self._protocol.acknowledge(silent))
        released = yield from self._release()
        return 0.0 if entries or released else self._plan.interval

    def _entries(self) -> Flow[list[Any]]:
        """What others left undone, then what is new."""
        try:
            claimed = claimed_of((yield from self._flows.run(self._protocol.claim(self._plan.claim_after))))
            return claimed + streams_of((yield from self._flows.run(self._protocol.read())))
        except ScriptRefused:  # no group: this is the first alerter, or the store was lost
            with contextlib.suppress(ScriptRefused):  # another process was faster
                yield from self._flows.run(self._protocol.create_group(self._hears_from))
            return streams_of((yield from self._flows.run(self._protocol.read())))

    def _raise(self, whence: str, severity: Severity, told: dict[str, str]) -> Flow[None]:
        field, number = told["field"], told["number"]
        rule = self._plan.rules[severity]
        reminder = whence == "reminder"
        call = self._protocol.raise_alert(
            whence,
            f"{number}|reminder" if reminder else f"{number}|{field}",
            severity,
            told,
            quiet=self._plan.remind_after if reminder else rule.quiet,
            audit_wait=self._plan.audit_wait if severity in AUDITED else 0.0,
            channels=[self._queues[channel.identity] for channel in self._plan.routes[severity, field]],
            now=self._now(),
        )
        (outcome,) = texts([(yield from self._flows.run(call))])
        if outcome != "gone":
            tell(logging.INFO, "alert_raised", "alert %s of line %s: %s %s", told["transition"], number, severity.value,
                 outcome, pool=self._pool, alert_id=told["transition"], line=number, severity=severity.value,
                 outcome=outcome)  # fmt: skip

    def _release(self) -> Flow[bool]:
        """Raise what the quiet time of one line held back, if it is over."""
        take = self._protocol.take(self._protocol.held, self._plan.claim_after, self._now())
        subject = taken_of((yield from self._flows.run(take))).member
        if not subject:
            return False
        kept = record_of((yield from self._flows.run(self._protocol.repeats(subject))))
        if "transition" not in kept:
            yield from self._flows.run(self._protocol.remove(self._protocol.held, subject))
            return True
        told = {name: kept[name] for name in TOLD}
        yield from self._raise("held", Severity(kept["severity"]), told)
        return True

    def remind(self) -> Flow[float]:
        """Raise a reminder of each line that is FLAGGED for long with no news. Returns the seconds until the next."""
        now = yield from self._flows.now()
        numbers: list[str] = []
        for command in self._protocol.flagged():
            numbers += texts((yield from self._flows.run(command)))
        for batch in _batches(numbers):
            rows = yield from self._flows.run(self._flows.protocol.lines(batch, self._now()))
            for line in map(line_of, rows):
                if _is_due(line, now, self._plan.remind_after):
                    yield from self._raise("reminder", Severity.PAGE, _reminder_of(line, now))
        return min(_REMINDER_LOOK, self._plan.remind_after)

    # Audits ----------------------------------------------------------------------------------------------------------

    def audit(self) -> Flow[float]:
        """Take one line's reputation audit a step further. Returns the seconds until the next."""
        return (yield from self._audits.step(self._plan.audit_wait))

    # Alerts are told -------------------------------------------------------------------------------------------------

    def deliver(self, channel: Channel) -> Flow[float]:
        """Tell a channel the first alert that is due. Returns the seconds until the next."""
        queue = self._queues[channel.identity]
        take = self._protocol.take(queue, self._plan.claim_after, self._now())
        wait, now, alert_id = taken_of((yield from self._flows.run(take)))
        if not alert_id:
            return self._plan.interval if wait is None else min(wait, self._plan.interval)
        record = record_of((yield from self._flows.run(self._protocol.alert(alert_id))))
        if (yield from self._is_void(channel, queue, record, now)):
            yield from self._flows.run(self._protocol.remove(queue, alert_id))
            return 0.0
        audit = yield from self._audit_for(record, now)
        if audit is None and record["audit_until"]:
            yield from self._flows.run(self._protocol.put_back(queue, alert_id, _AUDIT_LOOK, self._now()))
            return 0.0
        alert = yield from self._compose(alert_id, record, audit, now)
        problem = yield from self._tell(channel, queue, alert)
        if problem is None:
            yield from self._told(channel, queue, alert, record)
        else:
            yield from self._failed(channel, queue, alert_id, problem)
        return 0.0

    def _is_void(self, channel: Channel, queue: str, record: dict[str, str], now: float) -> Flow[bool]:
        """Whether an alert is not worth telling any more."""
        if "raised_at" not in record:
            return True
        subject = f"{record['number']}|{record['field']}"
        if now - int(record["raised_at"]) / 1_000_000 > _GIVE_UP_AFTER:
            tell(logging.ERROR, "alert_given_up", "alert %s was never told to %s: given up", record["transition"],
                 channel.label, pool=self._pool, alert_id=record["transition"], channel=channel.label)  # fmt: skip
            return True
        closed = yield from self._flows.run(self._protocol.closed(queue, subject))
        if closed is None or record["reminder"]:
            return False
        return _order(texts([closed])[0]) > _order(record["transition"])  # what it tells is over, and was told to be

    def _audit_for(self, record: dict[str, str], now: float) -> Flow[Audit | None]:
        """What an alert shows of its audit; None while it is worth waiting for."""
        if not record["audit_until"]:
            return None
        found = record_of((yield from self._flows.run(self._protocol.audit(record["number"]))))
        return audit_of(found, now, late=now >= int(record["audit_until"]) / 1_000_000)

    def _compose(self, alert_id: str, record: dict[str, str], audit: Audit | None, now: float) -> Flow[Alert]:
        lines = yield from self._lines_lately()
        number = record["number"]
        rows = yield from self._flows.run(self._flows.protocol.lines([number], self._now()))
        line = line_of(rows[0]) if rows else None
        others = tuple(other for other in lines if other.number != number)
        protocol = self._flows.protocol
        return compose(Facts(alert_id, record, line, others, audit, protocol.policy, protocol.pool, now))

    def _lines_lately(self) -> Flow[tuple[Line, ...]]:
        if time.monotonic() >= self._lines_until:
            rows: list[Any] = []
            for batch in _batches(texts((yield from self._flows.run(self._protocol.numbers())))):
                rows += yield from self._flows.run(self._flows.protocol.lines(batch, self._now()))
            self._lines = tuple(map(line_of, rows))
            self._lines_until = time.monotonic() + _LINES_KEPT
        return self._lines

    def _tell(self, channel: Channel, queue: str, alert: Alert) -> Flow[str | None]:
        """Tell a channel, and keep the alert from others meanwhile. Returns why it failed, None if it did not."""
        work: Work = channel.start(alert)
        lease = self._plan.claim_after
        until = time.monotonic() + max(_LONGEST_SEND, lease)
        while not (yield Join(work, lease / 3)):
            if time.monotonic() >= until:
                return f"no end after {_LONGEST_SEND:.0f} s"
            try:
                yield from self._flows.run(self._protocol.put_back(queue, alert.alert_id, lease, self._now()))
            except StoreUnavailable:
                tell(logging.WARNING, "alert_not_kept", "alert %s: the store is out of reach while %s is told",
                     alert.alert_id, channel.label, pool=self._pool, alert_id=alert.alert_id,
                     channel=channel.label)  # fmt: skip
        return work.result()

    def _told(self, channel: Channel, queue: str, alert: Alert, record: dict[str, str]) -> Flow[None]:
        """Remove what was told, in spite of a store that is out of reach for moments: else it is told again."""
        for left in reversed(range(_MARKING_TRIES)):
            try:
                if alert.severity is Severity.RECOVERY:
                    subject = f"{record['number']}|{record['field']}"
                    yield from self._flows.run(self._protocol.close(queue, subject, record["transition"]))
                yield from self._flows.run(self._protocol.remove(queue, alert.alert_id))
                break
            except StoreUnavailable:
                if not left:
                    raise
                yield Wait(1.0)
        tell(logging.INFO, "alert_told", "alert %s was told to %s", alert.alert_id, channel.label, pool=self._pool,
             alert_id=alert.alert_id, channel=channel.label, line=alert.number,
             severity=alert.severity.value)  # fmt: skip

    def _failed(self, channel: Channel, queue: str, alert_id: str, problem: str) -> Flow[None]:
        tries = int((yield from self._flows.run(self._protocol.count_try(alert_id, queue))))
        delay = min(2.0 ** min(tries - 1, 10), _LONGEST_BACKOFF) * (1 + random.random() / 10)
        tell(logging.ERROR, "alert_failed", "alert %s: %s failed (%s), again in %.0f s", alert_id, channel.label,
             problem, delay, pool=self._pool, alert_id=alert_id, channel=channel.label, problem=problem)  # fmt: skip
        yield from self._flows.run(self._protocol.put_back(queue, alert_id, delay, self._now()))


def _batches(numbers: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(numbers), _LINES_PER_CALL):
        yield numbers[start : start + _LINES_PER_CALL]


def _is_due(line: Line, now: float, remind_after: float) -> bool:
    told_at = line.status_observed_at
    return line.status is LineStatus.FLAGGED and told_at is not None and now - told_at >= remind_after


def _reminder_of(line: Line, now: float) -> dict[str, str]:
    """A reminder as what an alert keeps of it."""
    return {
        "transition": f"{int(now * 1000)}-reminder-{line.number}",
        "number": line.number,
        "field": "status",
        "old": "",
        "new": line.raw_status or line.status.value,
        "at": repr(line.status_observed_at),
        "source": "",
        "event": "",
        "reminder": "1",
    }


def _order(transition_id: str) -> tuple[int, int]:
    milliseconds, _, count = transition_id.partition("-")
    return int(milliseconds), int(count)
