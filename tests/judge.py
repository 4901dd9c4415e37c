"""Judges what reached the API, by the simulator's record. Each function returns what broke a law, in words.

The guard's own answers enter only as the moments at which a send was asked for: a decision made just before a webhook
is acknowledged may reach the API just after, and that is not the guard's to prevent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sendguard import Quota, TokenBucket
from sendguard.simulator import Delivery, Event, SentRecord


@dataclass(frozen=True)
class Span:
    """A stretch of time in which the guard knew a line to be in one state. Unix seconds."""

    line: str
    value: str
    start: float
    end: float


def spans(events: Sequence[Event], deliveries: Sequence[Delivery], field: str) -> list[Span]:
    """Per line, from the first acknowledgement of a `new_<field>` until that value was left at the API.

    A value that was left before its webhook was acknowledged was never the guard's to keep.
    """
    acknowledged: dict[str, float] = {}
    for delivery in deliveries:
        if delivery.acknowledged_at is not None:
            first = acknowledged.get(delivery.event_id, delivery.acknowledged_at)
            acknowledged[delivery.event_id] = min(first, delivery.acknowledged_at)
    by_line: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for event in events:
        if event.type == "phone_number.status_updated":
            changed_at = datetime.fromisoformat(event.data["changed_at"]).timestamp()
            by_line[event.line].append((changed_at, event.id, event.data[f"new_{field}"]))
    found = []
    for line, changes in by_line.items():
        changes.sort()
        for i, (_, event_id, value) in enumerate(changes):
            left = next((at for at, _, other in changes[i + 1 :] if other != value), float("inf"))
            start = acknowledged.get(event_id, float("inf"))
            if start < left:
                found.append(Span(line, value, start, left))
    return found


def sent_on_flagged(
    sends: Sequence[SentRecord], asked: Mapping[SentRecord, float], flagged: Sequence[Span]
) -> list[str]:
    """Law 1: a send that was asked for while its line was known to be FLAGGED, and reached the API."""
    return [
        f"{send.line} at {send.at:.3f}, asked {asked[send]:.3f}, known FLAGGED since {span.start:.3f}"
        for send in sends
        for span in flagged
        if span.value == "FLAGGED" and span.line == send.line and span.start < asked[send] and send.at < span.end
    ]


def past_bucket(
    sends: Sequence[SentRecord],
    asked: Mapping[SentRecord, float],
    bucket: TokenBucket,
    known: Sequence[Span],
    travel: float,
) -> list[str]:
    """Law 3: more sends in a span, at one health, than burst + tokens * t / per. travel: seconds a send may take."""
    broken = []
    for span in known:
        times = sorted(
            send.at for send in sends if send.line == span.line and span.start < asked[send] and send.at < span.end
        )
        for i, first in enumerate(times):
            for j in range(i, len(times)):
                most = bucket.burst + bucket.tokens * (times[j] - first + travel) / bucket.per
                if j - i + 1 > most:
                    broken.append(
                        f"{span.line} {span.value}: {j - i + 1} sends in {times[j] - first:.3f} s, at most {most:.2f}"
                    )
    return broken


def past_quota(times: Sequence[float], quota: Quota, travel: float, name: str) -> list[str]:
    """Law 3: a rolling window that holds more than its limit."""
    ordered = sorted(times)
    return [
        f"{name}: {quota.limit + 1} in {ordered[i + quota.limit] - first:.3f} s"
        for i, first in enumerate(ordered[: -quota.limit] if len(ordered) > quota.limit else [])
        if ordered[i + quota.limit] - first < quota.per - travel
    ]


def moved(sends: Sequence[SentRecord], events: Sequence[Event], deliveries: Sequence[Delivery]) -> list[str]:
    """Law 4: a conversation that changed its line though that line was not FLAGGED between the two sends."""
    cleared: dict[str, float] = {}
    for delivery in deliveries:
        if delivery.acknowledged_at is not None:
            cleared[delivery.event_id] = max(delivery.acknowledged_at, cleared.get(delivery.event_id, 0.0))
    flagged: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event.type != "phone_number.status_updated":
            continue
        if event.data["new_status"] == "FLAGGED":
            flagged[event.line].append((event.created_at, float("inf")))
        elif flagged[event.line] and flagged[event.line][-1][1] == float("inf"):
            begun = flagged[event.line][-1][0]
            flagged[event.line][-1] = (begun, cleared.get(event.id, float("inf")))
    homes: dict[tuple[str, ...], SentRecord] = {}
    broken = []
    for send in sorted(sends, key=lambda send: send.at):
        home = homes.get(send.recipients)
        if home is not None and home.line != send.line:
            among = flagged[str(home.line)]
            if not any(begun <= send.at and ended >= home.at for begun, ended in among):
                broken.append(f"a conversation moved from {home.line} to {send.line} at {send.at:.3f}")
        homes[send.recipients] = send
    return broken
