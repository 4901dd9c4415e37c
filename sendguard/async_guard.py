"""`AsyncSendGuard`: `SendGuard` for asyncio. It carries out the same steps and has no rule of its own."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import redis.asyncio

from sendguard.alerts.alerter import AsyncAlerter
from sendguard.alerts.channels import AsyncCallback
from sendguard.alerts.models import Rule, Severity
from sendguard.alerts.plan import Plan
from sendguard.background import AsyncBackground, Finished
from sendguard.flows import keep_failed
from sendguard.guard import Headers, environment
from sendguard.lease import Lease
from sendguard.linq.client import AsyncLinqClient
from sendguard.linq.poller import AsyncPoller
from sendguard.middleware.guarded import AsyncF, Options, guard_async_function
from sendguard.middleware.sending import AsyncSending
from sendguard.models import (
    Change,
    Decision,
    DecisionRecord,
    Explanation,
    Health,
    Line,
    LineStatus,
    Outcome,
    SendKind,
    Transition,
)
from sendguard.parts import new_guard_parts
from sendguard.policy import Policy
from sendguard.request import Request
from sendguard.steps import ASKS_STORE, Act, AskAudit, Flow, Join, Poll, Step, Wait
from sendguard.store import AsyncStore

if TYPE_CHECKING:
    from sendguard.metrics import Metrics

T = TypeVar("T")


class AsyncSendGuard:
    """`SendGuard` for asyncio: the same arguments and methods, awaited. store: a URL or a `redis.asyncio.Redis`.

    Belongs to the event loop that it is first used in.
    """

    def __init__(
        self,
        store: str | redis.asyncio.Redis = "memory://",
        *,
        pool: str = "default",
        policy: Policy | None = None,
        webhook_secret: str | Sequence[str] | None = None,
        hash_key: str | bytes | None = None,
        api_key: str | None = None,
        api_base_url: str | None = None,
        timeout: float = 0.25,
        clock: Callable[[], float] | None = None,
        refresh: float | None = 1.0,
        record_decisions: bool = True,
        metrics: Metrics | None = None,
        lease: Lease | None = None,
    ) -> None:
        self._flows = new_guard_parts(
            pool, policy, hash_key, webhook_secret, clock, timeout, refresh, record_decisions, metrics, lease
        )
        self._store = AsyncStore(store, key=self._flows.protocol.prefix, timeout=timeout)
        self._api = (api_key, api_base_url)
        self._timeout = timeout
        self._unkept = self._flows.works_on(self._store, store)
        self._keeping: list[AsyncBackground] = []
        self._client: AsyncLinqClient | None = None
        self.pool = pool

    @classmethod
    def from_env(cls, **overrides: Any) -> AsyncSendGuard:
        """As `SendGuard.from_env`."""
        return cls(**{**environment(), **overrides})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pool={self.pool!r})"

    async def __aenter__(self) -> AsyncSendGuard:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that this guard opened, and end what it does in the background."""
        begun, self._unkept = bool(self._keeping), False
        if begun:
            await self._drive(self._flows.close())
        for work in self._keeping:
            await work.stop()
        await self._store.close()
        if self._client is not None:
            await self._client.close()

    @property
    def degraded_since(self) -> float | None:
        """As `SendGuard.degraded_since`."""
        degraded = self._flows.degraded
        return None if degraded is None else degraded.since

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Wait):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Act):
            return await step.run()
        if isinstance(step, Poll):
            return await self._linq().phone_numbers(step.at)
        if isinstance(step, AskAudit):
            return await self._linq().reputation_audit(step.number, step.audit_id)
        if isinstance(step, Join):
            return bool((await asyncio.wait((asyncio.wrap_future(step.work),), timeout=step.seconds))[0])
        return None  # Renew: the shell has done it

    def _keep(self) -> None:
        """Start what is done in the background, for as long as somebody holds this guard."""
        self._unkept = False
        guard = weakref.ref(self)

        async def step(number: int) -> float:
            found = guard()
            if found is None:
                raise Finished
            return await found._drive(found._flows.background()[number].step())

        self._keeping = [
            AsyncBackground(partial(step, i), failed=keep_failed, rest=work.rest, name=work.name).start()
            for i, work in enumerate(self._flows.background())
        ]

    def _linq(self) -> AsyncLinqClient:
        if self._client is None:
            self._client = AsyncLinqClient(api_key=self._api[0], base_url=self._api[1])
        return self._client

    async def _drive(self, flow: Flow[T]) -> T:
        if self._unkept:
            self._keep()
        expires: float | None = None
        try:
            step = next(flow)
            while True:
                try:
                    if isinstance(step, ASKS_STORE):
                        expires = expires or time.monotonic() + self._timeout
                        result = await self._store.run(step, expires)
                    else:
                        expires, result = None, await self._perform(step)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def decide(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Decision:
        """As `SendGuard.decide`."""
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return await self._drive(self._flows.decide(request))

    async def dry_run(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        max_wait: float = 0.0,
    ) -> DecisionRecord:
        """As `SendGuard.dry_run`."""
        request = Request.of(to, kind, from_number, exclude, line_type, None)
        return await self._drive(self._flows.dry_run(request, max_wait))

    async def choose_from_number(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
        max_wait: float = 0.0,
    ) -> str:
        """As `SendGuard.choose_from_number`."""
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return await self._drive(self._flows.number(request, max_wait))

    def sending(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
        max_wait: float = 0.0,
    ) -> AsyncSending:
        """As `SendGuard.sending`: `async with guard.sending(to) as send:`."""
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return AsyncSending(self, request, max_wait)

    @overload
    def guarded(self, function: AsyncF, /, **options: Unpack[Options]) -> AsyncF: ...
    @overload
    def guarded(self, /, **options: Unpack[Options]) -> Callable[[AsyncF], AsyncF]: ...
    def guarded(
        self, function: AsyncF | None = None, /, **options: Unpack[Options]
    ) -> AsyncF | Callable[[AsyncF], AsyncF]:
        """As `SendGuard.guarded`, for `async def`."""

        def decorate(function: AsyncF) -> AsyncF:
            return guard_async_function(self, function, options)

        return decorate if function is None else decorate(function)

    async def report(self, decision: Decision, outcome: Outcome | str) -> None:
        """As `SendGuard.report`."""
        await self._drive(self._flows.report(decision, outcome))

    async def handle_webhook(self, body: bytes | str, headers: Headers) -> tuple[Change, ...]:
        """As `SendGuard.handle_webhook`."""
        return await self._drive(self._flows.handle_webhook(body, headers))

    async def sync_lines(self) -> tuple[Change, ...]:
        """As `SendGuard.sync_lines`."""
        return await self._drive(self._flows.sync_lines())

    async def observe(
        self,
        number: str,
        *,
        status: LineStatus | str | None = None,
        health: Health | str | None = None,
        observed_at: float | None = None,
        source: str = "operator",
    ) -> Line:
        """As `SendGuard.observe`."""
        return await self._drive(self._flows.observe(number, status, health, observed_at, source))

    async def lines(self) -> tuple[Line, ...]:
        """As `SendGuard.lines`."""
        return await self._drive(self._flows.lines())

    async def pause(self, number: str, *, until: float | None = None) -> Line:
        """As `SendGuard.pause`."""
        return await self._drive(self._flows.pause(number, until))

    async def resume(self, number: str) -> Line:
        """As `SendGuard.resume`."""
        return await self._drive(self._flows.resume(number))

    async def transitions(self, after: str = "0", *, count: int = 1000) -> tuple[Transition, ...]:
        """As `SendGuard.transitions`."""
        return await self._drive(self._flows.transitions(after, count))

    async def decisions(self, after: str = "0", *, count: int = 1000) -> tuple[DecisionRecord, ...]:
        """As `SendGuard.decisions`."""
        return await self._drive(self._flows.decisions(after, count))

    async def explain(self, decision_id: str) -> Explanation:
        """As `SendGuard.explain`."""
        return await self._drive(self._flows.explain(decision_id))

    async def measure(self) -> None:
        """As `SendGuard.measure`."""
        await self._drive(self._flows.measure())

    def poller(self, *, interval: float = 60.0) -> AsyncPoller:
        """As `SendGuard.poller`, as a task: an async context manager, or `start` and `stop`."""
        return AsyncPoller(lambda token, ttl: self._drive(self._flows.poll_if_due(token, interval, ttl)), interval)

    def alerter(
        self,
        urls: Sequence[str] = (),
        *,
        rules: Mapping[Severity | str, Rule] | None = None,
        callbacks: Sequence[AsyncCallback] = (),
        audit_wait: float = 60.0,
        remind_after: float = 86_400.0,
        claim_after: float = 30.0,
        interval: float = 1.0,
        name: str = "alerts",
    ) -> AsyncAlerter:
        """As `SendGuard.alerter`, as tasks: an async context manager, or `start` and `stop`.

        callbacks: `async def` functions are awaited in the event loop; plain ones run in a thread of their own.
        """
        plan = Plan.of(urls, rules, callbacks, audit_wait, remind_after, claim_after, interval, name)
        return AsyncAlerter(self._flows, plan, self._drive)
