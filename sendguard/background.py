"""Work that a process repeats in the background: a thread, or a task of the event loop, that no error ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Self

_JITTER = 0.1


def _spread(seconds: float) -> float:
    """A little later than asked, so that a fleet does not knock at the same moment."""
    return seconds * (1 + random.random() * _JITTER)


class Background:
    """A daemon thread that takes one step after the other.

    step: returns the seconds until the next is due. failed: is told of the exception that a step raised.
    rest: seconds until the step after that one. name: of the thread.
    """

    def __init__(
        self, step: Callable[[], float], *, failed: Callable[[Exception], None], rest: float, name: str
    ) -> None:
        self._step, self._failed, self._rest, self._name = step, failed, rest, name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start, with the first step at once. Idempotent."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        return self

    def ask_to_stop(self) -> None:
        """Let the step under way be the last, without waiting for it."""
        self._stopping.set()

    def stop(self, timeout: float | None = 5.0) -> None:
        """Stop, and wait up to `timeout` seconds for a step under way. Idempotent."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self._step()
            except Exception as error:
                self._failed(error)
                wait = self._rest
            self._stopping.wait(_spread(wait))


class AsyncBackground:
    """As `Background`, as a task of the running event loop."""

    def __init__(
        self, step: Callable[[], Awaitable[float]], *, failed: Callable[[Exception], None], rest: float, name: str
    ) -> None:
        self._step, self._failed, self._rest, self._name = step, failed, rest, name
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> Self:
        """Start, with the first step at once. Idempotent. Must be called in a running event loop."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._loop(), name=self._name)
        return self

    async def stop(self, grace: float = 0.0) -> None:
        """Stop. A step under way has `grace` seconds to end by itself, and is cancelled then. Idempotent."""
        self._stopping.set()  # a client of the store may swallow a cancellation that comes as its reply does
        if self._task is not None:
            if grace:
                await asyncio.wait({self._task}, timeout=grace)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = await self._step()
            except Exception as error:
                self._failed(error)
                wait = self._rest
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _spread(wait))
