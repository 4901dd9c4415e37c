"""A circuit breaker: a store that is down is asked now and then, not by every send. Pure: times come in."""

from __future__ import annotations

FAILURES = 3
"""Failures in a row that open it."""
PROBE_EVERY = 0.2
"""Seconds between two calls that an open breaker lets through."""


class Breaker:
    """Closed while the store works; open after `FAILURES` in a row. Times are of a monotonic clock, in seconds.

    failures: how many calls failed since one was answered; at 0 there is nothing to ask it, and nothing to tell it.
    Safe between threads: the worst that a race can do is to let one more probe through.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._probe_at = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may go to the store; an open breaker lets one through each `PROBE_EVERY` seconds."""
        if self.failures < FAILURES:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_EVERY
        return True

    def failed(self, now: float) -> None:
        """Note that the store did not answer."""
        self.failures += 1
        self._probe_at = now + PROBE_EVERY

    def worked(self) -> None:
        """Note that the store answered."""
        self.failures = 0
