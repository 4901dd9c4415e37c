"""An alert as people read it: which line, since when, what the guard does, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sendguard.alerts.advice import guard_does, person_does, request_to_linq, state_of, taking_over, traffic
from sendguard.alerts.models import Alert, Audit, Severity
from sendguard.alerts.words import counted, moment, span
from sendguard.linq.audit import AuditReport
from sendguard.models import Change, Health, Line, Transition
from sendguard.policy import Policy

_MOST_DRIVERS = 5
_MOST_ACTIONS = 3
_HANDLE = re.compile(r"\+?[0-9][0-9 ().-]{5,}[0-9]|[^\s@<>()]+@[^\s@<>()]+\.[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What an alert is made of. record: what the store keeps of it; line: as it stands, None if it is gone; others:
    the pool's other lines; now: Unix seconds.
    """

    alert_id: str
    record: Mapping[str, str]
    line: Line | None
    others: Sequence[Line]
    audit: Audit | None
    policy: Policy
    pool: str
    now: float

    @property
    def severity(self) -> Severity:
        return Severity(self.record["severity"])

    @property
    def since(self) -> float:
        return float(self.record["at"])

    @property
    def recovered(self) -> bool:
        return self.severity is Severity.RECOVERY

    @property
    def reminder(self) -> bool:
        return self.record["reminder"] == "1"


def compose(facts: Facts) -> Alert:
    """The alert that the facts make."""
    record = facts.record
    request = "" if facts.recovered else _request(facts)
    sections = [
        _what_happened(facts),
        *([_audit(facts.audit, facts.others, record["number"])] if facts.audit is not None else []),
        _what_the_guard_does(facts),
        *(["What to do:\n" + _listed(person_does(facts.line))] if facts.line is not None else []),
        *([f"Request to your Linq representative, ready to send:\n\n{request}"] if request else []),
    ]
    return Alert(
        alert_id=facts.alert_id,
        severity=facts.severity,
        number=record["number"],
        title=_title(facts),
        text="\n\n".join(sections),
        request=request,
        since=facts.since,
        transition=None if facts.reminder else _transition(record),
        line=facts.line,
        repeats=int(record["repeats"]),
        audit=facts.audit,
        reminder=facts.reminder,
        pool=facts.pool,
    )


def _transition(record: Mapping[str, str]) -> Transition:
    change = Change(
        record["number"],
        record["field"],
        record["old"] or None,
        record["new"] or None,
        float(record["at"]),
        record["source"],
    )
    return Transition(record["transition"], change, record["event"] or None)


def _title(facts: Facts) -> str:
    number, new = facts.record["number"], facts.record["new"]
    if facts.reminder:
        return f"{number} is still {new}, with no news for {span_about(facts.now - facts.since)}"
    return f"{number} is {new} again" if facts.recovered else f"{number} is {new}"


def span_about(seconds: float) -> str:
    """A length of time in whole hours."""
    return span(max(1, int(seconds // 3600)) * 3600)


def _what_happened(facts: Facts) -> str:
    record = facts.record
    was = f" (before: {record['old']})" if record["old"] else ""
    if facts.reminder:
        told = f"Line {record['number']} of pool {facts.pool} is {record['new']}; the last news is of"
        lines = [f"{told} {moment(facts.since)}."]
    else:
        told = f"Line {record['number']} of pool {facts.pool}: {record['field']} {record['new']}{was}"
        lines = [f"{told}, since {moment(facts.since)}, told by {record['source']}."]
    if repeats := int(record["repeats"]):
        since = moment(int(record["repeats_since"]) / 1_000_000)
        lines.append(f"Its {record['field']} changed {counted(repeats, 'time')} since {since} without an alert.")
    lines.append(_stands(facts))
    return "\n".join(line for line in lines if line)


def _stands(facts: Facts) -> str:
    if facts.line is None:
        return "It is no longer a line of the pool."
    new = facts.record["new"]
    value = facts.line.raw_status if facts.record["field"] == "status" else facts.line.raw_health
    by_now = "" if value == new else " by now"
    return (
        f"It is {facts.line.status.value} and {facts.line.health.value}{by_now}; {traffic(facts.line, facts.policy)}."
    )


def _what_the_guard_does(facts: Facts) -> str:
    if facts.line is None:
        return "What the guard does now: nothing leaves on it."
    told = "What the guard does now:\n" + _listed(guard_does(facts.line, facts.policy))
    if state_of(facts.line) == Health.HEALTHY.value:
        return told
    return told + "\n\n" + "\n".join(taking_over(facts.others, facts.policy))


def _request(facts: Facts) -> str:
    record = facts.record
    return request_to_linq(
        record["number"],
        record["new"],
        facts.since,
        record["event"] or None,
        facts.line,
        facts.policy,
        reminder=facts.reminder,
    )


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


# The audit -----------------------------------------------------------------------------------------------------------


def _audit(audit: Audit, others: Sequence[Line], number: str) -> str:
    ours = {line.number for line in others} | {number}
    if audit.problem is None and audit.report is not None:
        return "Linq's reputation audit:\n" + _report(audit.report, ours)
    told = f"Linq's reputation audit is not part of this: {audit.problem}."
    if audit.report is None or audit.report_at is None:
        return told
    return f"{told}\nThe last one, of {moment(audit.report_at)}:\n{_report(audit.report, ours)}"


def _report(report: AuditReport, ours: set[str]) -> str:
    told = [f"Primary driver: {report.primary_driver or 'not told'}"]
    for driver in report.drivers[:_MOST_DRIVERS]:
        metric = f" ({driver.metric})" if driver.metric else ""
        told.append(f"{driver.key or 'driver'}: {driver.summary or 'no summary'}{metric}")
    for action in report.actions()[:_MOST_ACTIONS]:
        detail = f": {action.detail}" if action.detail else ""
        told.append(f"To do: {action.title or 'see the report'}{detail}")
    return without_handles(_listed([" ".join(line.split()) for line in told]), ours)


def without_handles(text: str, ours: set[str]) -> str:
    """A text of the API's without phone numbers and e-mail addresses, but for the account's own lines."""
    return _HANDLE.sub(lambda found: found[0] if found[0] in ours else "[removed]", text)
