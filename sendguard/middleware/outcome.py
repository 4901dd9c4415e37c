"""What an answer of the API, or an exception, tells of a send: did it leave, and which error code came back. Pure."""

from __future__ import annotations

import math
import time
from typing import Any

import httpx

from sendguard.linq.client import retry_after
from sendguard.models import Outcome

RETRY_COUNT = "x-stainless-retry-count"
"""The header with which the official SDK counts its retries (FACTS, "Calls")."""

_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)
_MAY_HAVE_LEFT = 408
"""The one 4xx that does not say that the request was refused."""


def outcome_of_response(response: httpx.Response) -> Outcome:
    """What a response that has been read tells. A 2xx was sent; a 4xx was not; of a 5xx nobody can tell."""
    status = response.status_code
    if status < 400:
        return Outcome(True)
    error = _error(response)
    code = error.get("code")
    refused = status < 500 and status != _MAY_HAVE_LEFT
    return Outcome(
        sent=False if refused else None,
        code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        retry_after=_retry_after(error.get("retry_after"), response.headers.get("retry-after")),
    )


def outcome_of(error: BaseException) -> Outcome:
    """What an exception out of sending code tells: the official SDK's, httpx's, or any other, of which nobody can tell.

    An error that comes after retries of the SDK's own says how the last attempt ended; an earlier one may have left.
    """
    response = getattr(error, "response", None)
    if isinstance(response, httpx.Response):
        return _after_retries(response, _read_outcome(response))
    cause = error if isinstance(error, httpx.HTTPError | httpx.InvalidURL) else error.__cause__
    if not isinstance(cause, _NEVER_LEFT):
        return Outcome(None)
    return _after_retries(error, Outcome(False))


def _read_outcome(response: httpx.Response) -> Outcome:
    try:
        response.content  # noqa: B018 (raises where a stream was never read)
    except httpx.ResponseNotRead:
        return Outcome(True) if response.status_code < 400 else Outcome(None)
    return outcome_of_response(response)


def _after_retries(source: Any, outcome: Outcome) -> Outcome:
    """As `outcome`, but that a send is not called unsent where its request was a retry."""
    try:
        retried = source.request.headers.get(RETRY_COUNT, "0") != "0"
    except (AttributeError, RuntimeError):  # httpx raises RuntimeError where there is no request
        retried = False
    return Outcome(True, outcome.code, outcome.retry_after) if retried and outcome.sent is False else outcome


def _error(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _retry_after(told: object, header: str | None) -> float | None:
    """Seconds, of the error's own field or else the header; None where neither can be read."""
    if isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told):
        return min(max(float(told), 0.0), 86_400.0)
    return retry_after(header, time.time())
