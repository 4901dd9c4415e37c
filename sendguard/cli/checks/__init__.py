"""What `doctor` checks, and what a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
OK: Level = "ok"
WARN: Level = "warn"
FAIL: Level = "fail"

_CLOCK_WARN, _CLOCK_FAIL = 2.0, 60.0
"""Seconds. Linq's Date is whole seconds; a webhook that is five minutes off is refused."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. remedy: what to do about it; "" where there is nothing to do."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def of_clock(check: str, whose: str, skew: float) -> Finding:
    """A clock against ours. skew: seconds that it is ahead."""
    size = abs(skew)
    if size < _CLOCK_WARN:
        return Finding(check, OK, f"{whose} clock is {size:.1f} s off ours")
    text = f"{whose} clock is {size:.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
    remedy = "Let NTP set the clocks: a webhook more than five minutes off is refused, and older news loses to newer."
    return Finding(check, WARN if size < _CLOCK_FAIL else FAIL, text, remedy)
