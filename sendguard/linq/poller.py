"""Polling in the background: every process runs a poller, and a lease in the store lets one of them poll at a time."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from sendguard.background import AsyncBackground, Background
from sendguard.flows import poll_failed

_LEASE = 120.0
"""Seconds that a poll may take, its retries and applying it included; a holder that dies is replaced after that."""
_NAME = "sendguard-poller"


def _check(interval: float) -> float:
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval <= 86_400:
        raise ValueError("interval must be above 0 and at most 86400 seconds")
    return interval


class Poller(Background):
    """A daemon thread that keeps the lines known. It survives every error, and says so in the log "sendguard".

    poll: takes the lease's token and its length in seconds, returns the seconds until a poll is due again.
    interval: seconds between polls of the whole fleet.
    """

    def __init__(self, poll: Callable[[str, float], float], interval: float) -> None:
        token = secrets.token_hex(8)
        super().__init__(lambda: poll(token, _LEASE), failed=poll_failed, rest=_check(interval), name=_NAME)


class AsyncPoller(AsyncBackground):
    """As `Poller`, as a task of the running event loop; a poll under way is cancelled, and its lease given back."""

    def __init__(self, poll: Callable[[str, float], Awaitable[float]], interval: float) -> None:
        token = secrets.token_hex(8)
        super().__init__(lambda: poll(token, _LEASE), failed=poll_failed, rest=_check(interval), name=_NAME)
