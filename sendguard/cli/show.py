"""How things look: tables that are drawn in a terminal and plain elsewhere, times, and a line's standing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sendguard.models import Health, Line, LineStatus
from sendguard.policy import Policy
from sendguard.sidecar.models import LineBody

LINE_COLUMNS = ("LINE", "STATUS", "HEALTH", "SENDS", "TODAY", "NEW", "HEARD", "USED")
_STYLES = {
    "FLAGGED": "bold red",
    "CRITICAL": "red",
    "AT_RISK": "yellow",
    "ACTIVE": "green",
    "HEALTHY": "green",
    "fail": "bold red",
    "warn": "yellow",
    "ok": "green",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_NONE = "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows under their headings; words that tell a standing in its colour."""
    drawn = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return drawn


def put(out: Console, what: RenderableType) -> None:
    """Print; where nobody looks at a terminal, without the blanks that fill a table's last column."""
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as captured:
        out.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def put_json(value: Any) -> None:
    """Print JSON, on one line."""
    print(json.dumps(value, allow_nan=False))


def span(seconds: float) -> str:
    """A span of time in its largest unit that is not below 1: "12 s", "3 min"."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.1f} s"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    return f"{seconds / size:.0f} {unit}"


def moment(at: float) -> str:
    """Unix seconds as local time, to the millisecond."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")


def ago(at: float | None, now: float) -> str:
    """How long ago a time was; "-" if it never was."""
    return _NONE if at is None else f"{span(now - at)} ago"


def gravity(line: Line) -> tuple[int, str]:
    """What lines are sorted by, so that the worst come first."""
    standing = (
        line.status is LineStatus.FLAGGED,
        line.paused,
        line.cooling_down_until is not None,
        line.health is Health.CRITICAL,
        line.health is Health.AT_RISK,
        line.next_send_at is not None,
    )
    return next((rank for rank, true in enumerate(standing) if true), len(standing)), line.number


def sends(line: Line, now: float) -> str:
    """When a line may next send, in words."""
    why = ""
    if line.status is LineStatus.FLAGGED:
        return "no: flagged"
    if line.paused:
        why = "paused"
    elif line.cooling_down_until is not None:
        why = "cooling down"
    if line.next_send_at is None:
        return "now"
    if math.isinf(line.next_send_at):
        return f"no: {why or 'its bucket is empty for good'}"
    return f"in {span(line.next_send_at - now)}" + (f": {why}" if why else "")


def line_row(line: Line, policy: Policy, now: float) -> tuple[str, ...]:
    """A line's cells under LINE_COLUMNS."""
    limits = policy.limits_of(line.number)
    heard = max((at for at in (line.status_observed_at, line.health_observed_at) if at is not None), default=None)
    return (
        line.number,
        line.status.value,
        line.health.value,
        sends(line, now),
        _used(line.daily_volume, limits["daily_volume"]),
        _used(line.new_conversations, limits["new_conversations"]),
        ago(heard, now),
        ago(line.last_used_at, now),
    )


def line_table(lines: Iterable[Line], policy: Policy, now: float) -> Table:
    """Lines, in the order given."""
    return table(LINE_COLUMNS, (line_row(line, policy, now) for line in lines))


def line_json(line: Line) -> dict[str, Any]:
    """A line as the sidecar's API gives it."""
    return LineBody.of(line).model_dump(mode="json")


def _used(count: int, quota: Any) -> str:
    return str(count) if quota is None else f"{count}/{quota.limit}"
