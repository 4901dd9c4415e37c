"""What this process has borrowed, and the sends that it decides from that. No I/O: `lending` moves it to and fro.

A loan is a number of sends of one conversation on its line. The store decided each of them, and took what it costs,
when it lent them; so no rule is applied here. A loan is counted down, and it ends with its time, when it is called
back, or when nothing would be heard of that any more.
"""

from __future__ import annotations

import math
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
from sendguard.store.units import micros

_HASTE = 0.98
"""The part of a loan's time for which it is used: no two clocks run alike."""
_MOST_RECORDS = 10_000
"""How many decisions wait to be recorded: the record in the store holds no more."""
_HEARD_WITHIN = 1.0
"""Seconds since the store last told what was called back, in which loans are used; or half their time, if less."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def running_time() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class Asked(NamedTuple):
    """When the store was asked to lend: in which turn, and at what time by `running_time` and by the guard's clock."""

    turn: int
    at: float
    now: float | None


class Loan:
    """Sends of one conversation, from one line at one health.

    lent, tokens: how many, and how many of the line's bucket among them. left: those not used yet. lent_at, until: from
    when until when in the store's microseconds, the latter as text. begun, ends: the same by `running_time`, and a
    little earlier; ends_at: until when by the guard's clock, if it has one.
    """

    __slots__ = (
        "begun", "conversation", "ends", "ends_at", "health", "left", "lent", "lent_at", "line", "tokens", "until",
    )  # fmt: skip

    def __init__(self, line: str, health: Health, conversation: str, loan: str, asked: Asked, ttl: float) -> None:
        """loan: as the scripts put it. asked: before it was lent. ttl: seconds that it was lent for."""
        lent, tokens, self.until = loan.split(",")
        self.line, self.health, self.conversation = line, health, conversation
        self.lent, self.tokens, self.left = int(lent), int(tokens), int(lent)
        self.lent_at = int(self.until) - micros(ttl)
        self.begun, self.ends = asked.at, asked.at + _HASTE * ttl
        self.ends_at = None if asked.now is None else asked.now + _HASTE * ttl

    def is_over(self, at: float, now: float | None) -> bool:
        """Whether its time is over. at: by `running_time`; now: by the guard's clock, if it has one."""
        return at >= self.ends or (now is not None and self.ends_at is not None and now >= self.ends_at)


class Sent(NamedTuple):
    """A send that was decided here, for the record. at: seconds into its loan's time."""

    request: Request
    loan: Loan
    at: float


class Returned(NamedTuple):
    """What goes back to the store.

    lines: those of which nothing is held any more, with the turn in which it was dropped. loans: that are over. sent:
    to be recorded.
    """

    lines: Sequence[tuple[str, int]]
    loans: Sequence[Loan]
    sent: Sequence[Sent]


class Loans:
    """What one process holds. ttl: seconds, of each loan. record: whether its decisions are to be recorded.

    process: its name in the store, another one after a fork. Time goes in turns: what was asked for before the turn in
    which its line was dropped is not taken in any more, as it may have been called back on its way. Safe between
    threads.
    """

    def __init__(self, ttl: float, record: bool) -> None:
        self._ttl, self._record = ttl, record
        self._heard_within = min(_HEARD_WITHIN, ttl / 2)
        self.forget()
        after_fork(self, Loans.forget)

    def forget(self) -> None:
        """Begin anew, in a forked process: what was lent is its parent's."""
        self.process = os.urandom(6).hex()
        self._lock = threading.Lock()
        self._closed = False
        self._heard = -math.inf
        self._turn = self._deaf = 0
        self._loans: dict[str, Loan] = {}
        self._over: list[Loan] = []
        self._sent: deque[Sent] = deque(maxlen=_MOST_RECORDS)
        self._dropped: dict[str, int] = {}
        self._unsaid: dict[str, int] = {}
        self._under_way = 0

    # Deciding --------------------------------------------------------------------------------------------------------

    def decide(self, request: Request, conversation: str, now: float | None) -> Decision | None:
        """A decision from what is held, or None: then the store is to be asked."""
        if not _may_be_lent(request):
            return None
        from_number = request.from_number
        with self._lock:
            loan = self._loans.get(conversation)
            if loan is None or loan.left <= 0 or (from_number is not None and from_number != loan.line):
                return None
            at = running_time()
            if loan.is_over(at, now) or at - self._heard > self._heard_within:
                return None
            loan.left -= 1
            if self._record:
                self._sent.append(Sent(request, loan, at - loan.begun))
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

    def heard(self, at: float) -> None:
        """Note that the store has told all that was called back until then, by `running_time`."""
        self._heard = at

    @property
    def hears(self) -> bool:
        """Whether what is called back is heard; only then is anything borrowed, and used."""
        return not self._closed and running_time() - self._heard <= self._heard_within

    def asks(self, request: Request, now: float | None) -> Asked | None:
        """Whether to borrow with a decision that the store is asked for: then what it lends goes to `take`."""
        return Asked(self._turn, running_time(), now) if _may_be_lent(request) and self.hears else None

    def take(self, decision: Decision, conversation: str, loan: str, asked: Asked) -> None:
        """Take in what was lent with a decision; `loan` is as the scripts put it."""
        line, health = decision.from_number, decision.health
        assert line is not None
        assert health is not None
        new = Loan(line, health, conversation, loan, asked, self._ttl)
        with self._lock:
            if self._closed or self._deaf > asked.turn:
                return  # as if it had been lost on its way
            if self._dropped.get(line, 0) > asked.turn:
                self._over.append(new)
                return
            before = self._loans.get(conversation)
            self._loans[conversation] = new
            if before is not None:
                self._over.append(before)

    # Giving back -----------------------------------------------------------------------------------------------------

    def call_back(self, lines: Iterable[str]) -> None:
        """Use nothing more of some lines."""
        with self._lock:
            self._drop(set(lines))

    def deafen(self) -> None:
        """Use nothing more of what is held: what is called back is not heard any more.

        Nothing of it goes back, as the store may not know of it any more: it counts as sent.
        """
        with self._lock:
            self._heard = -math.inf
            self._turn += 1
            self._deaf = self._turn
            self._loans, self._over, self._unsaid = {}, [], {}

    def close(self) -> None:
        """Use nothing more, and borrow nothing; what is held can go back."""
        with self._lock:
            self._closed = True
            self._drop({loan.line for loan in self._loans.values()})

    def _drop(self, lines: set[str]) -> None:
        """To be called with the lock held."""
        self._turn += 1
        turns = dict.fromkeys(lines, self._turn)
        self._dropped |= turns
        self._unsaid |= turns
        for conversation in [key for key, loan in self._loans.items() if loan.line in lines]:
            self._over.append(self._loans.pop(conversation))

    def returned(self, now: float | None) -> Returned:
        """What is to go back to the store now: loans that are over, lines of which none is left, and what was sent.

        It is gone from here with that, whether or not it arrives: the store counts as sent what does not. When it has
        been carried there, or could not be, `carried` is to be called: no line is told of before the loans of it that
        are under way, as the store takes back none then.
        """
        with self._lock:
            at = running_time()
            for key in [key for key, loan in self._loans.items() if not loan.left or loan.is_over(at, now)]:
                self._over.append(self._loans.pop(key))
            self._drop({loan.line for loan in self._over} - {loan.line for loan in self._loans.values()})
            over, self._over = self._over, []
            unsaid: dict[str, int] = {}
            if not self._under_way:
                unsaid, self._unsaid = self._unsaid, {}
            self._under_way += 1
            sent, self._sent = list(self._sent), deque(maxlen=_MOST_RECORDS)
        return Returned(tuple(unsaid.items()), over, sent)

    def carried(self) -> None:
        """Note that what one call of `returned` told is not under way any more."""
        with self._lock:
            self._under_way -= 1


def _may_be_lent(request: Request) -> bool:
    """Not so a send with an idempotency key: only the store knows whether it is repeated."""
    return request.idempotency_key is None and request.place in ("", "in_chat")
