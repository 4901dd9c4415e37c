"""One run: a fresh simulator, a team, the traffic, and what the simulator's record says of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sendguard import Health, LineStatus
from sendguard.simulator import SimulatedLine, Simulator

from .team import Team
from .traffic import LINES, Send, health_model, traffic

if TYPE_CHECKING:
    from .screen import Screen

THREADS = 64
BY_HAND = LINES[1]
FLIP_AT, RECOVER_AT = 0.3, 0.5
"""When `BY_HAND` is flipped to FLAGGED and recovers, as parts of the run."""


@dataclass(frozen=True)
class Facts:
    """What the simulator recorded up to now. accepted_by, refused_by: by line; news: the latest status changes."""

    done: int
    elapsed: float
    lines: list[SimulatedLine]
    accepted_by: Counter[str | None]
    refused_by: Counter[str | None]
    to_flagged: int
    times_flagged: int
    news: list[str]

    @property
    def accepted(self) -> int:
        return self.accepted_by.total()

    @property
    def refused(self) -> int:
        return self.refused_by.total()

    @property
    def flagged_now(self) -> int:
        return sum(line.status is LineStatus.FLAGGED for line in self.lines)


class Run:
    """The traffic of `seed`, sent by one team on a simulator of its own."""

    def __init__(self, team: type[Team], seconds: float, seed: int) -> None:
        self.title = team.title
        self.asked = traffic(seconds, seed)
        self.said: Counter[str] = Counter()
        self._new_team, self._seconds = team, seconds
        self._sim = Simulator(LINES, health_model=health_model(seconds), seed=seed)
        self._queue = iter(enumerate(self.asked))
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._done, self._started, self._ended = 0, 0.0, 0.0

    def play(self, screen: Screen) -> None:
        """Send everything, showing it as it goes. Raises KeyboardInterrupt once the threads have stopped."""
        with self._sim:
            team = self._new_team(self._sim)
            self.said, self._started = team.said, time.monotonic()
            work = [threading.Thread(target=self._work, args=(team,), daemon=True) for _ in range(THREADS)]
            work.append(threading.Thread(target=self._flip_by_hand, daemon=True))
            try:
                for thread in work:
                    thread.start()
                with screen.showing(self):
                    for thread in work:
                        thread.join()
                self._ended = time.monotonic()
            finally:
                self._stop.set()
                for thread in work:
                    thread.join()
                team.close()

    def _reached(self, at: float) -> bool:
        """Wait for a moment of the run. False if the run was stopped before."""
        return not self._stop.wait(max(0.0, self._started + at - time.monotonic()))

    def _next(self) -> tuple[int, Send] | None:
        with self._lock:
            return next(self._queue, None)

    def _work(self, team: Team) -> None:
        while (item := self._next()) and self._reached(item[1].at):
            team.send(f"send-{item[0]}", item[1])
            with self._lock:
                self._done += 1

    def _flip_by_hand(self) -> None:
        if self._reached(FLIP_AT * self._seconds):
            self._sim.flip(BY_HAND, status=LineStatus.FLAGGED)
        if self._reached(RECOVER_AT * self._seconds):
            self._sim.flip(BY_HAND, status=LineStatus.ACTIVE, health=Health.HEALTHY)

    def facts(self) -> Facts:
        """Everything that is shown, counted from the simulator's record."""
        sends = self._sim.sends
        changes = [event for event in self._sim.events if event.type == "phone_number.status_updated"]
        return Facts(
            done=self._done,
            elapsed=(self._ended or time.monotonic()) - self._started,
            lines=self._sim.lines(),
            accepted_by=Counter(send.line for send in sends if send.accepted),
            refused_by=Counter(send.line for send in sends if not send.accepted),
            to_flagged=len(self._sim.sends_to_flagged()),
            times_flagged=sum(
                event.data["new_status"] == "FLAGGED" != event.data["previous_status"] for event in changes
            ),
            news=[f"{e.line} {e.data['new_status']} {e.data['new_reputation']}" for e in changes[-3:]],
        )
