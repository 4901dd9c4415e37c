"""What the store answers, read: rows of text become fields, times and lines. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from sendguard.models import Change, Health, Line, LineStatus, Transition
from sendguard.store.units import NEVER


def fields(reply: bytes | str) -> list[str]:
    """The fields of one reply of a script."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    return text.split("|")


def texts(reply: Iterable[bytes | str]) -> list[str]:
    """A list of replies as text, whether or not the client decodes them."""
    return [item.decode() if isinstance(item, bytes) else item for item in reply]


def server_time(reply: Sequence[bytes | str | int]) -> float:
    """The reply of TIME in Unix seconds."""
    return int(reply[0]) + int(reply[1]) / 1_000_000


def _seconds(text: str) -> float | None:
    if not text or text == "-1":
        return None
    return math.inf if int(text) >= NEVER else int(text) / 1_000_000


def line_of(reply: bytes | str) -> Line:
    """One row of `lines`."""
    number, status, health, raw_status, raw_health, kind, status_at, health_at, *rest = fields(reply)
    paused, cooling, used, ready, volume, starts = rest
    return Line(
        number=number,
        status=LineStatus(status),
        health=Health(health),
        raw_status=raw_status or None,
        raw_health=raw_health or None,
        line_type=kind or None,
        status_observed_at=_seconds(status_at),
        health_observed_at=_seconds(health_at),
        paused_until=_seconds(paused),
        cooling_down_until=_seconds(cooling),
        last_used_at=_seconds(used),
        next_send_at=_seconds(ready),
        daily_volume=int(volume),
        new_conversations=int(starts),
    )


def changes_of(reply: Iterable[bytes | str], source: str) -> tuple[Change, ...]:
    """What an observation changed."""
    return tuple(
        Change(number, field, old or None, new or None, int(at) / 1_000_000, source)
        for number, field, old, new, at in map(fields, reply)
    )


def transitions_of(reply: Iterable[Any]) -> tuple[Transition, ...]:
    """Entries of the stream of transitions, as XRANGE and XREADGROUP give them."""
    found = []
    for entry, pairs in reply:
        flat = chain.from_iterable(pairs.items()) if isinstance(pairs, dict) else pairs
        (transition_id,), told = texts([entry]), texts(flat)
        by_name = dict(zip(told[::2], told[1::2], strict=True))
        (change,) = changes_of([by_name["change"]], by_name["source"])
        found.append(Transition(transition_id, change, by_name["event"] or None))
    return tuple(found)
