"""What a Linq webhook or poll says that a guard must know, apart from the shape that it said it in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Consent(str, Enum):
    """What an inbound message does to the sender's consent to be written to."""

    OPT_OUT = "opt_out"
    OPT_IN = "opt_in"


@dataclass(frozen=True, slots=True)
class LineUpdate:
    """Something learnt of one line. A field that is None was not carried, and changes nothing (law 2).

    number: E.164. at: Unix seconds at which it held. status, health, line_type: as the API spelt them, upper-cased for
    status and health. assigned: True if the line is the account's, False if it was released.
    """

    number: str
    at: float
    status: str | None = None
    health: str | None = None
    line_type: str | None = None
    assigned: bool | None = None


@dataclass(frozen=True, slots=True)
class MessageSeen:
    """A message that passed over a line.

    line: the account's number, E.164. inbound: True if a person sent it. sender: the person's handle on an inbound
    message. at: Unix seconds at which it was sent. history: recovered late (`reconciled_at`), so it is not news.
    consent: on an inbound message, what it does to the sender's consent; None where it says nothing.
    """

    line: str
    inbound: bool
    at: float
    chat_id: str | None = None
    is_group: bool = False
    sender: str | None = None
    history: bool = False
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class MessageFailed:
    """A send that failed after the API had taken it.

    code: Linq's error code (4002: the sending phone is not available). at: Unix seconds at which it failed.
    """

    code: int
    chat_id: str | None
    at: float


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """An authentic webhook. `news` is None for an event that a guard has no use for."""

    event_id: str
    event_type: str
    news: LineUpdate | MessageSeen | MessageFailed | None
