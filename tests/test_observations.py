"""What webhooks and polls do to the pool, in every generation of the payloads, on every store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import redis

from sendguard import Change, LinqError, Reason, SendGuard, WebhookRejected
from sendguard.store.units import micros
from tests.support import SECRET, ManualClock, iso, older_headers, payload, standard_headers

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550123", "+14155550124"
CHANGED_AT = 1_771_439_705.0
Deliver = Callable[..., tuple[Change, ...]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(CHANGED_AT + 2)


@pytest.fixture
def guard(new_guard: Callable[..., SendGuard]) -> SendGuard:
    return new_guard(webhook_secret=SECRET)


@pytest.fixture
def deliver(guard: SendGuard, clock: ManualClock) -> Deliver:
    def send(name: str, *, event_id: str | None = None, **data: Any) -> tuple[Change, ...]:
        content = payload(name)
        if data:
            content["data"].update(data)
        if event_id:
            content["event_id"] = event_id
        body = json.dumps(content).encode()
        return guard.handle_webhook(body, standard_headers(body, clock()))

    return send


def known(guard: SendGuard, number: str = A) -> Any:
    return next(line for line in guard.lines() if line.number == number)


@pytest.mark.parametrize("generation", ["status_only", "health_status", "both", "reputation"])
def test_law_1_every_generation_of_the_status_webhook_flags(
    guard: SendGuard, deliver: Deliver, generation: str
) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY", observed_at=CHANGED_AT - 100)
    changes = deliver(f"status_updated.{generation}")
    assert Change(A, "status", "ACTIVE", "FLAGGED", CHANGED_AT, "webhook") in changes
    assert known(guard).health.value == ("HEALTHY" if generation == "status_only" else "CRITICAL")
    assert guard.decide(ANN).reason is Reason.FLAGGED


def test_law_1_the_bare_payload_of_the_older_docs_flags_too(guard: SendGuard, clock: ManualClock) -> None:
    body = json.dumps(payload("status_updated.seed_data_only")).encode()
    guard.handle_webhook(body, older_headers(body, clock(), event="phone_number.status_updated"))
    assert known(guard).status.value == "FLAGGED"


def test_law_2_duplicates_and_stragglers_change_nothing(guard: SendGuard, deliver: Deliver, clock: ManualClock) -> None:
    assert deliver("status_updated.reputation")
    before = guard.lines()
    assert deliver("status_updated.reputation") == ()
    assert (
        deliver("status_updated.reputation", event_id="late", changed_at=iso(CHANGED_AT - 1), new_status="ACTIVE") == ()
    )
    assert guard.lines() == before
    clock.now = 1_771_578_001.0
    assert deliver("status_updated.recovered")
    assert known(guard).status.value == "ACTIVE"
    assert deliver("status_updated.reputation", event_id="again") == ()
    assert known(guard).status.value == "ACTIVE"


def test_law_10_nothing_unauthenticated_changes_state(guard: SendGuard, clock: ManualClock) -> None:
    guard.observe(A, status="ACTIVE")
    before = guard.lines()
    body = json.dumps(payload("status_updated.both")).encode()
    good = standard_headers(body, clock())
    for headers in ({}, {**good, "webhook-signature": "v1,AAAA"}, {**good, "webhook-id": "other"}):
        with pytest.raises(WebhookRejected):
            guard.handle_webhook(body, headers)
    with pytest.raises(WebhookRejected):
        guard.handle_webhook(body.replace(b"FLAGGED", b"ACTIVE "), good)
    assert guard.lines() == before
    assert guard.handle_webhook(body, good)


def test_assigned_and_released(guard: SendGuard, deliver: Deliver) -> None:
    assert [(c.field, c.old, c.new) for c in deliver("phone_number.assigned")] == [("assigned", None, "true")]
    assert guard.choose_from_number(ANN) == C
    deliver("phone_number.released")
    assert guard.lines() == ()
    assert guard.decide(ANN).reason is Reason.NO_LINES
    assert deliver("phone_number.assigned", event_id="late") == ()
    guard.observe(A, status="ACTIVE")
    assert guard.decide(ANN).reason is Reason.FAILOVER


def test_a_release_that_comes_before_its_assignment(guard: SendGuard, deliver: Deliver) -> None:
    deliver("phone_number.released")
    assert deliver("phone_number.assigned") == ()
    assert guard.lines() == ()


@pytest.mark.parametrize("name", ["message.received.stop", "message.received.2025-01-01"])
def test_an_opt_out_holds_on_every_line_until_they_write(guard: SendGuard, deliver: Deliver, name: str) -> None:
    guard.observe(A, status="ACTIVE")
    guard.observe(B, status="ACTIVE")
    deliver(name)
    for asked in ({}, {"from_number": A}, {"from_number": B}, {"kind": "voice_memo"}):
        decision = guard.decide(ANN, **asked)
        assert (decision.reason, decision.retry_after) == (Reason.OPTED_OUT, None)
    assert guard.decide([ANN, BOB]).allowed
    assert guard.decide(BOB).allowed
    deliver("message.received", event_id="back", sent_at="2026-02-18T18:31:00Z")
    assert guard.decide(ANN).allowed


def test_law_2_consent_goes_by_when_it_was_given(guard: SendGuard, deliver: Deliver) -> None:
    guard.observe(A, status="ACTIVE")
    deliver("message.received", sent_at="2026-02-18T18:31:00Z")
    deliver("message.received.stop")
    assert guard.decide(ANN).allowed
    deliver("message.received.stop", event_id="x", sent_at="2026-02-18T18:31:00Z")
    assert guard.decide(ANN).reason is Reason.OPTED_OUT


def test_an_inbound_message_counts_and_shows_where_a_conversation_lives(guard: SendGuard, deliver: Deliver) -> None:
    guard.observe(B, status="ACTIVE")
    guard.observe(A, status="ACTIVE")
    changes = deliver("message.received")
    assert [(c.number, c.field, c.new) for c in changes] == [(A, "conversation", A)]
    assert known(guard, A).daily_volume == 1
    assert deliver("message.received") == ()
    assert known(guard, A).daily_volume == 1
    decision = guard.decide(ANN)
    assert (decision.reason, decision.from_number) == (Reason.STICKY, A)


def test_law_4_an_inbound_message_elsewhere_moves_no_conversation(guard: SendGuard, deliver: Deliver) -> None:
    guard.observe(B, status="ACTIVE")
    assert guard.choose_from_number(ANN) == B
    guard.observe(A, status="ACTIVE")
    deliver("message.received")
    assert guard.choose_from_number(ANN) == B
    assert guard.decide(ANN, from_number=A).new_conversation is False


def test_a_message_recovered_late_is_history(guard: SendGuard, deliver: Deliver, clock: ManualClock) -> None:
    guard.observe(A, status="ACTIVE")
    clock.advance(86_400)
    deliver("message.received.reconciled")
    assert known(guard).daily_volume == 0


def test_a_send_counts_once_when_its_webhook_comes(guard: SendGuard, deliver: Deliver) -> None:
    guard.observe(A, status="ACTIVE")
    guard.choose_from_number(ANN)
    deliver("message.sent")
    assert known(guard).daily_volume == 1


def test_a_failed_message_cools_its_line_down(guard: SendGuard, deliver: Deliver, clock: ManualClock) -> None:
    guard.observe(A, status="ACTIVE")
    guard.observe(B, status="ACTIVE")
    assert deliver("message.failed.4002") == ()
    deliver("message.sent")
    changes = deliver("message.failed.4002", event_id="second", failed_at=iso(clock() - 10))
    assert [(c.number, c.field) for c in changes] == [(A, "cooling_down_until")]
    assert known(guard).cooling_down_until == clock() + 290
    assert guard.decide(ANN, from_number=A).reason is Reason.COOLING_DOWN
    assert guard.choose_from_number(ANN) == B
    assert deliver("message.failed.4002", event_id="third", code=4001, failed_at=iso(clock())) == ()
    assert not guard.resume(A).cooling_down_until


def test_law_2_a_webhook_of_a_message_never_opens_a_line_that_nobody_knows(guard: SendGuard, deliver: Deliver) -> None:
    assert deliver("message.received") == ()
    assert deliver("message.sent") == ()
    assert guard.lines() == ()


def test_any_other_event_is_acknowledged_and_ignored(guard: SendGuard, clock: ManualClock) -> None:
    for kind in ("chat.created", "message.read", "environment.line_moved", "something.new"):
        body = json.dumps({**payload("message.sent"), "event_type": kind, "event_id": kind}).encode()
        assert guard.handle_webhook(body, standard_headers(body, clock())) == ()
    assert guard.lines() == ()


def test_law_10_no_handle_is_stored_or_logged(
    valkey: Any,
    pool: str,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    guard = SendGuard(valkey.url, pool=pool, clock=clock, webhook_secret=SECRET, timeout=5)
    guard.observe(A, status="ACTIVE")
    guard.report(guard.decide([ANN, "cy@example.com"], idempotency_key="job-1"), "unknown")
    guard.decide(ANN)
    for name in ("message.received.stop", "message.sent"):
        body = json.dumps(payload(name)).encode()
        guard.handle_webhook(body, standard_headers(body, clock()))
    with redis.Redis.from_url(valkey.url) as client:
        keys = list(client.scan_iter(f"sendguard:{{{pool}}}:*"))
        stored = b"".join(keys) + b"".join(client.dump(key) or b"" for key in keys)
    assert len(keys) >= 6
    said = caplog.text + repr(guard) + repr(guard.decide(ANN))
    for secret in (ANN, ANN[1:], "cy@example.com", "job-1", SECRET):
        assert secret.encode() not in stored
        assert secret not in said
    guard.close()


# Polls ---------------------------------------------------------------------------------------------------------------


class Api:
    """Answers GET /v3/phone_numbers with what it is told."""

    def __init__(self) -> None:
        self.answer: Any = {"phone_numbers": []}
        self.during: Callable[[], None] = lambda: None
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.during()
                body = json.dumps(api.answer).encode()
                self.send_response(200 if self.headers["Authorization"] == "Bearer key" else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/api/partner"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def lists(self, *numbers: str) -> None:
        self.answer = {"phone_numbers": [{"id": number, "phone_number": number} for number in numbers]}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.server.shutdown()
    api.server.server_close()


@pytest.fixture
def polled(new_guard: Callable[..., SendGuard], api: Api) -> SendGuard:
    return new_guard(api_key="key", api_base_url=api.base_url)


@pytest.mark.parametrize(
    ("generation", "healths"),
    [
        ("plain", ["HEALTHY", "HEALTHY"]),
        ("health_status", ["HEALTHY", "AT_RISK", "CRITICAL"]),
        ("both", ["HEALTHY", "CRITICAL"]),
        ("reputation", ["HEALTHY", "AT_RISK"]),
    ],
)
def test_every_generation_of_the_poll(polled: SendGuard, api: Api, generation: str, healths: list[str]) -> None:
    api.answer = payload(f"phone_numbers.{generation}")
    assert polled.sync_lines()
    assert [line.health.value for line in polled.lines()] == healths
    assert polled.sync_lines() == ()
    if generation == "reputation":
        assert [line.line_type for line in polled.lines()] == ["iMessage", "RCS"]
        assert polled.choose_from_number(ANN, line_type="RCS") == B
        assert polled.choose_from_number(BOB, line_type="iMessage") == A


def test_law_2_a_poll_without_status_never_clears_flagged(polled: SendGuard, api: Api, clock: ManualClock) -> None:
    api.answer = payload("phone_numbers.reputation")
    polled.observe(A, status="FLAGGED")
    clock.advance(60)
    polled.sync_lines()
    assert known(polled).status.value == "FLAGGED"
    api.answer["phone_numbers"][0]["status"] = "ACTIVE"
    polled.sync_lines()
    assert known(polled).status.value == "ACTIVE"


def test_law_2_a_poll_counts_from_when_its_request_was_sent(polled: SendGuard, api: Api, clock: ManualClock) -> None:
    """A webhook that comes while the poll is under way is newer than what the poll brings."""
    api.answer = payload("phone_numbers.reputation")

    def during() -> None:
        clock.advance(1)
        polled.observe(A, health="CRITICAL")
        clock.advance(1)

    api.during = during
    polled.sync_lines()
    assert known(polled).health.value == "CRITICAL"
    assert micros(known(polled).health_observed_at) == micros(clock() - 1)


def test_a_number_that_a_poll_misses_is_released(polled: SendGuard, api: Api, clock: ManualClock) -> None:
    api.lists(A, B, C)
    polled.sync_lines()
    clock.advance(60)
    api.lists(A, C)
    assert [(c.number, c.field, c.new) for c in polled.sync_lines()] == [(B, "assigned", "false")]
    assert [line.number for line in polled.lines()] == [A, C]


@pytest.mark.parametrize("left", [(), (A,)])
def test_a_mass_loss_needs_a_second_poll(
    polled: SendGuard, api: Api, clock: ManualClock, left: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    api.lists(A, B, C)
    polled.sync_lines()
    clock.advance(60)
    api.lists(*left)
    assert polled.sync_lines() == ()
    assert len(polled.lines()) == 3
    assert "waiting for a second poll" in caplog.text
    clock.advance(60)
    polled.sync_lines()
    assert [line.number for line in polled.lines()] == list(left)


def test_a_mass_loss_that_heals_is_forgotten(polled: SendGuard, api: Api, clock: ManualClock) -> None:
    for lists in ((A, B, C), (), (A, B, C), ()):
        clock.advance(60)
        api.lists(*lists)
        polled.sync_lines()
    assert len(polled.lines()) == 3


def test_a_line_assigned_while_the_poll_was_under_way_stays(polled: SendGuard, api: Api, clock: ManualClock) -> None:
    api.lists(A)
    polled.sync_lines()

    def during() -> None:
        clock.advance(1)
        polled._drive(
            polled._flows.run(polled._flows.protocol.observe([_assigned(B, clock())], source="webhook", now=clock()))
        )
        clock.advance(1)

    api.during = during
    polled.sync_lines()
    assert [line.number for line in polled.lines()] == [A, B]


def _assigned(number: str, at: float) -> Any:
    from sendguard.linq.events import LineUpdate

    return LineUpdate(number, at, assigned=True)


def test_a_refused_poll_says_so_and_changes_nothing(new_guard: Callable[..., SendGuard], api: Api) -> None:
    guard = new_guard(api_key="wrong-secret", api_base_url=api.base_url)
    with pytest.raises(LinqError) as refused:
        guard.sync_lines()
    assert refused.value.status == 401
    assert "wrong-secret" not in str(refused.value)
    assert guard.lines() == ()


def test_transitions_stand_once_and_in_order_with_their_source_and_event(
    guard: SendGuard, deliver: Deliver, clock: ManualClock
) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY", observed_at=CHANGED_AT - 100, source="audit")
    first = guard.transitions()
    assert [(t.change.field, t.change.new, t.change.source) for t in first] == [
        ("status", "ACTIVE", "audit"),
        ("health", "HEALTHY", "audit"),
    ]
    deliver("status_updated.reputation", event_id="evt-1")
    deliver("status_updated.reputation", event_id="evt-1")
    guard.observe(A, status="FLAGGED", observed_at=CHANGED_AT - 50)
    guard.pause(A, until=clock() + 60)
    new = guard.transitions(first[-1].transition_id)
    assert [(t.change.field, t.change.old, t.change.new, t.change.source, t.event_id) for t in new] == [
        ("status", "ACTIVE", "FLAGGED", "webhook", "evt-1"),
        ("health", "HEALTHY", "CRITICAL", "webhook", "evt-1"),
        ("paused_until", None, str(micros(clock() + 60)), "operator", None),
    ]
    assert [t.transition_id for t in guard.transitions(count=1)] == [first[0].transition_id]
    assert guard.transitions(new[-1].transition_id) == ()
    for arguments in ({"after": "now"}, {"count": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            guard.transitions(**arguments)
    with pytest.raises(ValueError, match="source"):
        guard.observe(A, status="ACTIVE", source="")
