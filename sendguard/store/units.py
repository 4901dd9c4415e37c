"""The store's units: whole microseconds, and the limits of a policy in them."""

from __future__ import annotations

import math
from typing import Any

from sendguard.policy import Quota, TokenBucket

NEVER = 2**53 - 1
"""The time that never comes, in the store's microseconds."""

FLAGGED = str(2**52 + 1)
"""The score of a FLAGGED line in the index (`save`, in records.lua)."""

_DEFAULT_WINDOWS = {"daily_volume": 86_400, "new_conversations": 86_400, "pair": 60}


def micros(seconds: float) -> int:
    """Unix seconds, or a span of seconds, in the store's whole microseconds."""
    return round(seconds * 1_000_000)


def _bucket_args(bucket: TokenBucket | None) -> tuple[str, str]:
    if bucket is None:
        return "0", "0"
    if bucket.tokens == 0:
        return str(NEVER), "0"
    interval = math.ceil(bucket.per * 1_000_000 / bucket.tokens)
    return str(interval), str(interval * (bucket.burst - 1))


def _quota_args(name: str, quota: Quota | None) -> tuple[str, str]:
    if quota is None:
        return str(NEVER), str(micros(_DEFAULT_WINDOWS[name]))
    return str(quota.limit), str(micros(quota.per))


def limit_args(name: str, limit: Any) -> tuple[str, str]:
    """One limit of a policy as its two arguments: a bucket's interval and tolerance, a quota's limit and window."""
    return _quota_args(name, limit) if name in _DEFAULT_WINDOWS else _bucket_args(limit)
