"""A pool on a real server under hostile deliveries, and the account of what became of each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import redis

from sendguard import Policy, SendGuard, WebhookRejected
from sendguard.linq.webhooks import MAX_BODY
from sendguard.models import Reason
from tests.hostile import LINE, NOW, PERSON, SECRETS, Delivery, fingerprint, may_be_authentic
from tests.support import PAYLOADS, SECRET, standard_headers

_EVERY_KEY = """
local keys, found = redis.call('KEYS', ARGV[1]), {}
table.sort(keys)
for i, key in ipairs(keys) do
  found[i] = key .. ' ' .. redis.call('PEXPIRETIME', key) .. ' ' .. redis.call('DUMP', key)
end
return redis.sha1hex(table.concat(found))
"""
_UNREADABLE = ("the body is not UTF-8", "the body is too large")
"""Why a delivery is refused before its signature is looked at."""
_BEFORE_RESET = 400
"""Deliveries that a pool takes before it is healed, judged and emptied: its events and lines grow."""


_UNLIMITED = Policy(daily_volume=None, new_conversations=None, pair=None)


class Bombarded:
    """outcomes: how often each came. deliveries: the different ones, by fingerprint. A context manager."""

    def __init__(self, url: str, pool: str) -> None:
        self._url, self._pool = url, pool
        self._client = redis.Redis.from_url(url)
        self._snapshot = self._client.register_script(_EVERY_KEY)
        self._guards = {name: self._guard(webhook_secret=list(secrets)) for name, secrets in SECRETS.items()}
        self.guard = self._guards["one"]
        self.outcomes: Counter[str] = Counter()
        self.deliveries: set[str] = set()
        self._taken = 0
        self._fill()

    def _guard(self, at: float = NOW, **options: Any) -> SendGuard:
        return SendGuard(
            self._url, pool=self._pool, clock=lambda: at, timeout=10.0, refresh=None, policy=_UNLIMITED, **options
        )

    def __enter__(self) -> Bombarded:
        return self

    def __exit__(self, *_: object) -> None:
        for guard in self._guards.values():
            guard.close()
        self._client.close()

    def _fill(self) -> None:
        """A little of everything that a pool holds."""
        self._client.flushdb()
        self.guard.observe(LINE, status="ACTIVE", health="HEALTHY", observed_at=1)
        self.guard.observe("+12025550102", status="FLAGGED", observed_at=1)
        self.guard.decide(PERSON, idempotency_key="k")
        for name in ("message.sent", "message.received"):
            body = (PAYLOADS / f"{name}.json").read_bytes()
            self.guard.handle_webhook(body, standard_headers(body, NOW))

    def state(self) -> str:
        """A digest of every key of the pool, its value and when it expires."""
        return str(self._snapshot(args=[f"sendguard:{{{self._pool}}}:*"]))

    def take(self, delivery: Delivery) -> None:
        """Deliver, and fail unless what became of it was right."""
        before, authentic = self.state(), may_be_authentic(delivery)
        outcome, rejected = self._deliver(delivery)
        changed = self.state() != before
        if rejected is not None or not authentic:
            assert rejected is not None, "what nobody signed was taken"
            assert not changed, "a rejected delivery changed the state"
            self._check_rejection(delivery, rejected, authentic)
        else:
            self._check_pool()
            outcome += "" if changed else ", nothing changed"
        self.outcomes[outcome] += 1
        self.deliveries.add(fingerprint(delivery))
        self._taken += 1
        if self._taken % _BEFORE_RESET == 0:
            self.heal()
            self._fill()

    def _deliver(self, delivery: Delivery) -> tuple[str, WebhookRejected | None]:
        try:
            changes = self._guards[delivery.secrets].handle_webhook(delivery.body, delivery.headers)
        except WebhookRejected as rejected:
            return f"rejected: {rejected.reason}", rejected
        return "accepted, a line changed" if changes else "accepted", None

    def _check_rejection(self, delivery: Delivery, rejected: WebhookRejected, authentic: bool) -> None:
        assert rejected.__cause__ is None
        assert rejected.__context__ is None, "an error in the context would carry the body or the secret along"
        assert len(rejected.reason) < 80
        assert authentic or not rejected.authentic
        if delivery.whole:
            assert rejected.authentic or rejected.reason in _UNREADABLE, "a good signature was refused"
            assert rejected.reason != _UNREADABLE[1] or len(delivery.body) > MAX_BODY

    def _check_pool(self) -> None:
        """Every reader of the pool still reads, and decisions are still made."""
        numbers = [line.number for line in self.guard.lines()]
        assert len(numbers) == len(set(numbers))
        assert all(len(each.event_id or "") <= 128 for each in self.guard.transitions(count=10_000))
        assert self.guard.decide(PERSON).reason is not Reason.STORE_UNAVAILABLE

    def heal(self) -> None:
        """What an operator and newer news can always do: the line is sent on again, whatever was done to it."""
        later = NOW + 900
        with self._guard(later, webhook_secret=SECRET) as guard:
            body = (
                b'{"event_type":"phone_number.assigned","event_id":"heal","data":{"phone_number":"%b"}}' % LINE.encode()
            )
            guard.handle_webhook(body, standard_headers(body, later))
            guard.observe(LINE, status="ACTIVE", health="HEALTHY")
            guard.resume(LINE)
            decision = guard.decide("+14155550999", from_number=LINE)
            assert decision.allowed, decision
