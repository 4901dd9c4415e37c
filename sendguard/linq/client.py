"""The guard's own calls to the Linq API. The rules are pure functions; the two clients only send and wait."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from sendguard.errors import LinqError
from sendguard.linq.audit import AuditAnswer, audit_path, parse_audit
from sendguard.linq.events import LineUpdate
from sendguard.linq.payloads import parse_phone_numbers
from sendguard.linq.subscriptions import (
    SUBSCRIPTIONS,
    NewSubscription,
    WebhookSubscription,
    parse_new_subscription,
    parse_subscriptions,
    subscription_path,
)

DEFAULT_BASE_URL = "https://api.linqapp.com/api/partner"
PHONE_NUMBERS = "/v3/phone_numbers"

_SHORTEST_BACKOFF = 0.5
_LONGEST_BACKOFF = 8.0
_LONGEST_RETRY_AFTER = 30.0
_LONGEST_COOLDOWN = 30 * 86_400.0
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_KEY = re.compile(r"[!-~]+")
_PASSING_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)

Outcome = httpx.Response | httpx.HTTPError
"""What became of one attempt."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's settings, checked. Its repr leaves the key out."""

    api_key: str = field(repr=False)
    base_url: str
    timeout: float
    retries: int

    @classmethod
    def resolve(cls, api_key: str | None, base_url: str | None, timeout: float, retries: int) -> Settings:
        """Arguments, else the environment (FACTS, "Calls"), else defaults. Raises ValueError naming the argument."""
        if not timeout > 0:
            raise ValueError("timeout must be a positive number of seconds")
        if retries < 0:
            raise ValueError("retries must not be negative")
        return cls(_api_key(api_key), _base_url(base_url), timeout, retries)

    def http_options(self) -> dict[str, Any]:
        """What an httpx client of either kind is opened with."""
        return {
            "base_url": self.base_url,
            "timeout": self.timeout,
            "headers": {"Authorization": f"Bearer {self.api_key}", "Accept": "application/json"},
        }


def _api_key(given: str | None) -> str:
    key = (given or os.environ.get("LINQ_API_KEY") or os.environ.get("LINQ_API_V3_API_KEY") or "").strip()
    if not key:
        raise ValueError("api_key is missing: give it, or set LINQ_API_KEY or LINQ_API_V3_API_KEY")
    if not _KEY.fullmatch(key):
        raise ValueError("api_key has characters that an HTTP header cannot carry")
    return key


def _base_url(given: str | None) -> str:
    text = (given or os.environ.get("LINQ_API_V3_BASE_URL") or DEFAULT_BASE_URL).strip()
    text = text.rstrip("/").removesuffix("/v3").rstrip("/")
    try:
        url = httpx.URL(text)
        usable = url.scheme in ("http", "https") and bool(url.host) and not url.userinfo
    except httpx.InvalidURL:
        usable = False
    if not usable:
        raise ValueError("base_url must be an http or https URL, without credentials")
    return text


def seconds_before_retry(outcome: Outcome, attempt: int, retries: int, *, now: float, jitter: float) -> float | None:
    """How long to wait before trying again; None if `outcome` is final.

    Retried as the official SDK does (FACTS, "Calls"): connection errors and timeouts, 408, 409, 429 and 5xx.
    attempt: 0 for the first. retries: how many may follow it. now: Unix seconds. jitter: 0 to 1.
    """
    if attempt >= retries or not _may_pass(outcome):
        return None
    told = retry_after(outcome.headers.get("retry-after"), now) if isinstance(outcome, httpx.Response) else None
    return backoff(attempt, jitter) if told is None else told


def _may_pass(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in (408, 409, 429) or outcome.status_code >= 500
    return isinstance(outcome, _PASSING_ERRORS)


def backoff(attempt: int, jitter: float) -> float:
    """Seconds: from 0.5, doubled each attempt, times 1 to 2 as jitter goes from 0 to 1, at most 8."""
    return min(_SHORTEST_BACKOFF * 2.0 ** min(attempt, 10) * (1 + jitter), _LONGEST_BACKOFF)


def retry_after(header: str | None, now: float, longest: float = _LONGEST_RETRY_AFTER) -> float | None:
    """Seconds told by a Retry-After header, as seconds or as a date, from 0 to `longest`; None if none can be read."""
    if header is None:
        return None
    if _SECONDS.fullmatch(header.strip()):
        seconds = float(header)
    else:
        try:
            date = parsedate_to_datetime(header)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), longest)


def read(outcome: Outcome, call: str) -> object:
    """The JSON of a success. Raises LinqError for all else; its text holds nothing that was sent or answered."""
    if isinstance(outcome, httpx.HTTPError):
        raise LinqError(f"{call} failed: {type(outcome).__name__}") from outcome
    status = outcome.status_code
    readable, payload = (True, None) if status == 204 else _json(outcome)
    if not outcome.is_success:
        code = _error_code(payload)
        wait = retry_after(outcome.headers.get("retry-after"), time.time(), _LONGEST_COOLDOWN)
        text = f"{call} got HTTP {status}" + (f", code {code}" if code else "")
        raise LinqError(text, status=status, code=code, retry_after=wait)
    if not readable:
        raise LinqError(f"{call} got an answer that is not JSON", status=status)
    return payload


def _json(response: httpx.Response) -> tuple[bool, object]:
    try:
        return True, response.json()
    except (ValueError, RecursionError):
        return False, None


def _error_code(payload: object) -> int | None:
    error = payload.get("error") if isinstance(payload, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 1_000_000 else None


def _wait(method: str, outcome: Outcome, attempt: int, settings: Settings) -> float | None:
    if method == "POST" and isinstance(outcome, httpx.Response) and outcome.status_code == 429:
        return None  # the cooldown of what was asked for, which may take hours
    return seconds_before_retry(outcome, attempt, settings.retries, now=time.time(), jitter=random.random())


class LinqClient:
    """The Linq API, as far as a guard needs it. Safe to share among threads; close it, or use it in a `with`.

    api_key: else LINQ_API_KEY or LINQ_API_V3_API_KEY. base_url: what precedes /v3; else LINQ_API_V3_BASE_URL, else
    Linq's own. timeout: seconds for each of connecting, sending and each read of one attempt. retries: after the first
    attempt. transport, sleep: for tests. Raises ValueError for a setting that is missing or makes no sense.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._settings = Settings.resolve(api_key, base_url, timeout, retries)
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, **self._settings.http_options())

    def phone_numbers(self, at: float) -> tuple[LineUpdate, ...]:
        """The account's lines, as `GET /v3/phone_numbers` tells them, taken as of `at` (Unix seconds).

        Raises LinqError when the API refuses, cannot be reached after the retries, or gives an unreadable answer.
        """
        return parse_phone_numbers(self._call("GET", PHONE_NUMBERS), at)

    def reputation_audit(self, number: str, audit_id: str | None = None) -> AuditAnswer:
        """Start Linq's audit of a line (one that runs already is joined), or with its id read how far it is.

        Raises LinqError as `phone_numbers` does; with status 429 an audit cannot be started for `retry_after` seconds.
        """
        method = "POST" if audit_id is None else "GET"
        return parse_audit(self._call(method, audit_path(number, audit_id)))

    def webhook_subscriptions(self) -> tuple[WebhookSubscription, ...]:
        """The account's webhook subscriptions, without their secrets. Raises LinqError as `phone_numbers` does."""
        return parse_subscriptions(self._call("GET", SUBSCRIPTIONS))

    def subscribe_webhooks(self, target_url: str, events: Iterable[str]) -> NewSubscription:
        """Have the events of all lines sent to a URL, which may be used once in an account. Not retried: a repetition
        of a call whose answer was lost could not learn the secret.

        Raises LinqError as `phone_numbers` does; with status 409 there is a subscription with this URL.
        """
        body = {"target_url": target_url, "subscribed_events": list(events)}
        return parse_new_subscription(self._call("POST", SUBSCRIPTIONS, body, retries=0))

    def unsubscribe_webhooks(self, subscription_id: str) -> None:
        """End a subscription. Raises LinqError as `phone_numbers` does; with status 404 there is none of this id."""
        self._call("DELETE", subscription_path(subscription_id))

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def _call(self, method: str, path: str, body: object = None, *, retries: int | None = None) -> object:
        settings = self._settings if retries is None else replace(self._settings, retries=retries)
        for attempt in itertools.count():
            outcome: Outcome
            try:
                outcome = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                outcome = error
            wait = _wait(method, outcome, attempt, settings)
            if wait is None:
                return read(outcome, f"{method} {path}")
            self._sleep(wait)
        raise AssertionError("unreachable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._settings.base_url!r})"


class AsyncLinqClient:
    """`LinqClient` for asyncio: the same settings, calls and errors; `sleep` is awaited."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._settings = Settings.resolve(api_key, base_url, timeout, retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, **self._settings.http_options())

    async def phone_numbers(self, at: float) -> tuple[LineUpdate, ...]:
        """As `LinqClient.phone_numbers`."""
        return parse_phone_numbers(await self._call("GET", PHONE_NUMBERS), at)

    async def reputation_audit(self, number: str, audit_id: str | None = None) -> AuditAnswer:
        """As `LinqClient.reputation_audit`."""
        method = "POST" if audit_id is None else "GET"
        return parse_audit(await self._call(method, audit_path(number, audit_id)))

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()

    async def _call(self, method: str, path: str) -> object:
        for attempt in itertools.count():
            outcome: Outcome
            try:
                outcome = await self._http.request(method, path)
            except httpx.HTTPError as error:
                outcome = error
            wait = _wait(method, outcome, attempt, self._settings)
            if wait is None:
                return read(outcome, f"{method} {path}")
            await self._sleep(wait)
        raise AssertionError("unreachable")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._settings.base_url!r})"
