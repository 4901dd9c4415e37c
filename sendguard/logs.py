"""What sendguard writes to the log: the standard `logging`, under "sendguard", each record with an `event` and fields.

`docs/metrics.md` lists the events. No record holds a recipient but as the keyed hash that the store knows them by.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sendguard.models import Change, Decision, Health, LineStatus

LOGGER = logging.getLogger("sendguard")
_TAKEN_AS = {"status": ", taken as FLAGGED", "health": ", taken as AT_RISK"}
_QUIET = 1.0
"""Seconds without a failure after which a store that answers counts as back: a few timeouts a second are one outage."""
_REMIND = 60.0
"""Seconds between two records of an outage that lasts."""


def tell(level: int, event: str, text: str, *args: object, **fields: object) -> None:
    """Write one record. event: its name, which stays the same; fields: its `extra`; text, args: for people."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, text, *args, extra={"event": event, **fields}, stacklevel=2)


def tell_change(pool: str, change: Change) -> None:
    """A transition of a line: WARNING where it is FLAGGED now, or where its status or health is one not known."""
    known = {"status": LineStatus, "health": Health}.get(change.field)
    odd = known is not None and change.new not in known.__members__
    grave = odd or (change.field == "status" and change.new != LineStatus.ACTIVE)
    text = f"line %s: %s %r -> %r (%s){_TAKEN_AS[change.field] if odd else ''}"
    tell(
        logging.WARNING if grave else logging.INFO,
        "transition",
        text,
        *(change.number, change.field, change.old, change.new, change.source),
        **{"pool": pool, "line": change.number, "field": change.field, "old": change.old, "new": change.new},
        **{"observed_at": change.observed_at, "source": change.source},
    )


def tell_decision(pool: str, conversation: str, decision: Decision) -> None:
    """A decision, allowed or not. conversation: the keyed hash of its recipients."""
    names = ("decision_id", "allowed", "retry_after", "wait")
    tell(
        logging.DEBUG,
        "decision",
        "decision %s: %s",
        decision.decision_id,
        decision.reason.value,
        pool=pool,
        line=decision.from_number,
        reason=decision.reason.value,
        conversation=conversation,
        **{name: getattr(decision, name) for name in names},
    )


class Outages:
    """Tells once when the store stops answering, once a minute while it does not, and once when it is back.

    down: whether it is out of reach as far as is known. clock: seconds, only their differences count.
    """

    def __init__(self, pool: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.down = False
        self._pool, self._clock = pool, clock
        self._lock = threading.Lock()
        self._failures, self._began, self._last, self._told = 0, 0.0, 0.0, 0.0

    def failed(self, error: Exception) -> None:
        """A call that the store did not answer. error: of ours, with a text that is safe to log."""
        with self._lock:
            now = self._last = self._clock()
            if not self.down:
                self.down, self._failures, self._began, self._told = True, 0, now, -_REMIND + now
            self._failures += 1
            if now - self._told < _REMIND:
                return
            self._told, failures, seconds = now, self._failures, now - self._began
        tell(
            logging.ERROR, "store_unavailable", "%s (calls failed: %d, in %.0f s)", error, failures, seconds,
            pool=self._pool, failures=failures, seconds=round(seconds, 3),
        )  # fmt: skip

    def answered(self) -> None:
        """A call that the store answered while it counted as down."""
        with self._lock:
            now = self._clock()
            if not self.down or now - self._last < _QUIET:
                return
            self.down, failures, seconds = False, self._failures, now - self._began
        tell(
            logging.WARNING, "store_available", "the store is back after %.0f s (calls failed: %d)", seconds, failures,
            pool=self._pool, failures=failures, seconds=round(seconds, 3),
        )  # fmt: skip


def json_formatter() -> logging.Formatter:
    """A formatter for one JSON object a line: `time` (UTC), `level`, `logger`, `message`, and the record's fields.

    Raises ImportError naming the extra `sendguard[logs]` where python-json-logger is not installed.
    """
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError:
        raise ImportError("logs as JSON need the extra: pip install 'sendguard[logs]'") from None
    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    formatter = JsonFormatter("{asctime}{levelname}{name}{message}", style="{", rename_fields=names)
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    return formatter
