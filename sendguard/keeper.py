"""What a process knows of its pool by heart, and how it notices that the store has forgotten something.

Every process looks at the pool's stream of transitions about once a second, and re-reads the lines that changed. A
stream that no longer holds the last transition that this process saw has lost writes: the process tells the store again
what it knows of the lines. Newer knowledge wins (law 2), so that many processes may do so at once, in any order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from sendguard.logs import tell
from sendguard.models import Line
from sendguard.protocol import Protocol
from sendguard.replies import line_of, server_time, texts, transitions_of
from sendguard.steps import Flow, Renew
from sendguard.store.scripts import Call, Command

_LINES_PER_CALL = 200
_READ_ALL_EVERY = 30.0
"""Seconds after which all lines are read again, for what no transition tells: how much of a quota is used."""
_FOUNDING_LOOKS = 2.0
"""How many times `refresh` an empty pool is left empty, so that every living process has told what it knows."""


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

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    @property
    def notice(self) -> float:
        """Seconds for which a pool that a poll finds empty is left so."""
        return 0.0 if self.refresh is None else _FOUNDING_LOOKS * self.refresh

    def look(self, run: Callable[[Call | Command], Flow[object]], *, patient: bool) -> Flow[None]:
        """Take in what changed since the last look; where the store forgot something, tell it again first.

        patient: whether each part may take the guard's timeout anew. Raises StoreUnavailable.
        """
        self.suspect = True
        reply = yield from run(self._protocol.transitions_from(self._last, _LINES_PER_CALL + 1))
        seen = transitions_of(reply)  # type: ignore[arg-type]
        broken = self._last != "0" and (not seen or seen[0].transition_id != self._last)
        if broken and self.lines:
            text = "the store has lost what it knew; telling it of %d lines again"
            tell(
                logging.WARNING, "store_forgot", text, len(self.lines), pool=self._protocol.pool, lines=len(self.lines)
            )
            yield from self._restore(run, patient)
        now = time.monotonic()
        if broken or len(seen) > _LINES_PER_CALL or now - self._read_at > _READ_ALL_EVERY or not self.lines:
            yield from self._read_all(run, patient)
            self._read_at = now
        else:
            yield from self._read(run, {each.change.number for each in seen[1:]}, patient)
            if seen:
                self._last = seen[-1].transition_id
        self.looked_at, self.suspect = now, False

    def _restore(self, run: Callable[[Call | Command], Flow[object]], patient: bool) -> Flow[None]:
        lines = list(self.lines.values())
        for i in range(0, len(lines), _LINES_PER_CALL):
            if patient:
                yield Renew()
            yield from run(self._protocol.restore(lines[i : i + _LINES_PER_CALL], self._now()))

    def _read_all(self, run: Callable[[Call | Command], Flow[object]], patient: bool) -> Flow[None]:
        if patient:
            yield Renew()
        reply = yield from run(self._protocol.last_transition())
        newest = transitions_of(reply)  # type: ignore[arg-type]
        here = time.time()
        self.offset = server_time((yield from run(Command(("TIME",))))) - here  # type: ignore[arg-type]
        numbers = texts((yield from run(self._protocol.numbers())))  # type: ignore[arg-type]
        kept: dict[str, Line] = {}
        yield from self._read(run, numbers, patient, kept)
        self.lines = kept
        self._last = newest[-1].transition_id if newest else "0"

    def _read(
        self,
        run: Callable[[Call | Command], Flow[object]],
        numbers: Iterable[str],
        patient: bool,
        into: dict[str, Line] | None = None,
    ) -> Flow[None]:
        wanted = list(numbers)
        for i in range(0, len(wanted), _LINES_PER_CALL):
            if patient:
                yield Renew()
            batch = wanted[i : i + _LINES_PER_CALL]
            rows = yield from run(self._protocol.lines(batch, self._now()))
            found = {line.number: line for line in map(line_of, rows)}  # type: ignore[call-overload]
            if into is None:
                gone = {number: self.lines[number] for number in self.lines if number not in batch}
                self.lines = {**gone, **found}
            else:
                into.update(found)
