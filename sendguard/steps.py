"""The steps that a flow yields besides calls of the store; `SendGuard` and `AsyncSendGuard` carry them out."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sendguard.store.scripts import Call, Command

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Poll:
    """Fetch GET /v3/phone_numbers; the answer is the tuple of `LineUpdate`. at: Unix seconds of the request."""

    at: float


@dataclass(frozen=True, slots=True)
class Act:
    """Call what the caller brought; for asyncio, await it. An exception of it is thrown into the flow."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class AskAudit:
    """Start a line's reputation audit, or read the one with `audit_id`; the answer is an `AuditAnswer`."""

    number: str
    audit_id: str | None


@dataclass(frozen=True, slots=True)
class Join:
    """Wait at most some seconds for what a thread or a task is at; the answer is whether it has ended."""

    work: concurrent.futures.Future[Any] | asyncio.Future[Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """What follows gets the guard's timeout anew: a part of a long piece of work, not one call that somebody awaits."""


ASKS_STORE = (Call, Command)
"""The kinds of step that the store answers."""
Step = Call | Command | Wait | Poll | Act | AskAudit | Join | Renew
"""All calls of the store between two other steps get the guard's timeout together."""
Flow = Generator[Step, Any, T]
