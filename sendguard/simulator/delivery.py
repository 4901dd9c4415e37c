"""Webhooks on their way: signed, delayed, doubled, reordered and retried as the knobs say. Runs in the server loop."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import hmac
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import httpx
from standardwebhooks import Webhook

from . import shapes
from .model import Delivery, DeliveryKnobs, Event, Subscription

DEFAULT_VERSION = "2026-02-03"
RETRIES = 10
FIRST_RETRY = 1500 / (2**RETRIES - 1)
"""Seconds before the first retry; each further wait is twice the one before, and the ten add up to 25 minutes."""


def sign(body: str, event: Event, subscription: Subscription, now: float) -> dict[str, str]:
    """Both header sets of a delivery: Standard Webhooks, and the older `X-Webhook-*`."""
    at = datetime.fromtimestamp(int(now), UTC)
    stamp, secret = str(int(now)), subscription.secret
    return {
        "Content-Type": "application/json",
        "User-Agent": "sendguard-simulator",
        "webhook-id": event.id,
        "webhook-timestamp": stamp,
        "webhook-signature": _standard(secret).sign(event.id, at, body),
        "X-Webhook-Event": event.type,
        "X-Webhook-Subscription-ID": subscription.id,
        "X-Webhook-Timestamp": stamp,
        "X-Webhook-Signature": hmac.new(secret.encode(), f"{stamp}.{body}".encode(), hashlib.sha256).hexdigest(),
    }


def _standard(secret: str) -> Webhook:
    """The signer of a secret; one that is not base64 counts as the key itself."""
    try:
        return Webhook(secret)
    except (binascii.Error, ValueError):
        return Webhook(secret.encode())


def version_of(url: str) -> str:
    """The webhook version that a subscription's address asks for."""
    asked = parse_qs(urlsplit(url).query).get("version", [DEFAULT_VERSION])[0]
    return asked if asked in ("2025-01-01", DEFAULT_VERSION) else DEFAULT_VERSION


@dataclass(slots=True)
class _Queue:
    """The deliveries of one subscription: how many were begun, and those held behind later ones."""

    begun: int = 0
    held: dict[int, asyncio.Event] = field(default_factory=dict)

    def release_before(self, place: int) -> None:
        """Let go of every delivery that was held and is older than this one."""
        for earlier in [key for key in self.held if key < place]:
            self.held.pop(earlier).set()


class Deliverer:
    """Sends events to subscriptions. `publish` and `drain` may be called from any thread, the rest from the loop."""

    def __init__(self, knobs: DeliveryKnobs, dice: random.Random) -> None:
        self.knobs = knobs
        self.deliveries: list[Delivery] = []
        self._dice = dice
        self._queues: dict[str, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outstanding = 0
        self._idle = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Take the running loop as the one that deliveries run in."""
        self._loop = asyncio.get_running_loop()
        self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=100))

    async def stop(self) -> None:
        """Give up what is outstanding."""
        self._loop = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client:
            await self._client.aclose()
        with self._idle:
            self._outstanding = 0
            self._idle.notify_all()

    def publish(self, event: Event, subscriptions: Mapping[str, Subscription]) -> None:
        """Begin to deliver an event to every subscription that wants it."""
        wanting = [subscription for subscription in subscriptions.values() if subscription.wants(event)]
        loop = self._loop
        if loop is None:
            return
        for subscription in wanting:
            copies = 2 if self._dice.random() < self.knobs.duplicate else 1
            for copy in range(copies):
                with self._idle:
                    self._outstanding += 1
                loop.call_soon_threadsafe(self._begin, event, subscription, copy > 0)

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is outstanding; retries to come count as outstanding."""
        with self._idle:
            return self._idle.wait_for(lambda: self._outstanding == 0, timeout)

    def _begin(self, event: Event, subscription: Subscription, duplicate: bool) -> None:
        queue = self._queues.setdefault(subscription.id, _Queue())
        queue.begun += 1
        task = asyncio.ensure_future(self._deliver(event, subscription, duplicate, queue, queue.begun))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with self._idle:
            self._outstanding = max(0, self._outstanding - 1)
            self._idle.notify_all()

    async def _deliver(
        self, event: Event, subscription: Subscription, duplicate: bool, queue: _Queue, place: int
    ) -> None:
        if self._dice.random() < self.knobs.reorder:
            await self._hold(queue, place)
        await asyncio.sleep(self._dice.uniform(*self.knobs.delay))
        for attempt in range(1, RETRIES + 2):
            status = await self._attempt(event, subscription, duplicate, attempt)
            queue.release_before(place)
            if status is not None and status != 429 and status < 500:
                return
            if attempt <= RETRIES:
                await asyncio.sleep(FIRST_RETRY * 2 ** (attempt - 1) * self.knobs.retry_scale)

    async def _hold(self, queue: _Queue, place: int) -> None:
        queue.held[place] = go = asyncio.Event()
        try:
            await asyncio.wait_for(go.wait(), self.knobs.reorder_hold)
        except TimeoutError:
            queue.held.pop(place, None)

    async def _attempt(self, event: Event, subscription: Subscription, duplicate: bool, attempt: int) -> int | None:
        payload = shapes.envelope(event, version_of(subscription.url))
        body = json.dumps(payload, ensure_ascii=False)
        sent_at = time.time()
        headers = sign(body, event, subscription, sent_at)
        status = await self._post(subscription.url, body.encode(), headers)
        acknowledged_at = time.time() if status is not None and 200 <= status < 300 else None
        self.deliveries.append(
            Delivery(
                event_id=event.id,
                event_type=event.type,
                payload=payload,
                attempt=attempt,
                status=status,
                sent_at=sent_at,
                acknowledged_at=acknowledged_at,
                url=subscription.url,
                subscription_id=subscription.id,
                duplicate=duplicate,
            )
        )
        return status

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int | None:
        assert self._client is not None
        timeout = httpx.Timeout(self.knobs.timeout, pool=None)
        try:
            answer = await self._client.post(url, content=body, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return None
        return answer.status_code
