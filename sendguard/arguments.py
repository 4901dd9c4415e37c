"""What callers pass to a guard's methods, checked: each raises ValueError naming the argument that is wrong. Pure."""

from __future__ import annotations

import re

from sendguard.models import Health, LineStatus, Outcome


def check_max_wait(max_wait: float) -> float:
    """`max_wait`, if it is from 0 to 86400 seconds; else ValueError naming it."""
    if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not 0 <= max_wait <= 86_400:
        raise ValueError("max_wait must be from 0 to 86400 seconds")
    return max_wait


def as_outcome(outcome: Outcome | str) -> Outcome:
    """An outcome from its short name. Raises ValueError naming `outcome`."""
    if isinstance(outcome, Outcome):
        return outcome
    named = {"sent": Outcome(True), "not_sent": Outcome(False), "unknown": Outcome(None)}
    if not isinstance(outcome, str) or outcome not in named:
        raise ValueError("outcome must be 'sent', 'not_sent', 'unknown' or an Outcome")
    return named[outcome]


def check_page(after: str, count: int, what: str) -> None:
    """Check where a page of a stream begins and how long it is. what: an entry is asked for by. Raises ValueError."""
    if not isinstance(after, str) or not re.fullmatch(r"[0-9]{1,19}(-[0-9]{1,19})?", after, re.ASCII):
        raise ValueError(f"after must be {what}, or '0'")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise ValueError("count must be from 1 to 10000")


def check_time(name: str, value: float | None) -> float | None:
    """A time in Unix seconds, or None; else ValueError naming it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 9e9:
        raise ValueError(f"{name} must be Unix seconds")
    return float(value)


def check_source(source: str) -> str:
    """`source`, if it is a short text; else ValueError naming it."""
    if not isinstance(source, str) or not 1 <= len(source) <= 64:
        raise ValueError("source must be 1 to 64 characters")
    return source


def check_value(name: str, value: str | None) -> str:
    """A status word in capitals, "" for None; else ValueError naming it."""
    if value is None:
        return ""
    text = value.value if isinstance(value, (LineStatus, Health)) else value
    if not isinstance(text, str) or not 1 <= len(text) <= 32 or not text.replace("_", "").replace(" ", "").isalnum():
        raise ValueError(f"{name} must be a status word such as ACTIVE or AT_RISK")
    return text.upper()
