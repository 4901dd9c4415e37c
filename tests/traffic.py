"""Traffic of every kind that a guard knows, so that a test can look at what it leaves behind or needs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from sendguard import (
    AsyncSendGuard,
    Outcome,
    Policy,
    Quota,
    SendBlocked,
    SendGuard,
    SendGuardTransport,
    TokenBucket,
)
from sendguard.alerts import Alert, Rule
from sendguard.simulator import Simulator
from tests.servers import free_port
from tests.support import SECRET, ManualClock, iso, older_headers, standard_headers

A, B, C = "+12025550101", "+12025550102", "+12025550103"
PHONE, OTHER_PHONE, MAIL = "+14153917264", "+442079460958", "Zaphod.Quux+tag@Mail.Example"
NEEDLES = ("3917264", "79460958", "aphod", "quux")
"""What shows a recipient in any text, in lower case."""

_POLICY = Policy(overrides={C: {"new_conversations": Quota(5, per=60)}}, at_risk=TokenBucket(tokens=5, per=1, burst=1))


def _event(kind: str, number: int, **data: Any) -> bytes:
    return json.dumps({"event_type": kind, "event_id": f"event-{number}", "data": data}).encode()


def _webhooks() -> Iterator[bytes]:
    now = time.time()
    chat = {"id": "chat-1", "is_group": False, "owner_handle": {"handle": A, "is_me": True}}
    group = {"id": "chat-2", "is_group": True, "owner_handle": {"handle": B, "is_me": True}}
    said = {"sent_at": iso(now), "parts": [{"type": "text", "value": "STOP"}]}
    yield _event("phone_number.status_updated", 1, phone_number=B, new_status="FLAGGED", changed_at=iso(now))
    yield _event("phone_number.assigned", 2, phone_number=C, changed_at=iso(now))
    yield _event("phone_number.released", 3, phone_number="+12025550109", changed_at=iso(now))
    yield _event("message.received", 4, chat=chat, sender_handle={"handle": MAIL}, **said)
    yield _event("message.received", 5, chat=group, sender_handle={"handle": PHONE}, **said)
    yield _event("message.sent", 6, chat=chat, handles=[{"handle": PHONE}], sent_at=iso(now))
    yield _event("message.failed", 7, code=4002, chat_id="chat-1", failed_at=iso(now))
    yield _event("chat.created", 8, id="chat-3", handles=[{"handle": OTHER_PHONE}])


def _settles(guard: SendGuard) -> None:
    for outcome in ("sent", "not_sent", "unknown", Outcome(None, 2024), Outcome(None, 1007, 5.0), Outcome(None, 2027)):
        guard.report(guard.decide(OTHER_PHONE, idempotency_key=f"key of {OTHER_PHONE}"), outcome)
        guard.report(guard.decide(OTHER_PHONE, from_number=C), outcome)


def _by_httpx(guard: SendGuard, api: Simulator) -> None:
    """Creates a chat and writes into it, as the official SDK does."""
    headers = {"Authorization": f"Bearer {api.api_key}"}
    message = {"parts": [{"type": "text", "value": "Hello"}], "idempotency_key": f"hello {PHONE}"}
    with httpx.Client(base_url=api.base_url, transport=SendGuardTransport(guard), headers=headers) as client:
        for to in ([PHONE], [PHONE, OTHER_PHONE]):
            answer = client.post("/v3/chats", json={"from": A, "to": to, "message": message})
            chat_id = answer.json()["chat"]["id"]
            client.post(f"/v3/chats/{chat_id}/messages", json={"message": message})
        client.post("/v3/messages", json={"to": [MAIL], "message": message})


def _polls(guard: SendGuard, api: Simulator) -> None:
    """Polls that find a line, that miss one and that miss most of them; and a lease that another holds."""
    if A not in [line.number for line in api.lines()]:
        api.assign(A)
    guard.observe(A, status="ACTIVE")
    guard.sync_lines()
    api.release(A)
    guard.sync_lines()
    api.assign(A)
    guard.sync_lines()
    poll = guard._flows.poll_if_due
    guard._drive(guard._flows.run(guard._flows.protocol.lease("x", ttl=9, interval=1e-6, give_back=False, now=None)))
    assert guard._drive(poll("y", 1e-6, 9)) > 0
    guard._drive(guard._flows.run(guard._flows.protocol.lease("x", ttl=9, interval=1e-6, give_back=True, now=None)))
    guard._drive(poll("y", 1e-6, 9))


def _by_hand(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    guard.pause(A, until=time.time() + 60)
    guard.resume(A)
    guard.lines()
    guard.transitions()
    guard._drive(guard._flows.poll_age())
    guard._drive(guard._flows.keep())
    guard._flows.keeper._last = "1-1"  # what a process knows that saw more than the store holds
    guard._drive(guard._flows.keep())


def _sends(guard: SendGuard) -> None:
    guard.decide([PHONE, MAIL, OTHER_PHONE], exclude=[C])
    guard.decide(MAIL, kind="voice_memo")
    with guard.sending(PHONE):
        pass

    @guard.guarded
    def with_line(to: str, from_number: str = "") -> None:
        assert to != from_number

    for to in (PHONE, OTHER_PHONE):
        try:
            with_line(to)
            guard.choose_from_number(to, max_wait=0.3, idempotency_key="once")
            guard.choose_from_number(to, max_wait=0.3)
        except SendBlocked:
            pass


async def _asynchronously(url: Any, options: Mapping[str, Any]) -> None:
    guard = AsyncSendGuard(url, **options)
    try:
        await guard.observe(B, health="AT_RISK")
        await guard.decide([PHONE, MAIL])
        await guard.lines()
        await guard._drive(guard._flows.keep())
    finally:
        await guard.close()


def run_alerts(url: str, pool: str, api: Simulator, **options: Any) -> None:
    """Everything that an alerter does: alerts told and failed, quiet times, reminders and audits."""
    clock, told = ManualClock(time.time()), list[Alert]()
    given = {"timeout": 5.0, "refresh": None, "api_key": api.api_key, "api_base_url": api.base_url, **options}
    with SendGuard(url, pool=pool, clock=clock, **given) as guard:
        guard.observe(A, status="ACTIVE", health="HEALTHY")
        rules = {"page": Rule(quiet=60), "recovery": Rule(quiet=0)}
        nobody = f"json://127.0.0.1:{free_port()}/"
        alerter = guard.alerter([nobody], callbacks=[told.append], rules=rules, audit_wait=9, remind_after=3600)
        for news in (
            {"status": "FLAGGED"},
            {"status": "ACTIVE"},
            {"status": "FLAGGED"},
            {"health": "AT_RISK"},
            {},
            {},
            {},
        ):
            clock.advance(1 if news else 2000)
            if news:
                guard.observe(A, **news)  # type: ignore[arg-type]
            for _ in range(4):
                for part in alerter._work:
                    part._step()
    assert {alert.severity.value for alert in told} == {"page", "recovery", "info"}
    assert any(alert.repeats for alert in told)
    assert any(alert.reminder for alert in told)


@contextmanager
def simulated() -> Iterator[Simulator]:
    """The API that `run` polls and sends to."""
    with Simulator([A, B, C], webhook_secret=SECRET) as api:
        yield api


def run(url: str, pool: str, api: Simulator, **options: Any) -> None:
    """Everything that guards can do, by `SendGuard` and `AsyncSendGuard`, against a store of one's own."""
    given = {"pool": pool, "timeout": 5.0, "webhook_secret": SECRET, "policy": _POLICY, "refresh": 60, **options}
    given |= {"api_key": api.api_key, "api_base_url": api.base_url}
    with SendGuard(url, **given) as guard:
        _polls(guard, api)
        _by_hand(guard)
        _by_httpx(guard, api)
        _sends(guard)
        for body in _webhooks():
            guard.handle_webhook(body, standard_headers(body, time.time()))
            guard.handle_webhook(body, older_headers(body, time.time()))
        _settles(guard)
    asyncio.run(_asynchronously(url, given))
