"""Linq: whether the key is good, its clock, the lines it lists, and the webhook subscription."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpx

from sendguard.cli.checks import FAIL, OK, WARN, Finding, of_clock
from sendguard.cli.session import Session
from sendguard.errors import LinqError, StoreUnavailable
from sendguard.linq.client import LinqClient
from sendguard.linq.subscriptions import EVENTS, WebhookSubscription
from sendguard.sidecar.settings import ConfigError

_VERSIONS = (None, "2025-01-01", "2026-02-03")
_SUBSCRIBE = "sendguard webhooks subscribe https://YOUR-HOST/webhooks/linq --secret-file PATH"
_KEY = "Set LINQ_API_KEY to a key of this account, and LINQ_API_V3_BASE_URL only if it is not Linq's own."


class _Dated(httpx.HTTPTransport):
    """A transport that notes how far the clock of the one who answers is ahead of ours, by its Date header."""

    skew: float | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        began = time.time()
        response = super().handle_request(request)
        try:
            # The header is cut to whole seconds: half of one more on average.
            at = parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
        except (KeyError, ValueError, TypeError):
            return response
        self.skew = at - (began + time.time()) / 2
        return response


def check_linq(session: Session) -> Iterator[Finding]:
    """Everything about the account that can be told with its key."""
    transport = _Dated()
    try:
        linq = session.new_linq(transport=transport, retries=1)
    except ValueError as error:
        yield Finding("Linq key", FAIL, str(error), _KEY)
        return
    with linq:
        try:
            numbers = {update.number for update in linq.phone_numbers(time.time())}
        except LinqError as error:
            yield _refused(error)
            return
        yield Finding("Linq key", OK, f"good; the account has {len(numbers)} lines")
        if transport.skew is not None:
            yield of_clock("Linq's clock", "Linq's", transport.skew)
        yield from _lines(session, numbers)
        yield _subscription(linq, numbers)


def _refused(error: LinqError) -> Finding:
    if error.status in (401, 403):
        return Finding("Linq key", FAIL, str(error), _KEY)
    return Finding(
        "Linq key", FAIL, str(error), "Linq cannot be asked from here: check the network and its status page."
    )


def _lines(session: Session, numbers: set[str]) -> Iterator[Finding]:
    try:
        known = {line.number for line in session.guard.lines()}
    except (StoreUnavailable, ConfigError):
        return  # which the store's own check tells
    missing, gone = len(numbers - known), len(known - numbers)
    if missing or gone:
        text = f"the pool lacks {missing} of the account's lines, and has {gone} that are not the account's"
        yield Finding("lines", FAIL, text, "sendguard poll")
    else:
        yield Finding("lines", OK, f"the pool has the account's {len(known)} lines")


def _subscription(linq: LinqClient, numbers: set[str]) -> Finding:
    check = "subscription"
    try:
        active = [each for each in linq.webhook_subscriptions() if each.active]
    except LinqError as error:
        return Finding(check, FAIL, str(error), "The key must be allowed to read webhook subscriptions.")
    if not active:
        return Finding(check, FAIL, "no active webhook subscription: a FLAGGED line goes unnoticed", _SUBSCRIBE)
    best = min(active, key=lambda each: (EVENTS[0] in each.missing, len(each.missing), not _covers(each, numbers)))
    again = f"sendguard webhooks unsubscribe {best.subscription_id}; {_SUBSCRIBE}"
    if best.missing:
        text = f"{best.subscription_id} lacks {', '.join(best.missing)}"
        return Finding(check, FAIL if EVENTS[0] in best.missing else WARN, text, again)
    if not _covers(best, numbers):
        return Finding(check, WARN, f"{best.subscription_id} is limited to {len(best.phone_numbers)} lines", again)
    if best.version not in _VERSIONS:
        return Finding(
            check, WARN, f"{best.subscription_id} asks for payloads of {best.version}, not known here", again
        )
    return Finding(check, OK, f"{best.subscription_id} brings every event, to {best.target_url}")


def _covers(each: WebhookSubscription, numbers: set[str]) -> bool:
    return not each.phone_numbers or numbers <= set(each.phone_numbers)
