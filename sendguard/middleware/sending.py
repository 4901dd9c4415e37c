"""`guard.sending(...)`: a block of sending code that is decided on when it is entered and settled when it is left."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from sendguard.arguments import as_outcome
from sendguard.errors import StoreUnavailable
from sendguard.flows import Flows, number_of
from sendguard.logs import tell
from sendguard.middleware.outcome import outcome_of
from sendguard.models import Decision, Outcome
from sendguard.request import Request
from sendguard.steps import Flow

if TYPE_CHECKING:
    from sendguard.async_guard import AsyncSendGuard
    from sendguard.guard import SendGuard


def was_paid_before(request: Request, decision: Decision) -> bool:
    """Whether a decision is the remembered one of an earlier attempt."""
    return decision.decision_id != request.decision_id


def settle(flows: Flows, request: Request, decision: Decision, outcome: Outcome) -> Flow[None]:
    """Report what became of a send. Never raises for the store: the send itself is over, for better or worse.

    The answer to a retry (law 8) was paid by an earlier attempt that may have left, so it is not given back.
    """
    if outcome.sent is False and was_paid_before(request, decision):
        outcome = replace(outcome, sent=True)
    yield from quietly(flows.report(decision, outcome))


def quietly(flow: Flow[object]) -> Flow[None]:
    """Carry out what comes after a send; that the store is out of reach then is only worth a line in the log."""
    try:
        yield from flow
    except StoreUnavailable as error:
        tell(logging.WARNING, "report_lost", "what became of a send was not stored: %s", error)


class Send:
    """The send inside the block. decision: the guard's; from_number: the line to send from, E.164."""

    decision: Decision
    from_number: str

    def __init__(self, flows: Flows, request: Request, max_wait: float) -> None:
        self._flows, self._request, self._max_wait = flows, request, max_wait
        self._outcome: Outcome | None = None

    def report(self, outcome: Outcome | str) -> None:
        """Say what became of the send, where the block knows better than its exception, or has none.

        outcome: "sent", "not_sent", "unknown", or an `Outcome`. It is stored when the block is left.
        Raises ValueError for any other.
        """
        self._outcome = as_outcome(outcome)

    def _enter(self) -> Flow[None]:
        self.decision = yield from self._flows.choose(self._request, self._max_wait)
        self.from_number = number_of(self.decision)

    def _exit(self, error: BaseException | None) -> Flow[None]:
        outcome = self._outcome
        if outcome is None:
            outcome = Outcome(True) if error is None else outcome_of(error)
        return settle(self._flows, self._request, self.decision, outcome)


class Sending:
    """The context manager of `SendGuard.sending`; for one use."""

    def __init__(self, guard: SendGuard, request: Request, max_wait: float) -> None:
        self._guard, self._send = guard, Send(guard._flows, request, max_wait)

    def __enter__(self) -> Send:
        self._guard._drive(self._send._enter())
        return self._send

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._guard._drive(self._send._exit(error))


class AsyncSending:
    """The context manager of `AsyncSendGuard.sending`; for one use."""

    def __init__(self, guard: AsyncSendGuard, request: Request, max_wait: float) -> None:
        self._guard, self._send = guard, Send(guard._flows, request, max_wait)

    async def __aenter__(self) -> Send:
        await self._guard._drive(self._send._enter())
        return self._send

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._guard._drive(self._send._exit(error))
