"""What the store answers, read: rows of text become fields, times and lines. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from sendguard.models import Change, Considered, DecisionRecord, Health, Line, LineStatus, Reason, Transition
from sendguard.store.units import NEVER

_CALLED_BACK = "!"
"""What a row of an observation's reply begins with that tells of no change."""
_LINE_TYPES = {"": None, "1": "iMessage", "2": "RCS"}


def fields(reply: bytes | str) -> list[str]:
    """The fields of one reply of a script."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    return text.split("|")


_ALLOWED = re.compile(
    r"1\|(\+[0-9]+)\|(?:sticky|new_conversation|failover|requested)\|0\|(?:[^|]*\|){8}[^|]*", re.ASCII
)


def number_in(reply: bytes | str) -> str | None:
    """The line that an answer of `decide` allows to send from at once; None where there is more to it."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    found = _ALLOWED.fullmatch(text)
    return None if found is None else found[1]


def texts(reply: Iterable[bytes | str]) -> list[str]:
    """A list of replies as text, whether or not the client decodes them."""
    return [item.decode() if isinstance(item, bytes) else item for item in reply]


def loan_of(reply: bytes | str) -> str:
    """What was lent with a decision, "" for nothing."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    return text.rpartition("|")[2]


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
    paused, cooling, used, ready, volume, starts, tokens = rest
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
        tokens=int(tokens) if tokens else None,
    )


def changes_of(reply: Iterable[bytes | str], source: str) -> tuple[Change, ...]:
    """What an observation changed."""
    return tuple(
        Change(number, field, old or None, new or None, int(at) / 1_000_000, source)
        for number, field, old, new, at in (row.split("|") for row in texts(reply) if row[:1] != _CALLED_BACK)
    )


def called_back_of(reply: Iterable[bytes | str]) -> dict[str, float]:
    """The lines of which loans were called back, with the seconds that something of them can still be used."""
    rows = [text[1:].split("|") for text in texts(reply) if text[:1] == _CALLED_BACK]
    return {number: int(wait) / 1_000_000 for number, wait in rows}


def transitions_of(reply: Iterable[Any]) -> tuple[Transition, ...]:
    """Entries of the stream of transitions, as XRANGE and XREADGROUP give them."""
    found = []
    for transition_id, told in stream_of(reply):
        (change,) = changes_of([told["change"]], told["source"])
        found.append(Transition(transition_id, change, told["event"] or None))
    return tuple(found)


def decisions_of(reply: Iterable[Any]) -> tuple[DecisionRecord, ...]:
    """Entries of the stream of decisions, as XRANGE and XREADGROUP give them."""
    return tuple(record_of(told["decision"], entry_id) for entry_id, told in stream_of(reply))


def record_of(text: bytes | str, entry_id: str = "") -> DecisionRecord:
    """One record of a decision; entry_id "" for a dry run's, which stands nowhere."""
    allowed, line, reason, wait, status, health, starts, previous, decision_id, *rest = fields(text)
    kind, line_type, conversation, remembered, now, considered = rest
    granted, seconds = allowed == "1", int(wait) / 1_000_000 if wait else None
    return DecisionRecord(
        entry_id=entry_id,
        decision_id=decision_id,
        decided_at=int(now) / 1_000_000,
        allowed=granted,
        from_number=line or None,
        reason=Reason(reason),
        retry_after=None if granted else seconds,
        wait=(seconds or 0.0) if granted else 0.0,
        status=LineStatus(status) if status else None,
        health=Health(health) if health else None,
        new_conversation=starts == "1",
        previous_from_number=previous or None,
        kind=kind,
        line_type=_LINE_TYPES[line_type],
        conversation=conversation,
        remembered=remembered or None,
        considered=tuple(_considered(item, int(now)) for item in considered.split(";") if item),
    )


def _considered(text: str, now: int) -> Considered:
    number, reason, wait = text.split(",")
    return Considered(number, reason or None, (now + int(wait)) / 1_000_000 if wait else None)


def stream_of(reply: Iterable[Any]) -> list[tuple[str, dict[str, str]]]:
    """The entries of a stream, as XRANGE gives them: their ids and fields."""
    found = []
    for entry, pairs in reply:
        flat = chain.from_iterable(pairs.items()) if isinstance(pairs, dict) else pairs
        (entry_id,), told = texts([entry]), texts(flat)
        found.append((entry_id, dict(zip(told[::2], told[1::2], strict=True))))
    return found


def streams_of(reply: Any) -> list[Any]:
    """The entries in the reply of XREAD and XREADGROUP, in either form that clients give it."""
    streams = list(reply.values()) if isinstance(reply, dict) else [stream[1] for stream in reply or ()]
    found = [entry for entries in streams for entry in entries]
    return [entry for batch in found for entry in batch] if found and isinstance(found[0][0], list | tuple) else found


def revocations_of(reply: Any, process: str) -> tuple[str, list[str]]:
    """What XREAD found in the stream of revocations: the last entry's id, "" for none; and a process' lines."""
    entries = stream_of(streams_of(reply))
    lines = [told["line"] for _, told in entries if process in told["processes"].split(",")]
    return entries[-1][0] if entries else "", lines
