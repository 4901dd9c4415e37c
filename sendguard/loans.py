"""What this process has borrowed, and the sends that it decides from that. No I/O: `lending` moves it to and fro.

A loan is a number of sends of one conversation on its line. The store decided each of them, and took what it costs,
when it lent them; so no rule is applied here. A loan is counted down, and it ends with its time, when it is called
back, or when nothing would be heard of that any more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sendguard.background import after_fork
from sendguard.models import Decision, Health, LineStatus, Reason
from sendguard.receipt import receipt_text
from sendguard.request import Request

_HASTE = 0.98
"""The part of a loan's time for which it is used: no two clocks run alike."""
_MOST_RECORDS = 10_000
"""How many decisions wait to be recorded: the record in the store holds no more."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def running_time() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class Loan:
    """Sends of one conversation. left: how many. ends: until when, by `running_time`; ends_at: by the guard's clock.

    line, health: what they are sent from. tokens: how many of a bucket's are among what was lent. until: its end as the
    store counts it (microseconds), as text; lent_at: its beginning. begun: that, by `running_time`.
    """

    __slots__ = ("begun", "conversation", "ends", "ends_at", "health", "left", "lent_at", "line", "tokens", "until")

    def __init__(self, line: str, conversation: str, left: int, tokens: int, until: str, health: Health) -> None:
        self.line, self.conversation, self.left, self.tokens = line, conversation, left, tokens
        self.until, self.health = until, health
        self.ends = self.begun = 0.0
        self.ends_at: float | None = None
        self.lent_at = 0


class Asked(NamedTuple):
    """When the store was asked to lend. turn: what had been called back by then."""

    turn: int
    at: float
    now: float | None


class Sent(NamedTuple):
    """A send that was decided here, for the record. at: in the store's microseconds."""

    request: Request
    loan: Loan
    at: int


class Returned(NamedTuple):
    """What goes back to the store.

    lines: those of which nothing is held any more, each with the mark of the last loan known of it, or "*" where it was
    called back. loans: that were not used up. sent: to be recorded.
    """

    lines: Sequence[tuple[str, str]]
    loans: Sequence[Loan]
    sent: Sequence[Sent]


class Loans:
    """What one process holds. ttl: seconds, of each loan. process: its name in the store, another one after a fork.

    Nothing is borrowed, or used, unless `hears` is set: what is called back would not be noticed. Safe between threads.
    """

    def __init__(self, ttl: float, record: bool) -> None:
        self._ttl, self._record = ttl, record
        self.forget()
        after_fork(self, Loans.forget)

    def forget(self) -> None:
        """Begin anew, in a forked process: what was lent is its parent's."""
        self.process = os.urandom(6).hex()
        self.hears = False
        self._lock = threading.Lock()
        self._loans: dict[str, Loan] = {}
        self._over: list[Loan] = []
        self._sent: deque[Sent] = deque(maxlen=_MOST_RECORDS)
        self._marks: dict[str, str] = {}
        self._called: dict[str, str] = {}
        self._turn = self._deaf = 0
        self._dropped: dict[str, int] = {}

    # Deciding --------------------------------------------------------------------------------------------------------

    def decide(self, request: Request, conversation: str, now: float | None) -> Decision | None:
        """A decision from what is held, or None: then the store is to be asked.

        A send with an idempotency key is the store's to decide: only there would its repetition be known.
        """
        if request.idempotency_key is not None or request.place not in ("", "in_chat"):
            return None
        from_number = request.from_number
        with self._lock:
            loan = self._loans.get(conversation)
            if loan is None or (from_number is not None and from_number != loan.line):
                return None
            at = running_time()
            if loan.left <= 0 or _timed_out(loan, at, now):
                return None
            loan.left -= 1
            if self._record:
                self._sent.append(Sent(request, loan, loan.lent_at + int((at - loan.begun) * 1_000_000)))
        return Decision(
            True,
            Reason.STICKY if from_number is None else Reason.REQUESTED,
            loan.line,
            None,
            LineStatus.ACTIVE,
            loan.health,
            False,
            None,
            request.decision_id,
            receipt_text((loan.line, loan.until, "0", "0", "0", conversation, request.decision_id, "")),
            0.0,
        )

    # Borrowing -------------------------------------------------------------------------------------------------------

    def asks(self, request: Request, now: float | None) -> Asked | None:
        """Whether to borrow with a decision that the store is asked for; to be told to `take`."""
        if not self.hears or request.idempotency_key is not None or request.place not in ("", "in_chat"):
            return None
        return Asked(self._turn, running_time(), now)

    def take(self, decision: Decision, conversation: str, loan: str, asked: Asked) -> None:
        """Take in what was lent with a decision; `loan` is as the script `lend` puts it."""
        count, tokens, until = loan.split(",")
        line, health = decision.from_number, decision.health
        assert line is not None
        assert health is not None
        new = Loan(line, conversation, int(count), int(tokens), until, health)
        new.begun, new.ends = asked.at, asked.at + _HASTE * self._ttl
        new.ends_at = None if asked.now is None else asked.now + _HASTE * self._ttl
        new.lent_at = int(until) - int(self._ttl * 1_000_000)
        with self._lock:
            self._marks[line] = decision.decision_id[:8]
            if not self.hears or max(self._deaf, self._dropped.get(line, 0)) > asked.turn:
                self._over.append(new)  # it was called back on its way here
                return
            before = self._loans.get(conversation)
            self._loans[conversation] = new
            if before is not None:
                self._over.append(before)

    # Giving back -----------------------------------------------------------------------------------------------------

    def call_back(self, lines: Iterable[str]) -> None:
        """Use nothing more of some lines."""
        wanted = set(lines)
        with self._lock:
            self._drop(wanted)
            self._called |= dict.fromkeys(wanted, "*")

    def deafen(self) -> None:
        """Use nothing more of what is held, and borrow nothing: what is called back is not heard any more."""
        with self._lock:
            self.hears = False
            self._drop({loan.line for loan in self._loans.values()})
            self._deaf = self._turn

    def _drop(self, lines: set[str]) -> None:
        """To be called with the lock held."""
        self._turn += 1
        self._dropped |= dict.fromkeys(lines, self._turn)
        for conversation in [key for key, loan in self._loans.items() if loan.line in lines]:
            self._over.append(self._loans.pop(conversation))

    def returned(self, now: float | None, *, all_of_it: bool = False) -> Returned:
        """What is to go back to the store now: what was called back, has run out or is used up, and what was sent.

        It is gone from here with that, whether or not it arrives: the store counts as sent what does not.
        """
        at = running_time()
        with self._lock:
            for key in [
                key for key, loan in self._loans.items() if all_of_it or not loan.left or _timed_out(loan, at, now)
            ]:
                self._over.append(self._loans.pop(key))
            over, self._over = self._over, []
            held = {loan.line for loan in self._loans.values()}
            marks = {line: self._marks.pop(line, "") for line in {loan.line for loan in over} - held}
            self._turn += 1
            self._dropped |= dict.fromkeys(marks, self._turn)
            called, self._called = self._called, {}
            sent, self._sent = list(self._sent), deque(maxlen=_MOST_RECORDS)
        return Returned(tuple((marks | called).items()), [loan for loan in over if loan.left or loan.tokens], sent)


def _timed_out(loan: Loan, at: float, now: float | None) -> bool:
    return at >= loan.ends or (now is not None and loan.ends_at is not None and now >= loan.ends_at)
