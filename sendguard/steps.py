"""The steps that a flow yields besides calls of the store; `SendGuard` and `AsyncSendGuard` carry them out."""

from __future__ import annotations

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
class Renew:
    """What follows gets the guard's timeout anew: a part of a long piece of work, not one call that somebody awaits."""


Step = Call | Command | Wait | Poll | Act | Renew
"""All calls of the store between two other steps get the guard's timeout together."""
Flow = Generator[Step, Any, T]
