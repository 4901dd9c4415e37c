"""Pools to count in: the same every time, copied inside the store, so that no count depends on what came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis

from benchmarks.counts_rows import SECRET, Asked, Row
from benchmarks.setup import TIMEOUT, add_lines, every_rule
from sendguard import AsyncSendGuard, SendGuard

LINES = (10, 10_000)
_COUNTED = "counted"
"""The pool that is counted in: always of this name, which is part of every command."""


class Sync:
    """Calls the methods of a `SendGuard`."""

    def __init__(self, store: str | redis.Redis, row: Row) -> None:
        self.guard = SendGuard(
            store, pool=_COUNTED, policy=row.policy(), timeout=TIMEOUT, refresh=None, webhook_secret=SECRET
        )

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self.guard, method)(*args, **options)

    def call(self, asked: Asked) -> Callable[[], Any]:
        """What is asked, without arguments."""
        return partial(getattr(self.guard, asked.method), *asked.args, **asked.options)

    def close(self) -> None:
        self.guard.close()


class Async:
    """Calls the methods of an `AsyncSendGuard`, each until it is done, on an event loop of its own."""

    def __init__(self, store: str, row: Row) -> None:
        self._loop = asyncio.new_event_loop()
        self.guard = AsyncSendGuard(
            store, pool=_COUNTED, policy=row.policy(), timeout=TIMEOUT, refresh=None, webhook_secret=SECRET
        )

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        return self._loop.run_until_complete(getattr(self.guard, method)(*args, **options))

    def call(self, asked: Asked) -> Callable[[], Any]:
        """As `Sync.call`."""
        return partial(self, asked.method, *asked.args, **asked.options)

    def close(self) -> None:
        self._loop.run_until_complete(self.guard.close())
        self._loop.close()


class Pools:
    """The pools of one server. url: of the server, which nobody else uses."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url)

    def add(self, lines: int) -> None:
        """Make the pool that those of so many lines are copies of."""
        with SendGuard(self.url, pool=f"lines-{lines}", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
            add_lines(guard, lines)

    def renew(self, lines: int) -> None:
        """Make the pool that is counted in anew, of so many lines."""
        origin, copy = f"sendguard:{{lines-{lines}}}:", f"sendguard:{{{_COUNTED}}}:"
        for key in self._keys(copy):
            self._client.delete(key)
        for key in self._keys(origin):
            self._client.copy(key, copy + key.removeprefix(origin))

    def _keys(self, prefix: str) -> list[str]:
        found: Any = self._client.keys(f"{prefix}*")
        return sorted(key.decode() for key in found)

    def close(self) -> None:
        self._client.close()


@contextmanager
def pools(url: str) -> Iterator[Pools]:
    """Pools of 10 and of 10,000 lines."""
    made = Pools(url)
    try:
        for lines in LINES:
            made.add(lines)
        yield made
    finally:
        made.close()
