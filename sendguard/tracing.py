"""OpenTelemetry spans around what a guard does, where `opentelemetry-api` is installed and a provider is set.

A span is a child of whatever span is current where the guard is called, and is current itself until the call returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sendguard.errors import SendGuardError, WebhookRejected
from sendguard.models import Decision, Outcome, Reason

if TYPE_CHECKING:
    from opentelemetry.trace import Span

T = TypeVar("T")
Attributes = dict[str, str | bool | int | float]
LOOK_EVERY = 1.0
"""Seconds between two looks whether a provider has been set since the guard was made."""
LINE, DECISION_ID = "sendguard.line", "sendguard.decision_id"


def spans_of(pool: str) -> Spans | None:
    """What traces the calls of a pool's guard; None where OpenTelemetry is not installed."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return Spans(trace, pool)


class Spans:
    """Puts spans around flows. trace: the module `opentelemetry.trace`."""

    def __init__(self, trace: ModuleType, pool: str) -> None:
        from opentelemetry.context import attach, detach

        self._trace, self._pool = trace, pool
        self._attach, self._detach = attach, detach
        self._tracer = trace.get_tracer("sendguard", version("sendguard"))
        self._wanted, self._look_at = False, 0.0

    def wanted(self) -> bool:
        """Whether anybody set a provider of tracers. Without one a span would cost time and go nowhere."""
        if not self._wanted and (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._wanted = not isinstance(self._trace.get_tracer_provider(), self._trace.ProxyTracerProvider)
        return self._wanted

    def around(
        self, name: str, flow: Generator[Any, Any, T], about: Attributes, told: Callable[[T], Attributes]
    ) -> Generator[Any, Any, T]:
        """Carry out a flow in a span.

        about: what is known of it beforehand. told: what its result tells. Neither may hold anything of a recipient.
        """
        span = self._tracer.start_span(f"sendguard.{name}")
        token = self._attach(self._trace.set_span_in_context(span))
        try:
            result = yield from flow
            if span.is_recording():
                span.set_attributes({"sendguard.pool": self._pool, **about, **told(result)})
                if isinstance(result, Decision) and result.reason is Reason.STORE_UNAVAILABLE:
                    self._error(span, "StoreUnavailable", "the store is out of reach")
        except Exception as error:
            span.set_attributes({"sendguard.pool": self._pool, **about})
            self._failed(span, error)
            raise
        finally:
            self._detach(token)
            span.end()
        return result

    def _failed(self, span: Span, error: Exception) -> None:
        """A refused webhook is somebody else's fault, and no error of this call."""
        if isinstance(error, WebhookRejected):
            span.set_attribute("sendguard.webhook.rejected", error.reason)
            return
        # Only the library's own errors have a text that is known to name no recipient.
        known = isinstance(error, (SendGuardError, ValueError))
        self._error(span, type(error).__name__, str(error) if known else "")

    def _error(self, span: Span, kind: str, text: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._trace.StatusCode.ERROR, text or None)


def of_decision(decision: Decision) -> Attributes:
    """What a decision tells a span."""
    found: Attributes = {
        "sendguard.allowed": decision.allowed,
        "sendguard.reason": decision.reason.value,
        DECISION_ID: decision.decision_id,
        "sendguard.new_conversation": decision.new_conversation,
    }
    if decision.from_number is not None:
        found[LINE] = decision.from_number
    if decision.retry_after is not None:
        found["sendguard.retry_after"] = decision.retry_after
    return found


def of_report(decision: Decision, outcome: Outcome) -> Attributes:
    """What is known of a report beforehand. A decision that the sidecar was told of again has no id."""
    known = {LINE: decision.from_number, DECISION_ID: decision.decision_id or None, "sendguard.code": outcome.code}
    return {name: value for name, value in known.items() if value is not None}
