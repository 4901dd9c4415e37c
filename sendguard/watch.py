"""What watches the flows of a guard: its metrics and its spans, put around each flow that either tells of.

A flow knows of neither, and neither knows who carries it out: `SendGuard`, `AsyncSendGuard` or the sidecar.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from sendguard.models import Decision, Line, Outcome
from sendguard.tracing import Spans, of_decision, of_report, spans_of

if TYPE_CHECKING:
    from sendguard.metrics import Metrics

T = TypeVar("T")
S = TypeVar("S", bound=Sized)
Watched = Generator[Any, Any, T]


def check_metrics(metrics: object) -> Metrics | None:
    """`metrics`, if it is a `Metrics` or None; else ValueError naming it."""
    if metrics is None:
        return None
    from sendguard.metrics import Metrics

    if not isinstance(metrics, Metrics):
        raise ValueError("metrics must be a sendguard.metrics.Metrics")
    return metrics


def watch_of(pool: str, metrics: Metrics | None) -> Watch | None:
    """What watches a guard of a pool; None where nobody would see it, so that nothing is paid for it."""
    spans = spans_of(pool)
    return None if metrics is None and spans is None else Watch(pool, metrics, spans)


class Watch:
    """Watches the flows of one guard. metrics, spans: None where they are not wanted."""

    def __init__(self, pool: str, metrics: Metrics | None, spans: Spans | None) -> None:
        self.metrics = metrics
        self._counts = None if metrics is None else metrics.of(pool)
        self._spans = spans

    def wanted(self) -> bool:
        """Whether anybody looks at decisions now."""
        return self._counts is not None or (self._spans is not None and self._spans.wanted())

    def decision(self, name: str, flow: Watched[Decision], *, waited: bool) -> Watched[Decision]:
        """A decision under way. waited: whether its caller gave a max_wait."""
        if self._counts is not None:
            flow = self._counts.decision(flow, waited=waited)
        if self._spans is not None and self._spans.wanted():
            flow = self._spans.around(name, flow, {}, of_decision)
        return flow

    def report(self, flow: Watched[None], decision: Decision, outcome: Outcome) -> Watched[None]:
        """A report under way."""
        if self._spans is None or not self._spans.wanted():
            return flow
        return self._spans.around("report", flow, of_report(decision, outcome), lambda _: {})

    def webhook(self, flow: Watched[S]) -> Watched[S]:
        """A webhook being handled."""
        return self._changing("handle_webhook", flow if self._counts is None else self._counts.webhook(flow))

    def sync(self, flow: Watched[S]) -> Watched[S]:
        """A poll under way."""
        return self._changing("sync_lines", flow)

    def _changing(self, name: str, flow: Watched[S]) -> Watched[S]:
        if self._spans is None or not self._spans.wanted():
            return flow
        return self._spans.around(name, flow, {}, lambda changes: {"sendguard.changes": len(changes)})

    def webhook_refused(self, result: str) -> None:
        """A webhook that was refused before a flow began."""
        if self._counts is not None:
            self._counts.webhook_refused(result)

    def store_failed(self) -> None:
        """A call that the store did not answer."""
        if self._counts is not None:
            self._counts.store_failed()

    def stand(
        self,
        lines: Sequence[Line] | None,
        now: float = 0.0,
        poll_age: float | None = None,
        degraded_since: float | None = None,
    ) -> None:
        """How the pool stands, as `PoolMetrics.stand` takes it."""
        if self._counts is not None:
            self._counts.stand(lines, now, poll_age, degraded_since)
