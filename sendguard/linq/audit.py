"""Linq's reputation audit of a line: its two calls, and what they answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from pydantic import BeforeValidator, Field

from sendguard.errors import LinqError
from sendguard.linq.fields import AsObjects, Lenient, State, Text, text


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Driver(Lenient):
    """What drives a line's reputation. key: as Linq names it, such as `volume_spike`; metric: what was measured."""

    key: Text = None
    summary: Text = None
    metric: Text = None


class ActionItem(Lenient):
    """What Linq advises to do. priority: 1 comes first."""

    priority: Annotated[float | None, BeforeValidator(_number)] = None
    title: Text = None
    detail: Text = None


class AuditReport(Lenient):
    """What an audit found: the driver that weighs most, all drivers, and what to do, most urgent first."""

    severity: State = None
    primary_driver: Text = None
    drivers: Annotated[tuple[Driver, ...], AsObjects] = ()
    action_items: Annotated[tuple[ActionItem, ...], AsObjects] = Field(default=())

    def actions(self) -> list[ActionItem]:
        """The action items, most urgent first."""
        return sorted(self.action_items, key=lambda item: float("inf") if item.priority is None else item.priority)


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    """What the API answered. report: None until it is complete; over: no other answer will come."""

    audit_id: str
    over: bool
    report: AuditReport | None


def audit_path(number: str, audit_id: str | None) -> str:
    """The path that starts an audit of a line, or with an id the one that reads it."""
    start = f"/v3/phone_numbers/{quote(number, safe='')}/reputation_audit"
    return start if audit_id is None else f"{start}/{quote(audit_id, safe='')}"


def parse_audit(payload: object) -> AuditAnswer:
    """The answer of either call. Raises LinqError if it cannot be read."""
    found = payload if isinstance(payload, dict) else {}
    audit_id, status, report = text(found.get("audit_id")), found.get("status"), found.get("report")
    if audit_id is None or not isinstance(status, str):
        raise LinqError("the reputation audit has an answer that cannot be read")
    complete = status == "complete" and isinstance(report, dict)
    return AuditAnswer(
        audit_id,
        over=status in ("complete", "error"),
        report=AuditReport.model_validate(report) if complete else None,
    )
