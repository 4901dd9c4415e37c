"""What is counted: one call of a guard each, and what comes before it, on a pool that is the same every time."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from standardwebhooks import Webhook

from benchmarks.setup import every_rule, line, recipient
from sendguard import AsyncSendGuard, Decision, Policy, SendGuard, TokenBucket
from sendguard.linq.events import LineUpdate
from sendguard.steps import Flow

SECRET = "whsec_" + b64encode(b"sendguard counts, a secret of it").decode()
TO = recipient(1)
KEY = "order-1"
_FULL_FOR = 50_000
"""Seconds that a bucket stays empty: so many that no delay changes how many digits the rest of them has."""


class Do(Protocol):
    """Calls a method of a guard, sync or async, and returns what it returned."""

    @property
    def guard(self) -> SendGuard | AsyncSendGuard: ...

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        """method: its name."""


@dataclass(frozen=True)
class Asked:
    """The one call that is counted: a method of a guard, with its arguments."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """prepare: does what comes before, and returns what is counted. reason: of the decision. policy: of the guard."""

    name: str
    prepare: Callable[[Do], Asked]
    reason: str | None = None
    policy: Callable[[], Policy] = every_rule

    def check(self, result: Any) -> None:
        """See that what was counted is what was meant."""
        reason = result.reason.value if isinstance(result, Decision) else None
        assert reason == self.reason, f"{self.name}: {result}"


def _decide(**options: Any) -> Asked:
    return Asked("decide", (TO,), options)


def _new(_: Do) -> Asked:
    return _decide()


def _new_keyed(_: Do) -> Asked:
    return _decide(idempotency_key=KEY)


def _sticky(do: Do) -> Asked:
    do("decide", TO)
    return _decide()


def _sticky_keyed(do: Do) -> Asked:
    do("decide", TO)
    return _decide(idempotency_key=KEY)


def _repeated(do: Do) -> Asked:
    do("decide", TO, idempotency_key=KEY)
    return _decide(idempotency_key=KEY)


def _from_number(do: Do) -> Asked:
    do("decide", TO, from_number=line(3))
    return _decide(from_number=line(3))


def _throttled(do: Do) -> Asked:
    do("decide", TO)
    return _decide()


def _failover(do: Do) -> Asked:
    do("observe", do("decide", TO).from_number, status="FLAGGED")
    return _decide()


def _settle(do: Do) -> Asked:
    return Asked("report", (do("decide", TO), "not_sent"))


def _poll(do: Do) -> Asked:
    flows = do.guard._flows

    def poll() -> Flow[Any]:
        update = LineUpdate(line(3), time.time(), "ACTIVE", "HEALTHY", "iMessage", assigned=True)
        return (yield from flows.run(flows.protocol.observe([update], source="poll", now=None)))

    return Asked("_drive", (poll(),))


def _status_webhook(_: Do) -> Asked:
    data = {
        "phone_number": line(3),
        "previous_status": "ACTIVE",
        "new_status": "FLAGGED",
        "changed_at": _iso(),
        "previous_health_status": "HEALTHY",
        "new_health_status": "CRITICAL",
    }
    return _webhook("phone_number.status_updated", data)


def _message_webhook(do: Do) -> Asked:
    do("decide", TO, from_number=line(3))
    handle = {"service": "iMessage", "status": "active", "joined_at": "2026-01-05T10:00:00Z", "left_at": None}
    data = {
        "id": "6f1c2a3b-0000-4000-8000-000000000301",
        "chat": {
            "id": "6f1c2a3b-0000-4000-8000-000000000400",
            "is_group": False,
            "owner_handle": {"handle": line(3), "is_me": True, **handle},
        },
        "direction": "inbound",
        "parts": [{"type": "text", "value": "See you at ten", "reactions": None}],
        "sender_handle": {"handle": TO, "is_me": False, **handle},
        "service": "iMessage",
        "sent_at": _iso(),
    }
    return _webhook("message.received", data)


def _iso() -> str:
    """Now, but always so many milliseconds after the second: Python keeps the small numbers, and makes the others."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.777Z"


def _webhook(kind: str, data: dict[str, Any]) -> Asked:
    event = {"api_version": "v3", "created_at": _iso(), "event_id": "event-1", "event_type": kind}
    body = json.dumps({**event, "webhook_version": "2026-02-03", "data": data}).encode()
    moment = datetime.fromtimestamp(int(time.time()), UTC)
    signature = Webhook(SECRET).sign("msg_1", moment, body.decode())
    stamp = str(int(moment.timestamp()))
    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}
    return Asked("handle_webhook", (body, headers))


def _one_token() -> Policy:
    return replace(every_rule(), healthy=TokenBucket(tokens=1, per=_FULL_FOR, burst=1))


ROWS = (
    Row("sticky", _sticky, "sticky"),
    Row("sticky, idempotency key", _sticky_keyed, "sticky"),
    Row("new conversation", _new, "new_conversation"),
    Row("new conversation, idempotency key", _new_keyed, "new_conversation"),
    Row("repeated key", _repeated, "new_conversation"),
    Row("from_number", _from_number, "requested"),
    Row("throttled", _throttled, "throttled", _one_token),
    Row("failover", _failover, "failover"),
    Row("report not_sent", _settle),
    Row("status webhook", _status_webhook),
    Row("message webhook", _message_webhook),
    Row("poll of one line", _poll),
)
