"""Reputation audits of the simulated account: one at a time a line, ready after a while, then a cooldown. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from sendguard.models import Health

from . import shapes
from .model import ApiError, Json, SimulatedLine, new_id

_READABLE = 86_400.0


@dataclass(slots=True)
class AuditKnobs:
    """How audits go. Change the fields at any time.

    takes: seconds until one is complete. cooldown: seconds after its end in which the line's next one is refused (429
    with `Retry-After`). fails: they end in error instead of a report.
    """

    takes: float = 0.2
    cooldown: float = 3600.0
    fails: bool = False


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An audit that was started. Times are Unix seconds."""

    id: str
    line: str
    health: Health
    started_at: float
    ready_at: float
    fails: bool


@dataclass(slots=True)
class Audits:
    """The audits of an account. refused: the lines whose audit was refused by its cooldown, in order."""

    knobs: AuditKnobs = field(default_factory=AuditKnobs)
    started: list[AuditRecord] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def start(self, line: SimulatedLine, now: float) -> Json:
        """The answer of a start. Raises ApiError 429 1007 in the cooldown."""
        last = next((audit for audit in reversed(self.started) if audit.line == line.number), None)
        if last is None or now >= last.ready_at + self.knobs.cooldown:
            last = AuditRecord(new_id(), line.number, line.health, now, now + self.knobs.takes, self.knobs.fails)
            self.started.append(last)
        elif now >= last.ready_at:
            self.refused.append(line.number)
            wait = last.ready_at + self.knobs.cooldown - now
            raise ApiError(429, 1007, "The line was audited lately", retry_after=wait)
        return {"audit_id": last.id, "status": "pending"}

    def read(self, number: str, audit_id: str, now: float) -> Json:
        """The answer of a read. Raises ApiError 404 2001."""
        found = next((audit for audit in self.started if (audit.id, audit.line) == (audit_id, number)), None)
        if found is None or now > found.ready_at + _READABLE:
            raise ApiError(404, 2001, "Audit not found")
        if now < found.ready_at:
            return {"audit_id": found.id, "status": "pending"}
        if found.fails:
            return {"audit_id": found.id, "status": "error", "phone": number}
        return shapes.audit(found.id, number, found.health, found.ready_at)
