"""The plain data of the simulator: what it keeps, records and raises. No I/O."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from sendguard.models import Health, LineStatus

LineType = Literal["iMessage", "RCS"]
Generation = Literal["plain", "health_status", "both", "reputation"]
WebhookGeneration = Literal["status_only", "health_status", "both", "reputation"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SentRecord:
    """One send request that reached the simulator, refused ones too.

    at: Unix seconds of its arrival. line: the number it was to go from, None where it named none and none was picked.
    recipients: the handles, sorted. kind: "chat" or "voice_memo". new_conversation: it opened a chat. auto_from: the
    simulator picked the line (`POST /v3/messages`). accepted: the message was taken. error_code: the API's code of the
    error that was answered; together with `accepted` it is a `fail_after_rate` failure. line_status, line_health: of
    the line when the request arrived, None for a line that is not the account's.
    """

    at: float
    line: str | None
    recipients: tuple[str, ...]
    chat_id: str | None
    kind: Literal["chat", "voice_memo"]
    new_conversation: bool
    auto_from: bool
    accepted: bool
    error_code: int | None
    line_status: LineStatus | None
    line_health: Health | None
    idempotency_key: str | None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a webhook. Times are Unix seconds.

    attempt: 1 for the first. status: the HTTP status answered, None on a network error or timeout. sent_at: just before
    the request. acknowledged_at: when a 2xx came back, else None. duplicate: a copy made by `delivery.duplicate`.
    """

    event_id: str
    event_type: str
    payload: Json
    attempt: int
    status: int | None
    sent_at: float
    acknowledged_at: float | None
    url: str = ""
    subscription_id: str = ""
    duplicate: bool = False


@dataclass(slots=True)
class Faults:
    """What goes wrong with API calls. Change the fields at any time.

    latency: seconds, a (least, most) range that every answer is held back, after the call took effect. fail_rate:
    probability, 0 to 1, that a call gets 500 with code 3006 before anything is created. fail_after_rate: the same for
    a send that *was* made: its answer is lost.
    """

    latency: tuple[float, float] = (0.0, 0.0)
    fail_rate: float = 0.0
    fail_after_rate: float = 0.0


@dataclass(slots=True)
class DeliveryKnobs:
    """How webhooks travel. Change the fields at any time.

    duplicate: probability, 0 to 1, that a delivery comes twice. delay: seconds, a (least, most) range before the first
    attempt. reorder: probability that a delivery is held until a later one to the same subscription was attempted, or
    `reorder_hold` seconds passed. retry_scale: multiplies the waits between attempts (1.0: ten retries over about 25
    minutes, as Linq documents). timeout: seconds for one attempt.
    """

    duplicate: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    reorder: float = 0.0
    reorder_hold: float = 0.5
    retry_scale: float = 1.0
    timeout: float = 10.0


@dataclass(slots=True)
class SimulatedLine:
    """A line of the simulated account, as `Simulator.lines()` copies it. Times are Unix seconds."""

    number: str
    line_type: LineType = "iMessage"
    status: LineStatus = LineStatus.ACTIVE
    health: Health = Health.HEALTHY
    ineligible_until: float = 0.0
    strain: float = 0.0
    strain_at: float = 0.0
    used: int = 0
    """The order of last use among all lines; 0: never."""
    changed_ms: int = 0

    def can_send(self, now: float) -> bool:
        """True while the API would take a send on this line."""
        return self.status is LineStatus.ACTIVE and now >= self.ineligible_until


@dataclass(slots=True)
class Chat:
    """A conversation: a line and a set of recipients. `active` is the order of last activity among all chats."""

    id: str
    line: str
    line_type: LineType
    recipients: tuple[str, ...]
    created_at: float
    updated_at: float
    active: int = 0
    last_message_id: str | None = None

    @property
    def is_group(self) -> bool:
        return len(self.recipients) > 1


@dataclass(slots=True)
class Attachment:
    """A pre-uploaded file; only its size is kept of what was uploaded."""

    id: str
    filename: str
    content_type: str
    size_bytes: int
    created_at: float
    uploaded: bool = False


@dataclass(slots=True)
class Subscription:
    """A webhook subscription. events None: all; phone_numbers empty: all lines. Times are Unix seconds."""

    url: str
    secret: str
    events: frozenset[str] | None
    phone_numbers: tuple[str, ...] = ()
    is_active: bool = True
    created_at: float = 0.0
    updated_at: float = 0.0
    id: str = field(default_factory=lambda: new_id())

    def wants(self, event: Event) -> bool:
        """True if this subscription is to be told of the event."""
        return (
            self.is_active
            and (self.events is None or event.type in self.events)
            and (not self.phone_numbers or event.line in self.phone_numbers)
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell subscribers. data_2025: its `data` in webhook version 2025-01-01, where that differs."""

    type: str
    line: str
    data: Json
    created_at: float
    data_2025: Json | None = None
    id: str = field(default_factory=lambda: new_id())
    trace_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class ApiError(Exception):
    """An error of the API: HTTP `status`, Linq `code`, `message`, and `retry_after` seconds where waiting helps."""

    def __init__(self, status: int, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))


def invalid(message: str) -> ApiError:
    """400, code 1005: a value is missing or wrong."""
    return ApiError(400, 1005, message)


def new_id() -> str:
    """A fresh UUID as text."""
    return str(uuid.uuid4())
