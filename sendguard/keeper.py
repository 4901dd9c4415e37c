"""What a process knows of its pool by heart, and how it notices that the store has forgotten something.

Every process looks at the pool's stream of transitions about once a second, and re-reads the lines that changed. A
stream that no longer holds the last transition that this process saw has lost writes: the process tells the store again
what it knows of the lines. Newer knowledge wins (law 2), so that many processes may do so at once, in any order.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sendguard.errors import StoreUnavailable
from sendguard.logs import tell
from sendguard.models import Line
from sendguard.protocol import Protocol
from sendguard.replies import changes_of, line_of, server_time, texts, transitions_of
from sendguard.steps import Flow, Renew
from sendguard.store.scripts import Call, Command

_LINES_PER_CALL = 200
_READ_ALL_EVERY = 30.0
"""Seconds after which all lines are read again, for what no transition tells: how much of a quota is used."""
_FOUNDING_LOOKS = 2.0
"""How many times `refresh` an empty pool is left empty, so that every living process has told what it knows."""
_REST_LOOKS = 1.5
"""How many times `refresh` a line rests that the store had forgotten, so that whoever knows more of it is heard."""
_MOST_TOLD = 1000
"""How many webhooks are kept for the next look."""

Run = Callable[[Call | Command], Flow[Any]]


class Keeper:
    """The last known lines of a pool. refresh: seconds between looks; None: never, and nothing is kept.

    lines: by number. looked_at: `time.monotonic()` of the last look that succeeded. offset: seconds that the store's
    clock is ahead of this machine's. suspect: whether the store failed since the last look.
    """

    def __init__(self, protocol: Protocol, refresh: float | None, clock: Callable[[], float] | None) -> None:
        self.refresh = refresh
        self.lines: dict[str, Line] = {}
        self.looked_at: float | None = None
        self.offset = 0.0
        self.suspect = False
        self._protocol, self._clock = protocol, clock
        self._last, self._read_at = "0", 0.0
        self._begun = self._applied = 0
        self._told: deque[Call] = deque(maxlen=_MOST_TOLD)

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    @property
    def rest(self) -> float:
        """Seconds that a forgotten line rests: each living process looks meanwhile, and tells what it knows of it."""
        return _REST_LOOKS * (self.refresh or 0.0)

    @property
    def notice(self) -> float:
        """Seconds for which a pool that a poll finds empty is left so."""
        return 0.0 if self.refresh is None else _FOUNDING_LOOKS * self.refresh

    def told(self, call: Call) -> None:
        """Keep what a webhook told the store until the next look, which tells it again: the store may lose it first.

        It must be one that changes nothing the second time.
        """
        if self.refresh is not None:
            self._told.append(call)

    def look(self, run: Run, *, patient: bool) -> Flow[None]:
        """Take in what changed since the last look; where the store forgot something, tell it again first.

        patient: whether each part may take the guard's timeout anew. Of two looks at once, the one begun later counts.
        Raises StoreUnavailable.
        """
        self.suspect, self._begun = True, self._begun + 1
        turn, lines, last, now = self._begun, self.lines, self._last, time.monotonic()
        told = list(self._told)
        seen = transitions_of((yield from run(self._protocol.transitions_from(last, _LINES_PER_CALL + 1))))
        if last != "0":
            broken = not seen or seen[0].transition_id != last
        else:  # nothing to hold the stream against yet
            known = texts((yield from run(self._protocol.numbers()))) if lines else []
            broken = not lines.keys() <= set(known)
        if broken and lines:
            text = "the store has lost what it knew; telling it of %d lines again"
            tell(logging.WARNING, "store_forgot", text, len(lines), pool=self._protocol.pool, lines=len(lines))
            yield from self._restore(run, list(lines.values()), patient)
        lost = yield from self._retell(run, told, patient)
        whole = lost or (
            last == "0" or broken or len(seen) > _LINES_PER_CALL or now - self._read_at > _READ_ALL_EVERY or not lines
        )
        if whole:
            last = yield from self._newest(run, patient)
            lines = yield from self._read(run, texts((yield from run(self._protocol.numbers()))), patient)
            yield from self._confirm(run, last)
        else:
            changed = {each.change.number for each in seen[1:]}
            found = yield from self._read(run, changed, patient)
            lines = {number: line for number, line in lines.items() if number not in changed} | found
            last = seen[-1].transition_id if seen else last
            if changed:
                yield from self._confirm(run, last)
        if turn > self._applied:
            self._applied, self.lines, self._last = turn, lines, last
            self._read_at = now if whole else self._read_at
            self.looked_at, self.suspect = now, False
            for call in told:  # which `lines` tells of from here on
                with contextlib.suppress(ValueError):  # another look has done so too
                    self._told.remove(call)

    def _retell(self, run: Run, told: list[Call], patient: bool) -> Flow[bool]:
        """Tell what webhooks told since the last look once more; whether the store had lost any of it."""
        lost = False
        for call in told:
            if patient:
                yield Renew()
            lost = bool(changes_of((yield from run(call)), "webhook")) or lost
        return lost

    def _confirm(self, run: Run, last: str) -> Flow[None]:
        """Raise StoreUnavailable if the store forgot while it was read: what is known would be given up for nothing."""
        newest = transitions_of((yield from run(self._protocol.transitions_from(last, 1))))
        gone = not newest or newest[0].transition_id != last
        if gone and (last != "0" or self.lines):
            raise StoreUnavailable("the store lost what it knew while it was read")

    def _restore(self, run: Run, lines: list[Line], patient: bool) -> Flow[None]:
        for i in range(0, len(lines), _LINES_PER_CALL):
            if patient:
                yield Renew()
            yield from run(self._protocol.restore(lines[i : i + _LINES_PER_CALL], self._now(), rest=self.rest))

    def _newest(self, run: Run, patient: bool) -> Flow[str]:
        """The id of the last transition, "0" if there is none; and how far the store's clock is from ours."""
        if patient:
            yield Renew()
        newest = transitions_of((yield from run(self._protocol.last_transition())))
        here = time.time()
        self.offset = server_time((yield from run(Command(("TIME",))))) - here
        return newest[-1].transition_id if newest else "0"

    def _read(self, run: Run, numbers: Iterable[str], patient: bool) -> Flow[dict[str, Line]]:
        wanted, found = list(numbers), dict[str, Line]()
        for i in range(0, len(wanted), _LINES_PER_CALL):
            if patient:
                yield Renew()
            rows = yield from run(self._protocol.lines(wanted[i : i + _LINES_PER_CALL], self._now()))
            found |= {line.number: line for line in map(line_of, rows)}
        return found
