"""Decisions counted by minute, and each line's sends of the last minute. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from sendguard.models import DecisionRecord, Reason

SPAN = 60
"""Minutes that are kept."""

ALLOWED, FAILED_OVER, THROTTLED, DENIED = range(4)
_SAID_BEFORE = frozenset({"repeated", "confirmed"})


def milliseconds(entry_id: str) -> int:
    """When an entry of a stream was written, Unix milliseconds."""
    return int(entry_id.partition("-")[0])


def outcome_of(record: DecisionRecord) -> int:
    """Which of the four counts a decision belongs to."""
    if record.allowed:
        return FAILED_OVER if record.reason is Reason.FAILOVER else ALLOWED
    return THROTTLED if record.reason is Reason.THROTTLED else DENIED


class Minutes:
    """What was decided in the last hour. An answer that was only given again is not counted again."""

    def __init__(self) -> None:
        self.counts: dict[int, list[int]] = {}
        """Of each minute since the epoch in which there was a decision, its four counts."""
        self._sends: deque[tuple[int, Counter[str]]] = deque()

    def add(self, records: Iterable[DecisionRecord]) -> None:
        """Count decisions, oldest first."""
        for record in records:
            if record.remembered in _SAID_BEFORE:
                continue
            second = milliseconds(record.entry_id) // 1000
            self.counts.setdefault(second // 60, [0, 0, 0, 0])[outcome_of(record)] += 1
            if record.allowed and record.from_number is not None:
                self._sent(second, record.from_number)

    def _sent(self, second: int, number: str) -> None:
        if not self._sends or self._sends[-1][0] < second:
            self._sends.append((second, Counter()))
        self._sends[-1][1][number] += 1

    def forget(self, now: float) -> None:
        """Drop what is older than the hour, and sends older than a minute. now: Unix seconds."""
        first = int(now) // 60 - SPAN + 1
        for minute in [minute for minute in self.counts if minute < first]:
            del self.counts[minute]
        while self._sends and self._sends[0][0] <= now - 60:
            self._sends.popleft()

    def sends(self) -> Counter[str]:
        """Sends of each line in the last minute."""
        total: Counter[str] = Counter()
        for _, sent in self._sends:
            total.update(sent)
        return total
