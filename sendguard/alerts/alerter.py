"""Telling people in the background: one thread or task that hears, one that audits, and one for each channel.

Every process of a fleet runs an alerter; each alert is told once. None of this is on the way of a decision.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

from sendguard.alerts.channels import CallbackChannel
from sendguard.alerts.flows import AlertFlows
from sendguard.alerts.plan import Plan
from sendguard.background import AsyncBackground, Background
from sendguard.errors import LinqError, SendGuardError, StoreUnavailable
from sendguard.flows import Flows
from sendguard.logs import tell
from sendguard.steps import Flow

_GRACE = 5.0
"""Seconds that what is under way may take when an alerter stops."""


def _failed(work: str, error: Exception) -> None:
    """Say in the log that a step failed; only the library's own errors have a text that is safe to log.

    A store out of reach is told of already, once, by what every call of the guard goes through.
    """
    if isinstance(error, StoreUnavailable):
        return
    known = isinstance(error, LinqError | SendGuardError)
    text = str(error) if known else type(error).__name__
    tell(logging.ERROR, "alerts_failed", "alerts, %s: %s", work, text, work=work, error=text)


def _steps(flows: AlertFlows, plan: Plan) -> list[tuple[str, Callable[[], Flow[float]]]]:
    """What an alerter repeats, with its names in logs."""
    steps: list[tuple[str, Callable[[], Flow[float]]]] = [("hear", flows.hear)]
    if plan.audit_wait:
        steps.append(("audit", flows.audit))
    if plan.remind_after:
        steps.append(("remind", flows.remind))
    return steps + [(f"tell {channel.label}", partial(flows.deliver, channel)) for channel in plan.channels]


class Alerter:
    """Daemon threads that tell people of lines. They survive every error, and say so in the log "sendguard".

    Made by `SendGuard.alerter`. A context manager, or call `start` and `stop`.
    """

    def __init__(self, flows: Flows, plan: Plan, drive: Callable[[Flow[Any]], Any]) -> None:
        if any(isinstance(channel, CallbackChannel) and channel.is_async for channel in plan.channels):
            raise ValueError("callbacks must be plain functions; an AsyncSendGuard's alerter awaits `async def` ones")
        self._flows, self._drive = AlertFlows(flows, plan), drive
        self._work = [
            Background(
                partial(self._step, step), failed=partial(_failed, name), rest=plan.interval, name=f"sendguard {name}"
            )
            for name, step in _steps(self._flows, plan)
        ]

    def _step(self, step: Callable[[], Flow[float]]) -> float:
        return float(self._drive(step()))

    def start(self) -> Self:
        """Start to hear of transitions and to tell. Idempotent."""
        for work in self._work:
            work.start()
        return self

    def stop(self, timeout: float = _GRACE) -> None:
        """Stop, and wait up to `timeout` seconds for what is under way; other processes do the rest. Idempotent."""
        for work in self._work:
            work.ask_to_stop()
        deadline = time.monotonic() + timeout
        for work in self._work:
            work.stop(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class AsyncAlerter:
    """As `Alerter`, as tasks of the running event loop. Made by `AsyncSendGuard.alerter`."""

    def __init__(self, flows: Flows, plan: Plan, drive: Callable[[Flow[Any]], Awaitable[Any]]) -> None:
        self._flows, self._drive = AlertFlows(flows, plan), drive
        self._work = [
            AsyncBackground(
                partial(self._step, step), failed=partial(_failed, name), rest=plan.interval, name=f"sendguard {name}"
            )
            for name, step in _steps(self._flows, plan)
        ]

    async def _step(self, step: Callable[[], Flow[float]]) -> float:
        return float(await self._drive(step()))

    def start(self) -> Self:
        """Start to hear of transitions and to tell. Idempotent. Must be called in a running event loop."""
        for work in self._work:
            work.start()
        return self

    async def stop(self, timeout: float = _GRACE) -> None:
        """Stop, and wait up to `timeout` seconds for what is under way; other processes do the rest. Idempotent."""
        await asyncio.gather(*(work.stop(grace=timeout) for work in self._work))

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
