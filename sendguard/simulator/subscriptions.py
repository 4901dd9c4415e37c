"""The calls on webhook subscriptions. No I/O; the caller holds the account's lock."""

from __future__ import annotations

import base64
import ipaddress
import secrets
from typing import Any
from urllib.parse import urlsplit

from . import requests, shapes
from .model import ApiError, Json, Subscription, invalid
from .state import Account

EVENTS = (
    "chat.created",
    "message.failed",
    "message.received",
    "message.sent",
    "phone_number.assigned",
    "phone_number.released",
    "phone_number.status_updated",
)
"""The events that the simulator emits; a subscription may name others, which never come."""


def new_secret() -> str:
    """A fresh signing secret of 32 random bytes, `whsec_` and base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def create(account: Account, body: Json, now: float) -> Json:
    """`POST`: the only answer that shows the signing secret."""
    made = Subscription(
        url=_target_url(account, body.get("target_url")),
        secret=new_secret(),
        events=_events(body.get("subscribed_events")),
        phone_numbers=requests.numbers(body.get("phone_numbers"), "phone_numbers"),
        created_at=now,
        updated_at=now,
    )
    account.subscriptions[made.id] = made
    return shapes.subscription(made, EVENTS, with_secret=True)


def listed(account: Account) -> list[Json]:
    """`GET` without an id."""
    return [shapes.subscription(each, EVENTS) for each in account.subscriptions.values()]


def get(account: Account, key: str) -> Json:
    """`GET` of one."""
    return shapes.subscription(_find(account, key), EVENTS)


def update(account: Account, key: str, body: Json, now: float) -> Json:
    """`PUT`: changes the fields that the body names, all of them or none."""
    of = _find(account, key)
    url = of.url if body.get("target_url") in (None, of.url) else _target_url(account, body["target_url"])
    events = of.events if body.get("subscribed_events") is None else _events(body["subscribed_events"])
    lines = of.phone_numbers
    if "phone_numbers" in body:
        lines = requests.numbers(body["phone_numbers"], "phone_numbers")
    is_active = of.is_active if body.get("is_active") is None else requests.flag(body["is_active"], "is_active")
    of.url, of.events, of.phone_numbers, of.is_active, of.updated_at = url, events, lines, is_active, now
    return shapes.subscription(of, EVENTS)


def delete(account: Account, key: str) -> None:
    """`DELETE`."""
    del account.subscriptions[_find(account, key).id]


def _find(account: Account, key: str) -> Subscription:
    if key not in account.subscriptions:
        raise ApiError(404, 2001, "Webhook subscription not found")
    return account.subscriptions[key]


def _events(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not value:
        raise invalid("subscribed_events must be a list of at least one event type")
    return frozenset(requests.text(item, "subscribed_events") for item in value)


def _target_url(account: Account, value: Any) -> str:
    url = requests.text(value, "target_url")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise invalid("target_url must be a web address") from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise invalid("target_url must be HTTPS (the simulator also takes http:// on a loopback address)")
    if any(each.url == url for each in account.subscriptions.values()):
        raise ApiError(409, 2015, "A subscription with this target_url already exists")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
