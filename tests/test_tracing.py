"""OpenTelemetry spans, through the real SDK: what they tell, whose children they are, and what they never hold."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sendguard import (
    AsyncSendGuard,
    LinqError,
    Outcome,
    Policy,
    SendBlocked,
    SendGuard,
    StoreUnavailable,
    TokenBucket,
    WebhookRejected,
    tracing,
)
from sendguard.simulator import Simulator
from sendguard.steps import Wait
from tests.servers import Server
from tests.support import SECRET, ManualClock, payload, standard_headers

LINE, PERSON, ANN = "+12025550101", "+14155550123", "ann@example.com"
DEAD = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The process's provider, for the time of one test."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield found
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("sendguard."): value for name, value in (span.attributes or {}).items()}


def only(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = (span for span in exporter.get_finished_spans() if span.name == f"sendguard.{name}")
    return span


def test_a_decision_is_a_span(new_guard: Callable[..., SendGuard], exporter: InMemorySpanExporter, pool: str) -> None:
    guard = new_guard()
    guard.observe(LINE, status="ACTIVE")
    decision = guard.decide(PERSON)
    span = only(exporter, "decide")
    assert attributes(span) == {
        "pool": pool,
        "allowed": True,
        "reason": "new_conversation",
        "line": LINE,
        "decision_id": decision.decision_id,
        "new_conversation": True,
    }
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "sendguard"


def test_a_denial_tells_when_to_ask_again_and_is_no_error(
    new_guard: Callable[..., SendGuard], exporter: InMemorySpanExporter
) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(1, per=100)))
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    guard.decide(PERSON)
    with pytest.raises(SendBlocked):
        guard.choose_from_number(PERSON)
    span = only(exporter, "choose")
    assert attributes(span)["allowed"] is False
    assert attributes(span)["reason"] == "throttled"
    assert attributes(span)["retry_after"] == pytest.approx(100, abs=1e-3)
    assert "line" not in attributes(span)
    assert span.status.status_code is StatusCode.UNSET


def test_it_is_the_child_of_what_is_current_and_current_itself(
    guard: SendGuard, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[Any] = []
    run = guard._store.run
    monkeypatch.setattr(guard._store, "run", lambda *call: (inside.append(trace.get_current_span()), run(*call))[1])
    with trace.get_tracer("app").start_as_current_span("request") as outer:
        guard.decide(PERSON)
        assert trace.get_current_span() is outer
    span = only(exporter, "decide")
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id
    assert inside[-1].get_span_context().span_id == span.get_span_context().span_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_report_is_a_span(guard: SendGuard, exporter: InMemorySpanExporter, pool: str) -> None:
    guard.observe(LINE, status="ACTIVE")
    decision = guard.decide(PERSON)
    guard.report(decision, Outcome(False, code=2027))
    assert attributes(only(exporter, "report")) == {
        "pool": pool,
        "line": LINE,
        "decision_id": decision.decision_id,
        "code": 2027,
    }


def test_a_webhook_is_a_span_and_a_refused_one_no_error(
    new_guard: Callable[..., SendGuard], exporter: InMemorySpanExporter
) -> None:
    guard = new_guard(webhook_secret=SECRET, clock=None)
    body = json.dumps(payload("status_updated.reputation")).encode()
    changes = guard.handle_webhook(body, standard_headers(body, time.time()))
    assert attributes(only(exporter, "handle_webhook"))["changes"] == len(changes) > 0
    exporter.clear()
    with pytest.raises(WebhookRejected):
        guard.handle_webhook(body, {})
    span = only(exporter, "handle_webhook")
    assert attributes(span)["webhook.rejected"] == "there are no signature headers"
    assert span.status.status_code is StatusCode.UNSET


def test_a_poll_is_a_span_also_one_of_a_poller(
    new_guard: Callable[..., SendGuard], exporter: InMemorySpanExporter
) -> None:
    with Simulator([LINE]) as api:
        guard = new_guard(api_key=api.api_key, api_base_url=api.base_url, clock=None)
        guard._drive(guard._flows.poll_if_due("token", 60, 10))
        assert attributes(only(exporter, "sync_lines"))["changes"] > 0
        exporter.clear()
        guard.sync_lines()
        assert attributes(only(exporter, "sync_lines"))["changes"] == 0
    exporter.clear()
    with pytest.raises(LinqError):
        new_guard(api_key="k", api_base_url="http://127.0.0.1:1").sync_lines()
    span = only(exporter, "sync_lines")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "LinqError"


def test_a_store_that_fails_is_an_error(exporter: InMemorySpanExporter) -> None:
    guard = SendGuard(DEAD, webhook_secret=SECRET, clock=ManualClock(1_771_000_000.0))
    guard.decide(PERSON)
    body = json.dumps(payload("status_updated.reputation")).encode()
    with pytest.raises(StoreUnavailable):
        guard.handle_webhook(body, standard_headers(body, 1_771_000_000.0))
    for name in ("decide", "handle_webhook"):
        span = only(exporter, name)
        assert span.status.status_code is StatusCode.ERROR
        assert "store" in (span.status.description or "")
        assert (span.attributes or {})["error.type"] == "StoreUnavailable"
    assert attributes(only(exporter, "decide"))["reason"] == "store_unavailable"


def test_an_error_of_somebody_elses_is_told_by_its_name_alone(
    guard: SendGuard, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"cannot send to {PERSON}")

    monkeypatch.setattr(guard._store, "run", fail)
    with pytest.raises(RuntimeError):
        guard.decide(PERSON)
    span = only(exporter, "decide")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "RuntimeError"
    assert PERSON not in span.to_json()


def test_async_calls_are_the_children_of_their_own_task(
    valkey: Server, pool: str, exporter: InMemorySpanExporter
) -> None:
    tracer = trace.get_tracer("app")
    policy = Policy(at_risk=TokenBucket(5, per=1, burst=1))

    async def send(guard: AsyncSendGuard, person: int) -> None:
        with tracer.start_as_current_span(f"send {person}") as outer:
            await guard.choose_from_number(f"+1415555000{person}", max_wait=5)
            assert trace.get_current_span() is outer

    async def live() -> None:
        async with AsyncSendGuard(valkey.url, pool=pool, timeout=5.0, policy=policy) as guard:
            await guard.observe(LINE, status="ACTIVE", health="AT_RISK")
            tasks = [asyncio.create_task(send(guard, person)) for person in range(4)]
            await asyncio.sleep(0)
            assert not trace.get_current_span().get_span_context().is_valid
            await asyncio.gather(*tasks)
            assert not trace.get_current_span().get_span_context().is_valid

    asyncio.run(live())
    spans = exporter.get_finished_spans()
    outer = {span.context.span_id: span for span in spans if span.name.startswith("send ")}
    chosen = [span for span in spans if span.name == "sendguard.choose"]
    assert len(chosen) == len(outer) == 4
    assert {span.parent.span_id for span in chosen if span.parent} == outer.keys()
    for span in chosen:
        assert span.parent is not None
        assert span.context.trace_id == outer[span.parent.span_id].context.trace_id


def test_a_task_that_is_cancelled_ends_its_span(
    valkey: Server, pool: str, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> None:
        async with AsyncSendGuard(
            valkey.url, pool=pool, timeout=5.0, policy=Policy(at_risk=TokenBucket(1, per=100))
        ) as guard:
            await guard.observe(LINE, status="ACTIVE", health="AT_RISK")
            await guard.decide(PERSON)
            perform, waits = guard._perform, asyncio.Event()

            def noted(step: Any) -> Any:
                if isinstance(step, Wait):
                    waits.set()
                return perform(step)

            guard._perform = noted  # type: ignore[method-assign]
            waiting = asyncio.create_task(guard.choose_from_number(PERSON, max_wait=1000))
            await waits.wait()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(live())
    span, given_back = only(exporter, "choose"), only(exporter, "report")
    assert span.status.status_code is StatusCode.UNSET
    assert given_back.parent is not None
    assert given_back.parent.span_id == span.get_span_context().span_id
    assert "detach" not in caplog.text


def test_no_span_holds_a_recipient(new_guard: Callable[..., SendGuard], exporter: InMemorySpanExporter) -> None:
    guard = new_guard(webhook_secret=SECRET, clock=None)
    guard.observe(LINE, status="ACTIVE")
    for to in (PERSON, ANN, [PERSON, ANN]):
        guard.report(guard.decide(to, idempotency_key="order-1"), "not_sent")
        with guard.sending(to):
            pass
    body = json.dumps(payload("message.received")).encode()
    guard.handle_webhook(body, standard_headers(body, time.time()))
    spans = exporter.get_finished_spans()
    assert len(spans) > 9
    said = "".join(span.to_json() for span in spans)
    sender = payload("message.received")["data"]["sender_handle"]["handle"]
    for secret in (PERSON, ANN, "order-1", SECRET, sender):
        assert secret not in said


def test_without_a_provider_no_span_is_begun(
    new_guard: Callable[..., SendGuard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    guard = new_guard()
    flow: Any = guard._flows.decide(None)  # type: ignore[arg-type]
    assert flow.gi_code.co_name == "_decide"
    monkeypatch.undo()


def test_a_provider_that_is_set_later_counts(
    new_guard: Callable[..., SendGuard], monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter
) -> None:
    provider = trace.get_tracer_provider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(tracing, "LOOK_EVERY", 0.0)
    guard = new_guard()
    guard.decide(PERSON)
    assert exporter.get_finished_spans() == ()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    guard.decide(PERSON)
    assert attributes(only(exporter, "decide"))["reason"] == "no_lines"
