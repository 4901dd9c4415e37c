"""How loans move between a process and the store: what is called back is heard, and what is not used goes back.

Flows, as those of `flows`. Who tells of a line that may not be sent on any more waits here until nobody can use what it
was lent of that line, so that law 1 holds for loans as for decisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sendguard.errors import StoreUnavailable
from sendguard.lease import Lease
from sendguard.loan_calls import LoanCalls
from sendguard.loans import Asked, Loans, Returned, running_time
from sendguard.models import Decision
from sendguard.protocol import Protocol
from sendguard.replies import loan_of, revocations_of, stream_of
from sendguard.steps import Flow, Renew, Wait
from sendguard.store.scripts import Call, Command

_LISTENS_FOR = 0.2
"""Seconds that the store is asked at once whether something is called back; what is to go back goes back in between."""
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.05
"""Seconds between looks at whether what was called back has been given back."""
_LOANS_PER_CALL, _RECORDS_PER_CALL = 100, 500

Run = Callable[[Call | Command], Flow[Any]]


class Lending:
    """The loans of one guard. now: its clock, or None for the store's own time."""

    def __init__(
        self, protocol: Protocol, lease: Lease, run: Run, now: Callable[[], float | None], record: bool
    ) -> None:
        self.loans = Loans(lease.ttl, record)
        self.calls, self._run, self._now = LoanCalls(protocol), run, now
        self._listens_for = min(_LISTENS_FOR, lease.ttl / 8)
        self._last: str | None = None

    def lent(self, reply: bytes | str, decision: Decision, conversation: str, asked: Asked) -> None:
        """Take in what the store lent with a decision, if anything."""
        loan = loan_of(reply)
        if loan:
            self.loans.take(decision, conversation, loan, asked)

    def listen(self) -> Flow[float]:
        """One round of what a process that borrows does in the background. Returns the seconds until the next: none."""
        try:
            listens_for = self._listens_for
            if self._last is None:
                newest = stream_of((yield from self._run(self.calls.last_revocation())))
                self._last = newest[0][0] if newest else "0-0"
                listens_for = 0.0  # so that it can borrow at once
            yield Renew()
            asked_at = running_time()
            reply = yield from self._run(self.calls.revocations(self._last, listens_for))
            last, lines = revocations_of(reply, self.loans.process)
            self._last = last or self._last
            self.loans.call_back(lines)
            self.loans.heard(asked_at)
            yield from self.give_back()
        except BaseException:
            self._last = None
            self.loans.deafen()
            raise
        return 0.0

    def give_back(self) -> Flow[None]:
        """Give back what is over, and have the sends recorded that were decided here."""
        returned = self.loans.returned(self._now())
        try:
            for part in _parts(returned):
                yield Renew()
                yield from self._run(self.calls.give_back(self.loans.process, part, self._now()))
        finally:
            self.loans.carried()


def _parts(returned: Returned) -> list[Returned]:
    """What goes back, in calls that hold nobody up. Lines come after loans, whose tokens count while they are held."""
    lines, loans, sent = returned
    return [
        *(Returned((), loans[i : i + _LOANS_PER_CALL], ()) for i in range(0, len(loans), _LOANS_PER_CALL)),
        *(Returned(lines[i : i + _LOANS_PER_CALL], (), ()) for i in range(0, len(lines), _LOANS_PER_CALL)),
        *(Returned((), (), sent[i : i + _RECORDS_PER_CALL]) for i in range(0, len(sent), _RECORDS_PER_CALL)),
    ]


def until_given_back(
    called_back: Mapping[str, float],
    lending: Lending | None,
    calls: LoanCalls,
    run: Run,
    now: Callable[[], float | None],
) -> Flow[None]:
    """Wait until nothing that was called back of some lines can be used: until it was given back, or has run out.

    called_back: the seconds until it has run out, by line. They pass by this process' own clock: a store that is lost,
    or whose clock jumps, ends no loan early.
    """
    ends = time.monotonic() + max(called_back.values())
    look = _FIRST_LOOK
    try:
        if lending is not None:
            lending.loans.call_back(called_back)
            yield from lending.give_back()
        while (left := ends - time.monotonic()) > 0:
            yield Wait(min(look, left))
            if not (yield from run(calls.pending(called_back, now()))):
                return
            look = min(2 * look, _LAST_LOOK)
    except StoreUnavailable:
        yield Wait(max(0.0, ends - time.monotonic()))
