"""What the pool heard lately: of webhooks and of polls."""

from __future__ import annotations

from collections.abc import Iterator

from sendguard.cli import show
from sendguard.cli.checks import FAIL, OK, WARN, Finding
from sendguard.cli.session import Session
from sendguard.errors import StoreUnavailable
from sendguard.sidecar.settings import ConfigError

_WEBHOOK_STALE = 86_400.0
"""Seconds. An account that sends hears of every message."""
_POLLS_MISSED = 3
_USUAL_INTERVAL = 60.0
_POLL = (
    "Run `sendguard serve` with poll_interval above 0, or `guard.poller()` in a process; `sendguard poll` polls once."
)
_HEAR = (
    "Compare the subscription's URL with where webhooks are taken, and its secret with LINQ_WEBHOOK_SECRET there; "
    "sendguard_webhooks_total of the metrics tells of refused ones."
)


def check_news(session: Session) -> Iterator[Finding]:
    """How old the newest webhook and the newest poll are."""
    try:
        heard = session.guard._drive(session.guard._flows.webhook_age())
        polled = session.guard._drive(session.guard._flows.poll_age())
    except (StoreUnavailable, ConfigError):
        return  # which the store's own check tells
    yield _webhooks(heard)
    yield _polls(polled, session.settings.poll_interval or _USUAL_INTERVAL)


def _webhooks(age: float | None) -> Finding:
    if age is None:
        return Finding("webhooks", FAIL, "the pool never took one: a FLAGGED line goes unnoticed", _HEAR)
    stale = age > _WEBHOOK_STALE
    return Finding("webhooks", WARN if stale else OK, f"the last one came {show.span(age)} ago", _HEAR if stale else "")


def _polls(age: float | None, interval: float) -> Finding:
    if age is None:
        return Finding("polls", FAIL, "the pool was never polled", _POLL)
    stale = age > _POLLS_MISSED * interval
    return Finding("polls", FAIL if stale else OK, f"the last one was {show.span(age)} ago", _POLL if stale else "")
