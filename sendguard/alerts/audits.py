"""The reputation audit of a line, step by step: started, polled until it is over, its cooldown kept; one a line at a
time in the whole fleet, by a queue in the store.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from sendguard.alerts.models import Audit
from sendguard.alerts.protocol import AlertProtocol, record_of, taken_of
from sendguard.alerts.words import moment
from sendguard.errors import LinqError
from sendguard.flows import Flows
from sendguard.linq.audit import AuditAnswer, AuditReport
from sendguard.logs import tell
from sendguard.steps import AskAudit, Flow

_LOOK = 1.0
_AGAIN = 5.0
_GIVE_UP_AFTER = 900.0
_REPORT_KEPT = 86_400.0
"""Seconds that Linq keeps a report readable, and that it is shown where a new one cannot be had."""


class AuditFlows:
    """The steps of the audits. lease: seconds that one step may take before another process tries."""

    def __init__(self, flows: Flows, protocol: AlertProtocol, lease: float, interval: float) -> None:
        self._flows, self._protocol = flows, protocol
        self._lease, self._interval = max(lease, 60.0), interval

    def step(self, alert_waits: float) -> Flow[float]:
        """Take the audit that is due a step further. alert_waits: seconds that alerts wait for it.

        Returns the seconds until the next.
        """
        take = self._protocol.take(self._protocol.audits, self._lease, self._flows._now())
        wait, now, number = taken_of((yield from self._flows.run(take)))
        if not number:
            return self._interval if wait is None else min(wait, self._interval)
        record = record_of((yield from self._flows.run(self._protocol.audit(number))))
        if record.get("state") != "running":
            yield from self._flows.run(self._protocol.remove(self._protocol.audits, number))
            return 0.0
        asked_at = int(record["asked_at"]) / 1_000_000
        try:
            answer: AuditAnswer = yield AskAudit(number, record.get("audit_id"))
        except LinqError as error:
            yield from self._refused(number, error, now, asked_at + alert_waits)
        except ValueError as error:  # no API key is set
            yield from self._finish(number, str(error))
        else:
            yield from self._answered(number, answer, now, asked_at)
        return 0.0

    def _answered(self, number: str, answer: AuditAnswer, now: float, asked_at: float) -> Flow[None]:
        if answer.report is not None:
            report = answer.report.model_dump_json()
            yield from self._flows.run(self._protocol.note_audit(number, report=report, report_at=repr(now)))
            yield from self._finish(number, "")
        elif answer.over:
            yield from self._finish(number, "Linq's audit ended without a report")
        elif now - asked_at > _GIVE_UP_AFTER:
            yield from self._finish(number, "Linq's audit did not finish")
        else:
            yield from self._flows.run(self._protocol.note_audit(number, audit_id=answer.audit_id))
            yield from self._again(number, _LOOK)

    def _refused(self, number: str, error: LinqError, now: float, until: float) -> Flow[None]:
        cooldown = error.status == 429
        passing = cooldown or error.status is None or error.status >= 500
        delay = error.retry_after if error.retry_after is not None else _AGAIN
        if passing and now + delay <= until:
            yield from self._again(number, max(delay, _LOOK))
        elif cooldown:
            yield from self._finish(number, f"Linq starts no new audit of this line before {moment(now + delay)}")
        else:
            yield from self._finish(number, str(error))

    def _again(self, number: str, delay: float) -> Flow[None]:
        yield from self._flows.run(self._protocol.put_back(self._protocol.audits, number, delay, self._flows._now()))

    def _finish(self, number: str, problem: str) -> Flow[None]:
        """Note how an audit ended; `problem` is "" where it brought a report."""
        tell(
            logging.WARNING if problem else logging.INFO,
            "audit_over",
            "reputation audit of line %s: %s",
            number,
            problem or "complete",
            pool=self._flows.protocol.pool,
            line=number,
            problem=problem or None,
        )
        yield from self._flows.run(
            self._protocol.remove(self._protocol.audits, number)
        )  # first, so that who asks meanwhile is queued anew
        yield from self._flows.run(self._protocol.note_audit(number, state="over", problem=problem))


def audit_of(record: dict[str, str], now: float, *, late: bool) -> Audit | None:
    """What an alert shows of a line's audit; None while it runs and the alert is not late yet."""
    running = record.get("state") == "running"
    if running and not late:
        return None
    problem = "it did not finish in time" if running or not record else record.get("problem", "")
    report_at = float(record.get("report_at", "0"))
    report = _report_of(record.get("report", "")) if now - report_at < _REPORT_KEPT else None
    if not problem and report is None:
        problem = "its report cannot be read"
    return Audit(report, None if report is None else report_at, problem or None)


def _report_of(text: str) -> AuditReport | None:
    try:
        return AuditReport.model_validate_json(text) if text else None
    except ValidationError:
        return None
