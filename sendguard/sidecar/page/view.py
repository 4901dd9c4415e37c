"""What a watcher of the pool sees, as rows that are sent when they change. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sendguard.models import Line, Transition
from sendguard.policy import Policy
from sendguard.sidecar.models import LineBody
from sendguard.sidecar.page.minutes import SPAN, Minutes, milliseconds
from sendguard.sidecar.page.sheet import Sheet, as_json
from sendguard.store.units import NEVER

TRANSITIONS = 50
"""Of the last transitions, how many are shown."""


def _limit(limit: Any) -> dict[str, float] | None:
    return None if limit is None else asdict(limit)


def line_row(line: Line, policy: Policy, sends: int) -> dict[str, Any]:
    """A line with the limits that hold for it now. sends: of the last minute."""
    limits = policy.limits_of(line.number)
    return LineBody.of(line).model_dump(mode="json") | {
        "bucket": _limit(limits[line.health.value.lower()]),
        "daily_volume_quota": _limit(limits["daily_volume"]),
        "new_conversations_quota": _limit(limits["new_conversations"]),
        "sends": sends,
    }


def transition_row(transition: Transition) -> dict[str, Any]:
    """A transition and when it was recorded, Unix seconds. The end of a pause that only an operator ends is "never"."""
    row = asdict(transition.change) | {"recorded_at": milliseconds(transition.transition_id) / 1000}
    if row["field"].endswith("_until"):
        row |= {name: row[name] and _moment(int(row[name])) for name in ("old", "new")}
    return row


def _moment(micros: int) -> float | str:
    return "never" if micros >= NEVER else micros / 1_000_000


class View:
    """The pool as one reader last read it.

    What is put belongs to the next version, which `turn` makes the current one: a watcher who looks in between sees
    some of it early, and again.
    """

    def __init__(self, pool: str, policy: Policy) -> None:
        self.version = 0
        self.minutes = Minutes()
        self._policy = policy
        self._head: dict[str, Any] = {"pool": pool, "mode": policy.mode, "minutes_kept": SPAN}
        self._lines, self._minutes, self._transitions = Sheet(), Sheet(), Sheet()
        self._shown: dict[str, tuple[Line, int]] = {}
        self._latest: deque[str] = deque(maxlen=TRANSITIONS)
        self._frames: dict[int, bytes] = {}

    def turn(self, **head: Any) -> None:
        """Make what was put the current version. head: what is sent with every frame from now on."""
        self.version += 1
        self._head |= head
        self._frames.clear()

    def put_lines(self, lines: Sequence[Line], sends: Counter[str]) -> None:
        """Set the rows of some lines, where they or their sends changed. sends: of the last minute, by line."""
        for line in lines:
            shown = (line, sends[line.number])
            if self._shown.get(line.number) != shown:
                self._shown[line.number] = shown
                self._lines.put(line.number, line_row(line, self._policy, sends[line.number]), self.version + 1)

    def keep_lines(self, lines: Iterable[Line]) -> None:
        """Take away the rows of all other lines."""
        gone = self._shown.keys() - {line.number for line in lines}
        for number in gone:
            del self._shown[number]
        self._lines.take_away(gone, self.version + 1)

    def put_minutes(self, now: float) -> None:
        """Set the counts of the hour's minutes. now: Unix seconds."""
        self.minutes.forget(now)
        counts = {str(minute): counts for minute, counts in self.minutes.counts.items()}
        for minute, four in counts.items():
            self._minutes.put(minute, four, self.version + 1)
        self._minutes.keep(counts)

    def put_transitions(self, transitions: Iterable[Transition]) -> None:
        """Add transitions, oldest first; only the last are kept."""
        for transition in transitions:
            self._latest.append(transition.transition_id)
            self._transitions.put(transition.transition_id, transition_row(transition), self.version + 1)
        self._transitions.keep(self._latest)

    def frame(self, since: int) -> bytes:
        """The server-sent event for a watcher who has seen a version, 0 for none. Made once for all who ask alike."""
        if since not in self._frames:
            sheets = {"lines": self._lines, "minutes": self._minutes, "transitions": self._transitions}
            rows = ",".join(f'"{name}":{sheet.since(since)}' for name, sheet in sheets.items())
            head = as_json(self._head | {"full": since == 0})
            self._frames[since] = f"event: pool\ndata: {head[:-1]},{rows}}}\n\n".encode()
        return self._frames[since]
