"""The limits a guard keeps, each with the default that the API's own guidance gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sendguard.models import Health

_MAX_LIMIT = 10_000_000
_MAX_PER = 366 * 86_400


def _positive_seconds(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MAX_PER:
        raise ValueError(f"{name} must be a number of seconds above 0 and at most {_MAX_PER}, not {value!r}")


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A pace: `tokens` are refilled every `per` seconds, up to `burst` of them.

    In any span of t seconds it admits at most `burst + tokens * t / per` sends. `burst` defaults to the whole part of
    `tokens`, at least 1. `TokenBucket(tokens=0, per=...)` admits nothing.

    Raises ValueError naming the field that is out of range.
    """

    tokens: float
    per: float
    burst: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, (int, float)):
            raise ValueError(f"tokens must be a number, not {self.tokens!r}")
        if not (math.isfinite(self.tokens) and 0 <= self.tokens <= _MAX_LIMIT):
            raise ValueError(f"tokens must be from 0 to {_MAX_LIMIT}, not {self.tokens!r}")
        _positive_seconds("per", self.per)
        if isinstance(self.burst, bool) or not isinstance(self.burst, int) or not 0 <= self.burst <= _MAX_LIMIT:
            raise ValueError(f"burst must be a whole number from 1 to {_MAX_LIMIT}, not {self.burst!r}")
        if not self.burst:
            object.__setattr__(self, "burst", max(1, int(self.tokens)))


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` in any rolling window of `per` seconds.

    Up to a limit of 64 every event is kept with its time (to the millisecond). Above, events within per/64 of each
    other are counted together and leave together, so that a steady sender can use at least 98% of the limit.

    Raises ValueError naming the field that is out of range.
    """

    limit: int
    per: float

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 0 <= self.limit <= _MAX_LIMIT:
            raise ValueError(f"limit must be a whole number from 0 to {_MAX_LIMIT}, not {self.limit!r}")
        _positive_seconds("per", self.per)


_BUCKETS = ("healthy", "at_risk", "critical")
_QUOTAS = ("daily_volume", "new_conversations", "pair")
LIMIT_NAMES = (*_BUCKETS, *_QUOTAS)
"""The fields of a policy that `overrides` may set for one line."""


def _check_limit(name: str, value: object) -> None:
    kind = TokenBucket if name in _BUCKETS else Quota
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__} or None, not {value!r}")


@dataclass(frozen=True)
class Policy:
    """What a guard allows. Every field has a default from the API's own guidance.

    healthy, at_risk, critical: the pace of a line at that health; None leaves it unpaced.
    daily_volume: sends and receipts of one line (phone-numbers guide: up to 7,000 messages a day, in and out together).
    new_conversations: conversations that one line starts (phone-health guide: fewer than about 50 a line in 24 hours).
    pair: sends of one line to one recipient (enforced by the API: 30 in 60 s, then 429 with code 1007).
    new_conversations_on: the healths that may start a conversation, best first.
    on_flagged: a chat whose line is FLAGGED moves to a fresh line ("failover") or waits for it ("hold"); one whose line
    was released always moves. on_store_error: while the store is out of reach "closed" denies; "degraded" goes on
    with the lines as last seen, `degraded_share` of each bucket and quota, and for at most `degraded_for` seconds; the
    shares of all processes must not add up to more than 1. It needs the extra `memory`.
    mode: "enforce", or "observe" to decide and record but block nothing.
    overrides: per line (E.164) any of the buckets and quotas, as `{"+12025550101": {"at_risk": TokenBucket(...)}}`.
    cool_down: seconds that a line rests after the API said that it cannot send for a while (codes 2027 and 4002).

    Raises ValueError naming the field that is out of range.
    """

    healthy: TokenBucket | None = None
    at_risk: TokenBucket | None = TokenBucket(tokens=10, per=60, burst=5)
    critical: TokenBucket | None = TokenBucket(tokens=1, per=60, burst=1)
    daily_volume: Quota | None = Quota(7000, per=86_400)
    new_conversations: Quota | None = Quota(50, per=86_400)
    pair: Quota | None = Quota(30, per=60)
    new_conversations_on: tuple[Health, ...] = (Health.HEALTHY, Health.AT_RISK)
    on_flagged: Literal["failover", "hold"] = "failover"
    on_store_error: Literal["closed", "degraded"] = "closed"
    mode: Literal["enforce", "observe"] = "enforce"
    overrides: Mapping[str, Mapping[str, TokenBucket | Quota | None]] = field(default_factory=dict)
    cool_down: float = 300.0
    degraded_share: float = 0.25
    degraded_for: float = 600.0

    def __post_init__(self) -> None:
        for name in LIMIT_NAMES:
            _check_limit(name, getattr(self, name))
        object.__setattr__(self, "new_conversations_on", self._healths())
        for name, allowed in (
            ("on_flagged", ("failover", "hold")),
            ("on_store_error", ("closed", "degraded")),
            ("mode", ("enforce", "observe")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        _positive_seconds("cool_down", self.cool_down)
        _positive_seconds("degraded_for", self.degraded_for)
        share = self.degraded_share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"degraded_share must be above 0 and at most 1, not {share!r}")
        if not isinstance(self.overrides, Mapping):
            raise ValueError("overrides must be a mapping of numbers to limits")
        for number, limits in self.overrides.items():
            if not isinstance(limits, Mapping):
                raise ValueError(f"overrides[{number!r}] must be a mapping of fields to limits")
            for name, value in limits.items():
                if name not in LIMIT_NAMES:
                    raise ValueError(
                        f"overrides[{number!r}] has no field {name!r}; it may set {', '.join(LIMIT_NAMES)}"
                    )
                _check_limit(f"overrides[{number!r}].{name}".rpartition(".")[2], value)

    def _healths(self) -> tuple[Health, ...]:
        try:
            healths = tuple(Health(value) for value in self.new_conversations_on)
        except (ValueError, TypeError):
            raise ValueError(f"new_conversations_on must hold healths, not {self.new_conversations_on!r}") from None
        if len(set(healths)) != len(healths):
            raise ValueError("new_conversations_on names a health twice")
        return healths

    def limits_of(self, number: str) -> dict[str, Any]:
        """The buckets and quotas that hold for one line, by field name."""
        own = self.overrides.get(number, {})
        return {f.name: own.get(f.name, getattr(self, f.name)) for f in fields(self) if f.name in LIMIT_NAMES}
