"""Times, paces and limits in words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from sendguard.policy import Quota, TokenBucket


def moment(at: float) -> str:
    """Unix seconds as a date and time of day, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """A length of time: in hours where it is whole hours, else in seconds."""
    return counted(seconds // 3600, "hour") if seconds and seconds % 3600 == 0 else counted(seconds, "second")


def counted(number: float, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,g} {noun}{'' if number == 1 else 's'}"


def pace(bucket: TokenBucket | None) -> str:
    """What a token bucket lets through."""
    if bucket is None:
        return "sends are not paced"
    if bucket.tokens == 0:
        return "no send leaves on it"
    burst = f", in bursts of up to {bucket.burst:,}" if bucket.burst > 1 else ""
    return f"at most {counted(bucket.tokens, 'send')} per {span(bucket.per)}{burst}"


def used(count: int, quota: Quota | None, noun: str) -> str:
    """How much of a quota is used."""
    return f"{counted(count, noun)}" if quota is None else f"{count:,} of {counted(quota.limit, noun)}"
