"""One reader of the store for all who watch: it reads while somebody does, and keeps nothing for a watcher who lags."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from sendguard.errors import StoreUnavailable
from sendguard.logs import tell
from sendguard.models import Line
from sendguard.sidecar.page.minutes import SPAN, milliseconds
from sendguard.sidecar.page.view import View
from sendguard.sidecar.service import Service

EVERY = 1.0
"""Seconds between two reads of the pool, where a read is quick."""
_SHARE = 20
"""A read is followed by at least this many times its own duration of rest, so that a large pool is read less often."""
_HEARTBEAT = 5.0
"""Seconds after which a watcher hears that the stream stands, when there is no news."""
_PAGE = 200
"""Records and rows that are worked on at once, between which decisions of the same process get their turn."""
_PAGES = 100
"""Of such pages, how many one read may take; what is left waits for the next."""
MAX_WATCHERS = 100
"""Watchers at once; each holds a connection, and one frame at most."""


class Feed:
    """What `/v1/watch` streams. It belongs to the event loop that it is first watched in."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._view = self._new_view()
        self._after: dict[str, str] = {}
        self._turned = asyncio.Event()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self.watchers = 0

    def _new_view(self) -> View:
        return View(self._service.guard.pool, self._service.guard._flows.protocol.policy)

    # Watching --------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: all of the pool, then what changed; a comment where nothing was read for a while.

        A watcher who is slow to take one gets the next as of then. It ends when the feed is closed.
        """
        self._join()
        seen = 0
        try:
            while not self._closed:
                if self._view.version > seen:
                    frame, seen = self._view.frame(seen), self._view.version
                    yield frame
                elif not await self._turns_within(_HEARTBEAT):
                    yield b": here\n\n"
        finally:
            self._leave()

    def _join(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.watchers += 1
        if self._reader is None:
            self._view, self._after = self._new_view(), {}
            self._reader = asyncio.create_task(self._read_on())

    def _leave(self) -> None:
        self.watchers -= 1
        if not self.watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _turns_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._turned.wait()
                return True
        return self._closed

    def close(self) -> None:
        """End every stream, so that a server which shuts down need not wait for them. From any thread."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read_on(self) -> None:
        while True:
            began = time.monotonic()
            head = await self._read_or_say_why_not()
            pause = max(EVERY, _SHARE * (time.monotonic() - began))
            self._view.turn(every=round(pause, 3), **head)
            self._wake()
            await asyncio.sleep(pause)

    async def _read_or_say_why_not(self) -> dict[str, Any]:
        try:
            return await self._read()
        except StoreUnavailable:
            return {"store": False}
        except Exception as error:  # what is shown grows stale, which the page tells
            name = type(error).__name__
            tell(logging.ERROR, "page_failed", "the page's reader failed: %s", name, error=name)
            return {}

    async def _read(self) -> dict[str, Any]:
        guard = self._service.guard
        now = await guard._drive(guard._flows.now())
        since = await self._read_decisions(now)
        await self._read_transitions()
        lines, poll_age = await guard.lines(), await self._service.poll_age()
        self._view.put_minutes(now)
        await self._show_lines(lines)
        head = {
            "store": True,
            "at": round(now, 3),
            "polled_at": None if poll_age is None else round(now - poll_age, 3),
            "poll_interval": self._service.poll_interval,
        }
        return head if since is None else head | {"since": since}

    async def _show_lines(self, lines: tuple[Line, ...]) -> None:
        sends = self._view.minutes.sends()
        for start in range(0, len(lines), _PAGE):
            self._view.put_lines(lines[start : start + _PAGE], sends)
            await asyncio.sleep(0)
        self._view.keep_lines(lines)

    async def _read_decisions(self, now: float) -> float | None:
        """Count what was decided since the last read. Returns when the record begins, if that is after it."""
        guard = self._service.guard
        last = self._after.setdefault("decisions", f"{int(now - SPAN * 60) * 1000}-0")
        oldest = await guard.decisions("0", count=1)
        for _ in range(_PAGES):
            records = await guard.decisions(self._after["decisions"], count=_PAGE)
            self._view.minutes.add(records)
            if records:
                self._after["decisions"] = records[-1].entry_id
            if len(records) < _PAGE:
                break
        begins = milliseconds(oldest[0].entry_id) if oldest else 0
        return begins / 1000 if begins > milliseconds(last) else None

    async def _read_transitions(self) -> None:
        for _ in range(_PAGES):
            records = await self._service.guard.transitions(self._after.get("transitions", "0"), count=_PAGE)
            self._view.put_transitions(records)
            if records:
                self._after["transitions"] = records[-1].transition_id
            if len(records) < _PAGE:
                break
