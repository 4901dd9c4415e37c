"""Is a webhook Linq's own? Pure: the caller brings the bytes, the headers, the secrets and the time.

Two header sets come with a delivery (FACTS, "Webhooks"): Standard Webhooks, and an older one. Either is enough, with
any of the secrets, so that a secret can be rotated. Nothing of a payload is read before it is verified (law 10).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from sendguard.errors import WebhookRejected
from sendguard.linq.events import WebhookEvent
from sendguard.linq.fields import identifier
from sendguard.linq.payloads import parse_event

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
"""A mapping, or pairs as ASGI gives them; names in any case."""

TOLERANCE = 300
"""Seconds that a delivery's timestamp may be off, either way (FACTS: five minutes)."""
MAX_BODY = 1024 * 1024
"""Bytes of the largest body that is looked at."""

_PREFIX = "whsec_"
_TIMESTAMP = re.compile(r"0|[1-9][0-9]{0,11}")
_HEX_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_STANDARD = ("webhook-id", "webhook-timestamp", "webhook-signature")
_OLDER = ("x-webhook-timestamp", "x-webhook-signature")
_EVENT = "x-webhook-event"
_NAMES = frozenset({*_STANDARD, *_OLDER, _EVENT})

_Found = dict[str, list[str | bytes]]


@dataclass(frozen=True, slots=True)
class _Seal:
    """What the signature vouches for beside the body: its time, and its id in the scheme that has one."""

    timestamp: int
    webhook_id: str | None


def verify(body: bytes | str, headers: Headers, secrets: Sequence[str], now: float) -> dict[str, Any]:
    """The JSON object of an authentic webhook.

    body: as it came, not parsed and written again. secrets: the subscription's signing secrets, newest first, as Linq
    shows them. now: Unix seconds; a timestamp more than 300 seconds off is refused.

    Raises WebhookRejected, and nothing else, for all that is not authentic or not a JSON object; its reason holds
    neither a secret, nor a signature, nor anything of the body.
    """
    text = _text(body)
    _check(text, _find(headers), secrets, now)
    return _object(text)


def read_webhook(body: bytes | str, headers: Headers, secrets: Sequence[str], now: float) -> WebhookEvent:
    """As `verify`, and parsed. Raises WebhookRejected, too, for an event of a line that names no line.

    An event without an `event_id` is known by its signed `webhook-id`, else by its body's SHA-256. One without a
    readable time of its own is as old as its signature.
    """
    text = _text(body)
    found = _find(headers)
    seal = _check(text, found, secrets, now)
    fallback_id = identifier(seal.webhook_id) or hashlib.sha256(text.encode()).hexdigest()
    return parse_event(_object(text), _event_type(found), fallback_id, fallback_at=float(seal.timestamp))


def _text(body: object) -> str:
    if not isinstance(body, bytes | bytearray | str):
        raise WebhookRejected("the body is neither bytes nor text")
    if len(body) > MAX_BODY:
        raise WebhookRejected("the body is too large")
    try:
        text = body if isinstance(body, str) else body.decode()
        size = len(text.encode())
    except UnicodeError:
        size = -1
    if size < 0:
        raise WebhookRejected("the body is not UTF-8")
    if size > MAX_BODY:
        raise WebhookRejected("the body is too large")
    return text


def _object(text: str) -> dict[str, Any]:
    """What an authentic body holds."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    # Raised outside the handler: a JSONDecodeError in the context would carry the body along.
    if not isinstance(value, dict):
        raise WebhookRejected("the body is not a JSON object", authentic=True)
    return value


def _find(headers: Headers) -> _Found:
    """The headers that matter, lower-cased, with every value that each came with."""
    found: _Found = {}
    readable = True
    try:
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            key = name.decode("latin-1").lower() if isinstance(name, bytes) else str(name).lower()
            if key in _NAMES:
                found.setdefault(key, []).append(value)
    except (TypeError, ValueError):
        readable = False
    if not readable:
        raise WebhookRejected("the headers are not readable")
    return found


def _value(found: _Found, name: str) -> str:
    values = found.get(name, [])
    if len(values) != 1:
        raise WebhookRejected(f"the header {name} is {'repeated' if values else 'missing'}")
    value = values[0].decode("latin-1") if isinstance(values[0], bytes) else values[0]
    if not isinstance(value, str) or not value or not value.isascii():
        raise WebhookRejected(f"the header {name} is malformed")
    return value


def _event_type(found: _Found) -> str | None:
    try:
        return _value(found, _EVENT)
    except WebhookRejected:
        return None


def _check(text: str, found: _Found, secrets: Sequence[str], now: float) -> _Seal:
    usable = _usable(secrets)
    if not usable:
        raise WebhookRejected("no webhook secret is configured")
    refusals = []
    for names, scheme in ((_STANDARD, _check_standard), (_OLDER, _check_older)):
        if any(name in found for name in names):
            try:
                return scheme(text, found, usable, now)
            except WebhookRejected as refusal:
                refusals.append(refusal.reason)
    raise WebhookRejected(refusals[0] if refusals else "there are no signature headers")


def _usable(secrets: object) -> list[str]:
    """The secrets worth trying. A blank one would be a key that anybody knows."""
    given = [secrets] if isinstance(secrets, str) else secrets if isinstance(secrets, Iterable) else []
    return [secret for secret in given if isinstance(secret, str) and secret.removeprefix(_PREFIX).strip()]


def _check_standard(text: str, found: _Found, secrets: list[str], now: float) -> _Seal:
    webhook_id, _, signatures = (_value(found, name) for name in _STANDARD)
    timestamp = _timestamp(found, "webhook-timestamp", now)
    moment = datetime.fromtimestamp(timestamp, UTC)
    keys = (key for secret in secrets if (key := _decoded(secret)))
    expected = [Webhook(key).sign(webhook_id, moment, text).encode() for key in keys]
    if not _any_equal(expected, [each.encode() for each in signatures.split(" ")]):
        raise WebhookRejected("the signature does not match")
    return _Seal(timestamp, webhook_id)


def _check_older(text: str, found: _Found, secrets: list[str], now: float) -> _Seal:
    timestamp = _timestamp(found, "x-webhook-timestamp", now)
    signature = _value(found, "x-webhook-signature")
    if not _HEX_SHA256.fullmatch(signature):
        raise WebhookRejected("the header x-webhook-signature is malformed")
    signed = f"{timestamp}.{text}".encode()
    expected = [hmac.digest(key, signed, "sha256") for secret in secrets for key in _older_keys(secret)]
    if not _any_equal(expected, [bytes.fromhex(signature)]):
        raise WebhookRejected("the signature does not match")
    return _Seal(timestamp, None)


def _timestamp(found: _Found, name: str, now: float) -> int:
    """Canonical digits only, so that the number signed again below is the text that was signed."""
    value = _value(found, name)
    if not _TIMESTAMP.fullmatch(value):
        raise WebhookRejected(f"the header {name} is malformed")
    timestamp = int(value)
    if not abs(now - timestamp) <= TOLERANCE:
        raise WebhookRejected(f"the timestamp is too {'old' if timestamp < now else 'new'}")
    return timestamp


def _decoded(secret: str) -> bytes | None:
    """The key in a secret that is base64, strictly: a lenient reading drops characters, and leaves a weak key."""
    text = secret.removeprefix(_PREFIX).strip()
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True) or None
    except ValueError:
        return None


def _older_keys(secret: str) -> list[bytes]:
    keys = [secret.encode(errors="surrogatepass")]
    decoded = _decoded(secret) if secret.startswith(_PREFIX) else None
    return [*keys, decoded] if decoded else keys


def _any_equal(expected: list[bytes], candidates: list[bytes]) -> bool:
    """Compares every pair, in constant time, whatever has matched before."""
    return sum(hmac.compare_digest(each, candidate) for each in expected for candidate in candidates) > 0
