"""The plain, frozen data that goes in and out of a guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class LineStatus(str, Enum):
    """The sending state of a line, as the webhook `phone_number.status_updated` tells it."""

    ACTIVE = "ACTIVE"
    FLAGGED = "FLAGGED"


class Health(str, Enum):
    """Where a line is heading (the API's `reputation`, once `health_status`). HEALTHY is also a line not yet scored."""

    HEALTHY = "HEALTHY"
    AT_RISK = "AT_RISK"
    CRITICAL = "CRITICAL"


class SendKind(str, Enum):
    """What is being sent. A voice memo lives in an existing chat, so it never fails over to another line."""

    CHAT = "chat"
    VOICE_MEMO = "voice_memo"


class Reason(str, Enum):
    """Why a decision is what it is: four ways to be allowed, the rest denials."""

    STICKY = "sticky"
    NEW_CONVERSATION = "new_conversation"
    FAILOVER = "failover"
    REQUESTED = "requested"

    NO_LINES = "no_lines"
    FLAGGED = "flagged"
    PAUSED = "paused"
    COOLING_DOWN = "cooling_down"
    THROTTLED = "throttled"
    DAILY_VOLUME = "daily_volume"
    NEW_CONVERSATIONS = "new_conversations"
    PAIR = "pair"
    OPTED_OUT = "opted_out"
    UNKNOWN_LINE = "unknown_line"
    STORE_UNAVAILABLE = "store_unavailable"

    @property
    def allows(self) -> bool:
        """True for the four reasons of an allowed decision."""
        return self in _ALLOWING


_ALLOWING = frozenset({Reason.STICKY, Reason.NEW_CONVERSATION, Reason.FAILOVER, Reason.REQUESTED})


@dataclass(frozen=True, slots=True)
class Decision:
    """The guard's answer for one send.

    allowed: whether it may go. from_number: the line to send from, E.164 (None on a denial).
    reason: why. retry_after: on a denial, the seconds after which asking again succeeds with nobody else
    asking; None where waiting cannot help. status, health: of the line that the decision is about, where there is one.
    new_conversation: the send starts a conversation on that line. previous_from_number: on failover, the line that
    the conversation lived on. decision_id: unique; a retry with the same idempotency key gets the same one.

    With `Policy(mode="observe")` a send that would be denied is `allowed` with the denial's `reason`.
    """

    allowed: bool
    reason: Reason
    from_number: str | None = None
    retry_after: float | None = None
    status: LineStatus | None = None
    health: Health | None = None
    new_conversation: bool = False
    previous_from_number: str | None = None
    decision_id: str = ""
    receipt: str = field(default="", repr=False)
    """What `report` needs to give back what the decision took; opaque, safe to store and to pass between processes."""
    wait: float = field(default=0.0, repr=False)
    """Seconds until the slot that a waiter holds; 0 for a decision that may be used at once."""


@dataclass(frozen=True, slots=True)
class Line:
    """One phone number of the account, as the pool knows it. Times are Unix seconds; None: never, or not known.

    status, health: as decisions take them (an unknown status counts as FLAGGED, an unknown health as AT_RISK);
    raw_status, raw_health: what the API said, None if it never said. paused_until: `inf` until an operator resumes it.
    next_send_at: when the line may next send into an existing conversation; `inf` if no waiting helps.
    daily_volume, new_conversations: what its quotas count now. tokens: the whole tokens in its bucket now, which is how
    many sends its pace lets go at once; None where it is unpaced.
    """

    number: str
    status: LineStatus
    health: Health
    raw_status: str | None = None
    raw_health: str | None = None
    line_type: str | None = None
    status_observed_at: float | None = None
    health_observed_at: float | None = None
    paused_until: float | None = None
    cooling_down_until: float | None = None
    last_used_at: float | None = None
    next_send_at: float | None = None
    daily_volume: int = 0
    new_conversations: int = 0
    tokens: int | None = None

    @property
    def paused(self) -> bool:
        """True while an operator's pause is in force."""
        return self.paused_until is not None


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that an observation changed.

    number: the line. field: "status", "health", "assigned", "line_type", "paused_until" or "cooling_down_until".
    old, new: the values as text, None where there was or is none. observed_at: Unix seconds at which the new value
    held. source: "webhook", "poll", "outcome", "operator", or what `observe` was given.
    """

    number: str
    field: str
    old: str | None
    new: str | None
    observed_at: float
    source: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A change as the pool recorded it, once, in order, whoever saw it first.

    transition_id: what follows it is asked for by this. event_id: of the webhook that told it, as the API named it.
    """

    transition_id: str
    change: Change
    event_id: str | None = None


class Considered(NamedTuple):
    """A line that a decision looked at.

    reason: why it was not taken, a value of `Reason` or "excluded" by the caller; None if it could be sent on.
    free_at: Unix seconds at which it could be; None where waiting does not help.
    """

    number: str
    reason: str | None
    free_at: float | None


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision as the store recorded it when it was made, or as a dry run would make it.

    entry_id: its place in the record, milliseconds first; "" for a dry run. decision_id: as the `Decision` has it; a
    repeated answer and a waiter's confirmation are entries of their own with the same one. decided_at: Unix seconds.
    from_number: the line that the decision is about, also on a denial. retry_after: as the `Decision`'s. wait: seconds
    until the slot that a waiter was given; 0 where the send could go at once. kind: "chat", "voice_memo", "in_chat" (a
    send into a chat that lives on its line) or "sent" (counted after it had left). line_type: the one asked for.
    conversation: the keyed hash of the recipients. remembered: "repeated" if the answer was the one that the same
    idempotency key got before, "confirmed" if a waiter's slot had come, "void" if one was lost and this decides anew,
    "lent" if a process decided it by itself from what it was lent, and had it recorded a moment later.
    considered: the lines looked at, in that order, at most 16; empty where an answer was repeated.

    With `Policy(mode="observe")` the record holds the denial that the guard did not enforce.
    """

    entry_id: str
    decision_id: str
    decided_at: float
    allowed: bool
    from_number: str | None
    reason: Reason
    retry_after: float | None
    wait: float
    status: LineStatus | None
    health: Health | None
    new_conversation: bool
    previous_from_number: str | None
    kind: str
    line_type: str | None
    conversation: str
    remembered: str | None
    considered: tuple[Considered, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision is what it is.

    records: its entries, oldest first: the decision, and each time that its answer was given again. lines: how the
    pool's lines stand now, which is not how they stood then.
    """

    records: tuple[DecisionRecord, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a send.

    sent: True if it left, False if it certainly did not, None if nobody can tell. code: the API's error code, if it
    answered with one. retry_after: the seconds that it asked to wait (code 1007).
    """

    sent: bool | None = None
    code: int | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if self.code is not None and (isinstance(self.code, bool) or not isinstance(self.code, int)):
            raise ValueError(f"code must be a whole number, not {self.code!r}")
        wait = self.retry_after
        if wait is not None and (
            not isinstance(wait, int | float) or isinstance(wait, bool) or not 0 <= wait <= 86_400
        ):
            raise ValueError(f"retry_after must be from 0 to 86400 seconds, not {self.retry_after!r}")
