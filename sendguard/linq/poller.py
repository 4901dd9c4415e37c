"""Polling in the background: every process runs a poller, and a lease in the store lets one of them poll at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
from collections.abc import Awaitable, Callable

from sendguard.flows import poll_failed

_LEASE = 120.0
"""Seconds that a poll may take, its retries and applying it included; a holder that dies is replaced after that."""
_JITTER = 0.1


def _check(interval: float) -> float:
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval <= 86_400:
        raise ValueError("interval must be above 0 and at most 86400 seconds")
    return interval


def _spread(seconds: float) -> float:
    """A little later than asked, so that a fleet does not knock at the same moment."""
    return seconds * (1 + random.random() * _JITTER)


class Poller:
    """A daemon thread that keeps the lines known. It survives every error, and says so in the log "sendguard".

    poll: takes the lease's token and its length in seconds, returns the seconds until a poll is due again.
    interval: seconds between polls of the whole fleet.
    """

    def __init__(self, poll: Callable[[str, float], float], interval: float) -> None:
        self._poll, self._interval = poll, _check(interval)
        self._token = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Poller:
        """Start polling, at once if it is due. Idempotent."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._loop, name="sendguard-poller", daemon=True)
            self._thread.start()
        return self

    def stop(self, timeout: float | None = 5.0) -> None:
        """Stop, and wait up to `timeout` seconds for a poll under way. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def __enter__(self) -> Poller:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self._poll(self._token, _LEASE)
            except Exception as error:
                poll_failed(error)
                wait = self._interval
            self._stopping.wait(_spread(wait))


class AsyncPoller:
    """As `Poller`, as a task of the running event loop."""

    def __init__(self, poll: Callable[[str, float], Awaitable[float]], interval: float) -> None:
        self._poll, self._interval = poll, _check(interval)
        self._token = secrets.token_hex(8)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> AsyncPoller:
        """Start polling, at once if it is due. Idempotent. Must be called in a running event loop."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._loop(), name="sendguard-poller")
        return self

    async def stop(self) -> None:
        """Stop; a poll under way is cancelled and its lease given back. Idempotent."""
        self._stopping.set()  # a client of the store may swallow a cancellation that comes as its reply does
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def __aenter__(self) -> AsyncPoller:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = await self._poll(self._token, _LEASE)
            except Exception as error:
                poll_failed(error)
                wait = self._interval
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _spread(wait))
