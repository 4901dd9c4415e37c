"""A policy as settings: what a file, the environment or JSON can say of it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from sendguard.policy import LIMIT_NAMES, Policy, Quota, TokenBucket

UNLIMITED = "none"
"""How a file, which has no null, says that a limit does not hold."""


class _Bucket(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: float
    per: float
    burst: int = 0


class _Quota(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int
    per: float


class _Limits(BaseModel):
    """The buckets and quotas that were set, of the pool or of one line; what was not set keeps its default."""

    model_config = ConfigDict(extra="forbid")

    healthy: _Bucket | None = None
    at_risk: _Bucket | None = None
    critical: _Bucket | None = None
    daily_volume: _Quota | None = None
    new_conversations: _Quota | None = None
    pair: _Quota | None = None

    @field_validator(*LIMIT_NAMES, mode="before")
    @classmethod
    def _unlimited(cls, value: object) -> object:
        return None if value == UNLIMITED else value

    def limits(self) -> dict[str, TokenBucket | Quota | None]:
        """As a policy takes them. Raises ValueError naming the number that is out of range."""
        found: dict[str, TokenBucket | Quota | None] = {}
        for name in LIMIT_NAMES:
            if name in self.model_fields_set:
                limit: _Bucket | _Quota | None = getattr(self, name)
                try:
                    found[name] = _built(limit)
                except ValueError as error:
                    raise ValueError(f"{name}.{error}") from None
        return found


def _built(limit: _Bucket | _Quota | None) -> TokenBucket | Quota | None:
    if limit is None:
        return None
    fields = limit.model_dump()
    return TokenBucket(**fields) if isinstance(limit, _Bucket) else Quota(**fields)


_PLAIN = {
    "new_conversations_on", "on_flagged", "on_store_error", "mode", "cool_down", "degraded_share", "degraded_for",
}  # fmt: skip


class PolicySettings(_Limits):
    """`Policy`, field by field; what is not set keeps its default. Raises ValueError naming a field out of range."""

    new_conversations_on: list[str] | None = None
    on_flagged: str | None = None
    on_store_error: str | None = None
    mode: str | None = None
    cool_down: float | None = None
    degraded_share: float | None = None
    degraded_for: float | None = None
    overrides: dict[str, _Limits] = {}

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        self.policy()
        return self

    def policy(self) -> Policy:
        """The policy. Raises ValueError naming the field that is out of range."""
        plain = _PLAIN & self.model_fields_set
        return Policy(
            **{name: getattr(self, name) for name in plain},
            **self.limits(),  # type: ignore[arg-type]
            overrides={number: own.limits() for number, own in self.overrides.items()},
        )
