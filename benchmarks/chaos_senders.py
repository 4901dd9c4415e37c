"""A process that sends while its store is in trouble: threads with the official SDK and one guard between them."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sendguard import Decision, Reason, SendGuard, StoreUnavailable
from tests.sender import Asked, Job, Sender

_PAUSE, _STORE_PAUSE = 0.03, 0.05
_ASKED_AGAIN = 0.2
"""How often a sender asks twice with one key, as one does that was restarted before it sent."""
_TICK = 0.005


class Answer(NamedTuple):
    """One answer of the guard. asked, answered, looked: Unix seconds; looked: when its process last saw the lines.

    seconds: that the call took; stalled: of those, how long Python itself did not run. degraded: since when the process
    that answered was without the store; None if the store decided.
    """

    key: str
    to: str
    process: str
    line: str | None
    reason: Reason
    asked: float
    answered: float
    seconds: float
    stalled: float
    degraded: float | None
    looked: float


class Sent(NamedTuple):
    """A send that went out, and the answer that let it."""

    kind: str
    answer: Answer


@dataclass(frozen=True)
class ChaosJob(Job):
    """until: Unix seconds at which the sender stops; requests: how many sends it asks for at most."""

    process: str = ""
    timeout: float = 0.25
    refresh: float = 1.0
    until: float = 0.0
    requests: int = 0


@dataclass
class Log:
    """What the senders of one process saw. unreported: outcomes that could not be told to the store."""

    answers: list[Answer] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    unreported: int = 0


class Stalls:
    """How long this process was kept from running: a thread that sleeps briefly, and notes by how much it overslept."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        before = time.perf_counter()
        while not self._done.wait(_TICK):
            now = time.perf_counter()
            if now - before > 2 * _TICK:
                self._late.append((before, now))
            before = now

    def within(self, began: float, ended: float) -> float:
        """Seconds of a stretch, by `time.perf_counter()`, that were such oversleeping."""
        return sum(
            max(0.0, min(ended, until) - max(began, since) - _TICK)
            for since, until in reversed(self._late[-200:])
            if until > began
        )

    def stop(self) -> None:
        self._done.set()


class Watched:
    """A guard of which is known, call by call, whether it decided without its store."""

    def __init__(self, job: ChaosJob) -> None:
        options = {"timeout": job.timeout, "refresh": job.refresh}
        self.guard = SendGuard(job.store, pool=job.pool, policy=job.policy, **options)  # type: ignore[arg-type]
        self._own = threading.local()
        degraded = self.guard._flows.degraded
        if degraded is not None:
            degraded.decide = self._noting(degraded.decide)  # type: ignore[method-assign]

    def _noting(self, decide: Callable[..., Decision | None]) -> Callable[..., Decision | None]:
        def noting(*args: Any) -> Decision | None:
            decision = decide(*args)
            if decision is not None:
                self._own.since = self.guard.degraded_since
            return decision

        return noting

    def decide(self, to: str, kind: str, key: str) -> tuple[Decision, float | None]:
        """The decision, and since when its process was without the store if it was made so."""
        self._own.since = None
        return self.guard.decide(to, kind=kind, idempotency_key=key), self._own.since

    def looked(self) -> float:
        at = self.guard._flows.keeper.looked_at
        return 0.0 if at is None else time.time() - (time.monotonic() - at)


class ChaosSender(Sender):
    """Sends until its time is over; asks again, with the same key, whatever a denial said."""

    job: ChaosJob

    def __init__(self, job: ChaosJob, watched: Watched, stalls: Stalls) -> None:
        super().__init__(job)
        self.guard.close()
        self.guard, self.watched, self.stalls, self.log = watched.guard, watched, stalls, Log()

    def go_on(self) -> Log:
        """Everything that came of it."""
        for count in range(self.job.requests):
            if time.time() > self.job.until:
                break
            self.send(f"{self.job.name}-{count}", "voice_memo" if self.dice.random() < 0.1 else "chat")
            time.sleep(_PAUSE)
        self.client.close()
        return self.log

    def send(self, key: str, kind: str) -> None:
        deadline, attempt = time.monotonic() + self.job.patience, 0
        to = self.recipient(kind)
        if to is None:
            kind, to = "chat", self.dice.choice(self.job.recipients)
        name = key
        while True:
            decision = self.ask(name, to, kind)
            if decision.allowed and self.dice.random() < _ASKED_AGAIN:
                decision = self.ask(name, to, kind)
            if decision.allowed:
                attempt += 1
                if self.deliver(name, to, kind, decision):
                    return
                name = f"{key}.{attempt}"
            wait = _STORE_PAUSE if decision.allowed or decision.retry_after is None else decision.retry_after
            if time.monotonic() + wait > deadline or time.time() > self.job.until:
                return
            time.sleep(wait)

    def ask(self, key: str, to: str, kind: str) -> Decision:
        looked, at, began = self.watched.looked(), time.time(), time.perf_counter()
        decision, degraded = self.watched.decide(to, kind, key)
        ended = time.perf_counter()
        seconds = ended - began
        stalled = self.stalls.within(began, ended) if seconds > self.job.timeout else 0.0
        line = decision.from_number if decision.allowed else None
        answer = Answer(
            *(key, to, self.job.process, line, decision.reason),
            *(at, at + seconds, seconds, stalled, degraded, looked),
        )
        self.log.answers.append(answer)
        self.asked = [Asked(key, to, kind, at, decision)]
        return decision

    def deliver(self, key: str, to: str, kind: str, decision: Decision) -> bool:
        try:
            done = super().deliver(key, to, kind, decision)
        except StoreUnavailable:
            self.log.unreported += 1
            done = False
        if key in self.sent:
            self.log.sent.append(Sent(kind, self.log.answers[-1]))
        return done


def run(jobs: Sequence[ChaosJob]) -> Log:
    """Carry out the jobs of one process, a thread for each. Raises RuntimeError, which can cross processes."""
    logging.getLogger("sendguard").setLevel(logging.CRITICAL)
    try:
        watched, stalls, whole = Watched(jobs[0]), Stalls(), Log()
        with ThreadPoolExecutor(len(jobs)) as threads:
            for log in threads.map(lambda job: ChaosSender(job, watched, stalls).go_on(), jobs):
                whole.answers += log.answers
                whole.sent += log.sent
                whole.unreported += log.unreported
        stalls.stop()
        watched.guard.close()
        return whole
    except Exception:
        raise RuntimeError(traceback.format_exc()) from None
