"""What several tests use: a clock that stands still, waiting with a deadline, signed webhooks, and the payloads."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from standardwebhooks import Webhook

PAYLOADS = Path(__file__).parent / "payloads"
SECRET = "whsec_" + base64.b64encode(b"sendguard-tests-secret-number-01").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"sendguard-tests-secret-number-02").decode()


class ManualClock:
    """Unix seconds that move only when told."""

    def __init__(self, now: float = 1_771_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def wait_until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Return as soon as a condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text("utf-8"))


def standard_headers(body: bytes, at: float, secret: str = SECRET, message_id: str = "msg_1") -> dict[str, str]:
    moment = datetime.fromtimestamp(int(at), UTC)
    signature = Webhook(secret).sign(message_id, moment, body.decode())
    return {"webhook-id": message_id, "webhook-timestamp": str(int(at)), "webhook-signature": signature}


def older_headers(body: bytes, at: float, secret: str = SECRET, event: str = "") -> dict[str, str]:
    signature = hmac.new(secret.encode(), f"{int(at)}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Webhook-Timestamp": str(int(at)), "X-Webhook-Signature": signature, "X-Webhook-Event": event}


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def raw_client(guard: Any) -> Any:
    """A plain client of the store that a guard was given by URL."""
    store = guard._store
    if store._client is not None:
        return store._client
    where = store._connector._kwargs
    return redis.Redis(host=where["host"], port=where["port"])
