"""What Prometheus reads of a guard; needs the extra `sendguard[metrics]`.

    guard = SendGuard(..., metrics=Metrics())

Decisions, webhooks and store errors are counted as they happen. How the lines stand is asked of the store by
`guard.measure()`, in whichever process is to export it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter as Tally
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sendguard.errors import StoreUnavailable, WebhookRejected
from sendguard.models import Decision, Health, Line, LineStatus, Reason

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError:
    raise ImportError("sendguard.metrics needs the extra: pip install 'sendguard[metrics]'") from None

T = TypeVar("T")

SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0)
"""Bounds of the latency histogram: 50 us to 1 s for a decision, the last three for one that waited."""

WEBHOOK_RESULTS = ("applied", "unauthentic", "unreadable", "too_large", "store_unavailable")
_TRUTH = {True: "true", False: "false"}


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a pool stood at a moment, as `PoolMetrics.stand` was told."""

    lines: Sequence[Line] | None
    now: float
    poll_age: float | None
    degraded_since: float | None = None


class Metrics:
    """The metrics of a process, to give to its guards: each counts under the name of its pool.

    registry: where they are registered, Prometheus' default one without. Guards may share one `Metrics`, also a sync
    and an async one; a registry takes no second one (ValueError).
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = REGISTRY if registry is None else registry
        self._decisions = Counter(
            "sendguard_decisions", "Decisions by reason.", ["pool", "allowed", "reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "sendguard_decision_seconds",
            "Seconds that a decision took; waited: whether the caller gave a max_wait.",
            ["pool", "waited"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._webhooks = Counter(
            "sendguard_webhooks", "Webhooks by result.", ["pool", "result"], registry=self.registry
        )
        self._store_errors = Counter(
            "sendguard_store_errors", "Calls that the store did not answer.", ["pool"], registry=self.registry
        )
        self._standings = _Standings()
        self.registry.register(self._standings)
        self._pools: dict[str, PoolMetrics] = {}
        self._lock = threading.Lock()

    def of(self, pool: str) -> PoolMetrics:
        """The metrics of one pool."""
        with self._lock:
            if pool not in self._pools:
                self._pools[pool] = PoolMetrics(self, pool)
            return self._pools[pool]


class PoolMetrics:
    """The metrics of one pool. A series that can be known beforehand starts at 0, so that rates see the first event."""

    def __init__(self, metrics: Metrics, pool: str) -> None:
        self._decisions = {
            (allowed, reason): metrics._decisions.labels(pool, _TRUTH[allowed], reason.value)
            for reason in Reason
            for allowed in (reason.allows,)
        }
        self._new_decisions = partial(metrics._decisions.labels, pool)
        self._seconds = {waited: metrics._seconds.labels(pool, _TRUTH[waited]) for waited in (False, True)}
        self._webhooks = {result: metrics._webhooks.labels(pool, result) for result in WEBHOOK_RESULTS}
        self._store_errors = metrics._store_errors.labels(pool)
        self._stand = partial(metrics._standings.set, pool)

    def decision(self, flow: Generator[Any, Any, Decision], *, waited: bool) -> Generator[Any, Any, Decision]:
        """Count what a flow decides, and time it. waited: whether its caller gave a max_wait."""
        began = time.perf_counter()
        decision = yield from flow
        self._seconds[waited].observe(time.perf_counter() - began)
        counter = self._decisions.get((decision.allowed, decision.reason))
        if counter is None:  # a policy that only observes allows what others deny
            counter = self._new_decisions(_TRUTH[decision.allowed], decision.reason.value)
            self._decisions[decision.allowed, decision.reason] = counter
        counter.inc()
        return decision

    def webhook(self, flow: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Count what becomes of a webhook."""
        try:
            changes = yield from flow
        except WebhookRejected as refusal:
            self.webhook_refused("unreadable" if refusal.authentic else "unauthentic")
            raise
        except StoreUnavailable:
            self.webhook_refused("store_unavailable")
            raise
        self._webhooks["applied"].inc()
        return changes

    def webhook_refused(self, result: str) -> None:
        """Count one webhook that was not applied, by one of WEBHOOK_RESULTS."""
        self._webhooks[result].inc()

    def store_failed(self) -> None:
        """Count one call that the store did not answer."""
        self._store_errors.inc()

    def stand(
        self,
        lines: Sequence[Line] | None,
        now: float = 0.0,
        poll_age: float | None = None,
        degraded_since: float | None = None,
    ) -> None:
        """Set how the pool stands now.

        lines: None where the store did not answer. now: Unix seconds of the store's clock. poll_age: seconds since the
        last poll of any process of the fleet; None if there was none. degraded_since: Unix seconds since which this
        process decides without the store; None while it does not.
        """
        self._stand(_Standing(lines, now, poll_age, degraded_since))


class _Standings(Collector):
    """The gauges: of each pool as it was last measured, and of nothing that was there before."""

    def __init__(self) -> None:
        self._pools: dict[str, _Standing] = {}

    def set(self, pool: str, standing: _Standing) -> None:
        """Take the place of what was known of a pool."""
        self._pools[pool] = standing

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families, without a sample."""
        return iter(_gauges())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, with what is known of each pool."""
        up, degraded, lines, tokens, observation_age, poll_age = gauges = _gauges()
        for pool, standing in list(self._pools.items()):
            up.add_metric([pool], float(standing.lines is not None))
            degraded.add_metric([pool], standing.degraded_since or 0.0)
            for status, health, count in _counts(standing.lines):
                lines.add_metric([pool, status, health], count)
            for line in standing.lines or ():
                if line.tokens is not None:
                    tokens.add_metric([pool, line.number], line.tokens)
            observation_age.add_metric([pool], _oldest(standing))
            poll_age.add_metric([pool], math.nan if standing.poll_age is None else standing.poll_age)
        return iter(gauges)


def _gauges() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily("sendguard_store_up", "1 if the store answered when last asked.", labels=["pool"]),
        GaugeMetricFamily(
            "sendguard_degraded_since_seconds",
            "Unix seconds since which this process decides without the store; 0 while it does not.",
            labels=["pool"],
        ),
        GaugeMetricFamily(
            "sendguard_lines",
            "Lines by status and health; NaN while the store does not answer.",
            labels=["pool", "status", "health"],
        ),
        GaugeMetricFamily(
            "sendguard_line_tokens", "Whole tokens left in the bucket of a paced line.", labels=["pool", "line"]
        ),
        GaugeMetricFamily(
            "sendguard_observation_age_seconds",
            "Since anything was last learnt of the line that was heard of least lately; NaN without lines.",
            labels=["pool"],
        ),
        GaugeMetricFamily(
            "sendguard_poll_age_seconds", "Since the fleet's last poll; NaN before the first.", labels=["pool"]
        ),
    )


def _counts(lines: Sequence[Line] | None) -> Iterator[tuple[str, str, float]]:
    """How many lines have each status and health."""
    counts = Tally((line.status, line.health) for line in lines or ())
    for status in LineStatus:
        for health in Health:
            yield status.value, health.value, math.nan if lines is None else counts[status, health]


def _oldest(standing: _Standing) -> float:
    heard = [max(line.status_observed_at or 0.0, line.health_observed_at or 0.0) for line in standing.lines or ()]
    oldest = min(heard, default=0.0)
    return max(0.0, standing.now - oldest) if oldest else math.nan
