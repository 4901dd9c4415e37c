"""Webhook subscriptions at Linq: what a guard asks for, and what the API answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from sendguard.errors import LinqError
from sendguard.linq.fields import text

SUBSCRIPTIONS = "/v3/webhook-subscriptions"
EVENTS = (
    "phone_number.status_updated",
    "phone_number.assigned",
    "phone_number.released",
    "message.received",
    "message.sent",
    "message.failed",
)
"""The events that a guard has a use for; without the first, a FLAGGED line goes unnoticed."""

VERSION = "2026-02-03"
"""The version of the payloads that a new subscription asks for."""


@dataclass(frozen=True, slots=True)
class WebhookSubscription:
    """A subscription of the account. phone_numbers: the lines that it is limited to; none: all of them."""

    subscription_id: str
    target_url: str
    events: tuple[str, ...]
    active: bool
    phone_numbers: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """The version of the payloads that its URL asks for; None where Linq chooses by the subscription's age."""
        return _version_of(self.target_url)

    @property
    def missing(self) -> tuple[str, ...]:
        """The events that a guard has a use for and that this does not bring."""
        return tuple(event for event in EVENTS if event not in self.events)


@dataclass(frozen=True, slots=True)
class NewSubscription:
    """A subscription just made. signing_secret: shown by the API this once."""

    subscription: WebhookSubscription
    signing_secret: str = field(repr=False)


def subscription_path(subscription_id: str) -> str:
    """The path of one subscription."""
    return f"{SUBSCRIPTIONS}/{quote(subscription_id, safe='')}"


def checked_target(url: str) -> str:
    """`url` with the version of the payloads, if it names none. Raises ValueError naming `url`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # which it reads only now
    except ValueError:
        host = None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ValueError("url must be an https URL")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("url must have neither credentials nor a fragment")
    if _version_of(url) is not None:
        return url
    query = f"{parts.query}&version={VERSION}" if parts.query else f"version={VERSION}"
    return urlunsplit(parts._replace(query=query, path=parts.path or "/"))


def parse_subscriptions(payload: object) -> tuple[WebhookSubscription, ...]:
    """The answer of GET. Raises LinqError if it cannot be read."""
    entries = payload.get("subscriptions") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        raise LinqError(f"GET {SUBSCRIPTIONS} got an answer that cannot be read")
    return tuple(_subscription(entry, "GET") for entry in entries)


def parse_new_subscription(payload: object) -> NewSubscription:
    """The answer of POST. Raises LinqError if it cannot be read."""
    made = _subscription(payload, "POST")
    secret = text(payload.get("signing_secret")) if isinstance(payload, dict) else None
    if secret is None:
        raise LinqError(f"POST {SUBSCRIPTIONS} made {made.subscription_id} and told no signing secret")
    return NewSubscription(made, secret)


def _subscription(entry: object, method: str) -> WebhookSubscription:
    found = entry if isinstance(entry, dict) else {}
    subscription_id, url = text(found.get("id")), text(found.get("target_url"))
    if subscription_id is None or url is None:
        raise LinqError(f"{method} {SUBSCRIPTIONS} got an answer that cannot be read")
    events, active = _texts(found.get("subscribed_events")), found.get("is_active") is not False
    return WebhookSubscription(subscription_id, url, events, active, _texts(found.get("phone_numbers")))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _version_of(url: str) -> str | None:
    return dict(parse_qsl(urlsplit(url).query)).get("version")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
