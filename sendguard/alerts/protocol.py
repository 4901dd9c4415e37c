"""The store's language for alerts: what an alerter asks becomes commands, replies become plain data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from sendguard.alerts.models import Severity
from sendguard.models import Transition
from sendguard.protocol import Protocol
from sendguard.replies import fields, texts, transitions_of
from sendguard.store import scripts
from sendguard.store.scripts import Call, Command
from sendguard.store.units import FLAGGED, micros

_CONSUMER = "alerter"
"""One name for all processes: an entry that is idle for long is claimed whoever read it, and no name is left behind."""
_AT_ONCE = "100"
TOLD = ("transition", "number", "field", "old", "new", "at", "source", "event", "reminder")
"""What an alert keeps of the transition that it tells."""


class Taken(NamedTuple):
    """The answer of `take`. wait: seconds until a member is due, None if there is none; now: Unix seconds."""

    wait: float | None
    now: float
    member: str


class AlertProtocol:
    """The keys of the alerters of one name in one pool."""

    def __init__(self, protocol: Protocol, name: str) -> None:
        self._protocol = protocol
        self._pool = protocol.key("")
        self._own = protocol.key(f"alerts:{name}:")
        self._group = f"alerts:{name}"
        self._stream = protocol.key("transitions")
        self.held = f"{self._own}held"
        self.audits = protocol.key("audits")

    def channel_key(self, text: str) -> str:
        """The queue of a channel, by a keyed hash of its URL or name."""
        return f"{self._own}channel:{self._protocol.digest(text)}"

    def _alert(self, alert_id: str) -> str:
        return f"{self._own}alert:{alert_id}"

    def _repeats(self, subject: str) -> str:
        return f"{self._own}repeats:{subject}"

    def _audit(self, number: str) -> str:
        return self._protocol.key(f"audit:{number}")

    # Transitions -----------------------------------------------------------------------------------------------------

    def create_group(self, start: str) -> Command:
        """Hear of the transitions that follow `start`: "$" for those from now on, "0" for all that are kept."""
        return Command(("XGROUP", "CREATE", self._stream, self._group, start, "MKSTREAM"))

    def claim(self, idle: float) -> Command:
        """Ask for the entries that a process took and did not finish within `idle` seconds."""
        wait = str(max(1, round(idle * 1000)))
        return Command(("XAUTOCLAIM", self._stream, self._group, _CONSUMER, wait, "0-0", "COUNT", _AT_ONCE))

    def read(self) -> Command:
        """Ask for the entries that no process took."""
        return Command(("XREADGROUP", "GROUP", self._group, _CONSUMER, "COUNT", _AT_ONCE, "STREAMS", self._stream, ">"))

    def acknowledge(self, ids: Iterable[str]) -> Command:
        """Entries that need no alert."""
        return Command(("XACK", self._stream, self._group, *ids))

    # Alerts ----------------------------------------------------------------------------------------------------------

    def raise_alert(
        self,
        whence: str,
        subject: str,
        severity: Severity,
        told: Mapping[str, str],
        *,
        quiet: float,
        audit_wait: float,
        channels: Sequence[str],
        now: float | None,
    ) -> Call:
        """Raise an alert once. whence: a transition's id, "held" or "reminder". quiet, audit_wait: seconds."""
        alert_id, number = told["transition"], subject.partition("|")[0]
        keys = (
            self._stream,
            self._alert(alert_id),
            f"{self._own}told",
            self.held,
            self._repeats(subject),
            self.audits,
            self._audit(number),
            *channels,
        )
        times = (str(micros(quiet)), str(micros(audit_wait)))
        args = (self._group, whence, subject, severity.value, *times, alert_id, number, *chain(*told.items()))
        return self._protocol._call(scripts.RAISE_ALERT, now, keys, args)

    def alert(self, alert_id: str) -> Command:
        """Ask for what an alert tells."""
        return Command(("HGETALL", self._alert(alert_id)))

    def repeats(self, subject: str) -> Command:
        """Ask for what the quiet time held back."""
        return Command(("HGETALL", self._repeats(subject)))

    def count_try(self, alert_id: str, channel: str) -> Command:
        """Count a failure to tell a channel."""
        return Command(("HINCRBY", self._alert(alert_id), f"tries:{channel}", "1"))

    def closed(self, channel: str, subject: str) -> Command:
        """Ask which recovery a channel was told last."""
        return Command(("HGET", f"{self._own}closed", f"{channel}|{subject}"))

    def close(self, channel: str, subject: str, alert_id: str) -> Command:
        """Note that a channel was told a recovery."""
        return Command(("HSET", f"{self._own}closed", f"{channel}|{subject}", alert_id))

    def flagged(self) -> tuple[Command, ...]:
        """Ask for the FLAGGED lines, by the index that decisions go by."""
        return tuple(Command(("ZRANGEBYSCORE", index, FLAGGED, FLAGGED)) for index in self._protocol.index)

    def numbers(self) -> Command:
        """Ask for the numbers of all lines that the pool ever had."""
        return Command(("HKEYS", self._protocol.key("lines")))

    # Audits ----------------------------------------------------------------------------------------------------------

    def audit(self, number: str) -> Command:
        """Ask how far a line's audit is."""
        return Command(("HGETALL", self._audit(number)))

    def note_audit(self, number: str, **found: str) -> Command:
        """Note how far a line's audit is."""
        return Command(("HSET", self._audit(number), *chain(*found.items())))

    # Queues ----------------------------------------------------------------------------------------------------------

    def take(self, queue: str, lease: float, now: float | None) -> Call:
        """Take what is due for `lease` seconds."""
        return self._protocol._call(scripts.TAKE, now, (queue,), (str(micros(lease)),))

    def put_back(self, queue: str, member: str, delay: float, now: float | None) -> Call:
        """Let a member be due in `delay` seconds."""
        return self._protocol._call(scripts.PUT_BACK, now, (queue,), (member, str(micros(delay))))

    def remove(self, queue: str, member: str) -> Command:
        """Be done with a member."""
        return Command(("ZREM", queue, member))


def taken_of(reply: bytes | str) -> Taken:
    """The reply of `take`."""
    wait, now, *member = fields(reply)
    return Taken(int(wait) / 1_000_000 if wait else None, int(now) / 1_000_000, "|".join(member))


def record_of(reply: Any) -> dict[str, str]:
    """The reply of HGETALL, in either form that clients give it."""
    flat = texts(chain.from_iterable(reply.items()) if isinstance(reply, dict) else reply or ())
    return dict(zip(flat[::2], flat[1::2], strict=True))


def claimed_of(reply: Sequence[Any]) -> list[Any]:
    """The entries in the reply of XAUTOCLAIM; those that the stream dropped are left out."""
    return [entry for entry in reply[1] if entry and entry[0] is not None and entry[1]]


def told_of(transition: Transition) -> dict[str, str]:
    """A transition as what an alert keeps of it."""
    change = transition.change
    return {
        "transition": transition.transition_id,
        "number": change.number,
        "field": change.field,
        "old": change.old or "",
        "new": change.new or "",
        "at": repr(change.observed_at),
        "source": change.source,
        "event": transition.event_id or "",
        "reminder": "",
    }


def entry_of(entry: Any) -> Transition | None:
    """One entry of the stream; None if it is none of the guard's."""
    try:
        return transitions_of([entry])[0]
    except (KeyError, ValueError):
        return None
