"""What the sidecar does with its guard, apart from HTTP's own matters."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from sendguard.async_guard import AsyncSendGuard
from sendguard.errors import StoreUnavailable
from sendguard.guard import Headers
from sendguard.linq.poller import AsyncPoller
from sendguard.metrics import Metrics
from sendguard.middleware.webhooks import WebhookAnswer, async_webhook_response
from sendguard.models import Decision, Line, Outcome
from sendguard.request import Request, check_number
from sendguard.watch import watch_of

CallerLeft = Callable[[], Coroutine[Any, Any, None]]
"""Returns when nobody waits for the answer any more."""

_STALE_AFTER = 3
"""Polls that may be missed before what they tell counts as stale."""


@dataclass(slots=True)
class Service:
    """One guard and what is counted of it. poll_interval: seconds, 0 where the sidecar does not poll.

    metrics: those of the guard; one that came without gets some, in a registry of their own.
    """

    guard: AsyncSendGuard
    poll_interval: float
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        flows = self.guard._flows
        known = None if flows.watch is None else flows.watch.metrics
        self.metrics = Metrics(CollectorRegistry()) if known is None else known
        if known is None:
            flows.watch = watch_of(self.guard.pool, self.metrics)

    async def choose(self, request: Request, max_wait: float, caller_left: CallerLeft) -> Decision | None:
        """The decision on a send; None if the caller left while it waited, and then nothing is taken.

        max_wait: seconds.
        """
        deciding = self.guard._drive(self.guard._flows.choose(request, max_wait))
        decision = await (self._unless_left(deciding, request, caller_left) if max_wait else deciding)
        if decision is None:
            return None
        return replace(decision, receipt=self._sealed(decision.receipt))

    async def _unless_left(
        self, deciding: Coroutine[Any, Any, Decision], request: Request, caller_left: CallerLeft
    ) -> Decision | None:
        decision, left = asyncio.create_task(deciding), asyncio.create_task(caller_left())
        try:
            await asyncio.wait({decision, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone = left.done()
            left.cancel()
            decision.cancel()
            # A waiter that is cancelled gives back the slot it holds; that must have happened before this returns.
            await asyncio.gather(decision, left, return_exceptions=True)
        if decision.cancelled():
            return None
        answer = decision.result()
        if gone and answer.allowed and answer.decision_id == request.decision_id:
            await self.guard.report(answer, "not_sent")
        return None if gone else answer

    async def report(self, decision: Decision, outcome: Outcome) -> None:
        """Settle a decision that a caller brings back.

        Raises ValueError naming `from_number`, or `receipt` if it is forged or of another line; UnknownLine;
        StoreUnavailable.
        """
        number, receipt = check_number("from_number", decision.from_number), self._opened(decision.receipt)
        if receipt and not receipt.startswith(f"{number}|"):
            raise ValueError("receipt must be of a decision for from_number")
        if outcome.code is not None:
            await self.line(number)  # what an error code tells of a line would make one that is not known
        await self.guard.report(replace(decision, receipt=receipt), outcome)

    def _sealed(self, receipt: str) -> str:
        """A receipt with a keyed hash of it, so that nobody gives back what this pool's decisions did not take."""
        return f"{receipt}|{self._seal(receipt)}" if receipt else ""

    def _opened(self, sealed: str) -> str:
        receipt, _, seal = sealed.rpartition("|")
        if sealed and not hmac.compare_digest(seal.encode("utf-8", "surrogatepass"), self._seal(receipt).encode()):
            raise ValueError("receipt must be as a decision gave it")
        return receipt

    def _seal(self, receipt: str) -> str:
        return self.guard._flows.protocol.digest(f"receipt {self.guard.pool} {receipt}")

    async def webhook(self, body: bytes, headers: Headers) -> WebhookAnswer:
        """Handle one delivery of a webhook."""
        return await async_webhook_response(self.guard, body, headers)

    async def line(self, number: str) -> Line:
        """One line. Raises UnknownLine, StoreUnavailable, or ValueError naming `number`."""
        return await self.guard._drive(self.guard._flows.line(check_number("number", number)))

    async def poll_age(self) -> float | None:
        """Seconds since the last poll of any process of the fleet; None if there was none. Raises StoreUnavailable."""
        return await self.guard._drive(self.guard._flows.poll_age())

    def poller(self) -> AsyncPoller | None:
        """What polls in the background, not started; None where the sidecar does not poll."""
        return self.guard.poller(interval=self.poll_interval) if self.poll_interval else None

    async def not_ready(self) -> str | None:
        """What keeps the sidecar from deciding well, in words; None if nothing does."""
        try:
            lines, age = await self.guard.lines(), await self.poll_age()
        except StoreUnavailable:
            alone = self.guard.degraded_since is not None
            return "the store is out of reach" + (": deciding without it" if alone else "")
        if not lines:
            return "no line is known yet"
        if self.poll_interval and (age is None or age > _STALE_AFTER * self.poll_interval):
            return "there was no poll yet" if age is None else f"the last poll was {age:.0f} s ago"
        return None

    async def measured(self) -> bytes:
        """The metrics, in Prometheus' text format."""
        await self.guard.measure()
        return generate_latest(self.metrics.registry)
