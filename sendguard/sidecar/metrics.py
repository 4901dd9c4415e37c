"""What Prometheus reads. Each app counts in a registry of its own."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sendguard.models import Decision, Health, Line, LineStatus

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WEBHOOK_RESULTS = {200: "applied", 400: "unreadable", 401: "unauthentic", 413: "too_large", 503: "store_unavailable"}


class Metrics:
    """The sidecar's metrics: what was decided is counted as it happens, how the lines stand is asked when read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decisions = Counter(
            "sendguard_decisions", "Decisions by reason.", ["allowed", "reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "sendguard_decision_seconds",
            "Seconds that a decision took; waited: whether the caller gave a max_wait.",
            ["waited"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._webhooks = Counter("sendguard_webhooks", "Webhooks by result.", ["result"], registry=self.registry)
        self._store_errors = Counter(
            "sendguard_store_errors", "Times that the store did not answer a request.", registry=self.registry
        )
        self._store_up = Gauge("sendguard_store_up", "1 if the store answered just now.", registry=self.registry)
        self._lines = Gauge(
            "sendguard_lines", "Lines by status and health.", ["status", "health"], registry=self.registry
        )
        self._poll_age = Gauge(
            "sendguard_poll_age_seconds", "Since the fleet's last poll; NaN before the first.", registry=self.registry
        )
        self._observation_age = Gauge(
            "sendguard_observation_age_seconds",
            "Since anything was last learnt of the line that was heard of least lately; NaN without lines.",
            registry=self.registry,
        )

    def decided(self, decision: Decision, seconds: float, *, waited: bool) -> None:
        """Count one decision."""
        self._decisions.labels("true" if decision.allowed else "false", decision.reason.value).inc()
        self._seconds.labels("true" if waited else "false").observe(seconds)

    def webhook(self, status: int) -> None:
        """Count one webhook by the status that it was answered with."""
        self._webhooks.labels(_WEBHOOK_RESULTS[status]).inc()

    def store_failed(self) -> None:
        """Count one request that the store did not answer."""
        self._store_errors.inc()

    def standing(self, lines: Sequence[Line] | None, poll_age: float | None) -> None:
        """Set how the pool stands now. lines: None if the store does not answer."""
        self._store_up.set(lines is not None)
        self._poll_age.set(float("nan") if poll_age is None else poll_age)
        self._observation_age.set(_oldest(lines or ()))
        counts = Tally((line.status, line.health) for line in lines or ())
        for status in LineStatus:
            for health in Health:
                gauge = self._lines.labels(status.value, health.value)
                gauge.set(float("nan") if lines is None else counts[status, health])

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


def _oldest(lines: Sequence[Line]) -> float:
    heard = [max(line.status_observed_at or 0.0, line.health_observed_at or 0.0) for line in lines]
    oldest = min(heard, default=0.0)
    return max(0.0, time.time() - oldest) if oldest else float("nan")
