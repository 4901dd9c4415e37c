"""Which change of a line is worth an alert, and of which severity. Pure."""

from __future__ import annotations

from sendguard.alerts.models import Severity
from sendguard.models import Change, Health, LineStatus

AUDITED = (Severity.WARNING, Severity.INFO)
"""The severities that start a reputation audit: CRITICAL and AT_RISK."""


def severity_of(change: Change) -> Severity | None:
    """The severity of a change, None if nobody needs to know. An unknown status counts as FLAGGED, health as AT_RISK.

    The first that is learnt of a line is a change from None: it is worth an alert only where it is bad.
    """
    if change.field == "status":
        return _graver(change, LineStatus.ACTIVE.value, Severity.PAGE)
    if change.field == "health":
        critical = change.new == Health.CRITICAL.value
        return _graver(change, Health.HEALTHY.value, Severity.WARNING if critical else Severity.INFO)
    return None


def _graver(change: Change, good: str, bad: Severity) -> Severity | None:
    if change.new != good:
        return None if change.new is None else bad
    return None if change.old in (None, good) else Severity.RECOVERY


def ended_by(severity: Severity, field: str) -> tuple[Severity, ...]:
    """The severities whose channels hear of one without URLs of its own: a recovery goes where the bad news went."""
    if severity is not Severity.RECOVERY:
        return (severity,)
    return (Severity.PAGE,) if field == "status" else AUDITED
