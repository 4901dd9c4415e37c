"""What goes over the wire, as the OpenAPI document shows it. Which handles and numbers are good, the guard says."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from sendguard.models import Decision, Health, Line, LineStatus, Outcome, Reason

MAX_WAIT = 60.0
"""Seconds that one request may wait for a slot."""

Number = Annotated[str, WithJsonSchema({"type": "string", "format": "phone-number", "description": "E.164"})]
Handle = Annotated[str, WithJsonSchema({"type": "string", "format": "handle", "description": "E.164 or e-mail"})]


class _Question(BaseModel):
    """A body as sent: JSON's own types and no other, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ChooseRequest(_Question):
    """One send, before it happens."""

    to: Handle | list[Handle] = Field(description="The recipient, or the recipients of a group in any order.")
    kind: Literal["chat", "voice_memo"] = "chat"
    from_number: Number | None = Field(None, description="Ask about this very line instead of having one chosen.")
    exclude: list[Number] = Field([], description="Lines not to start a conversation on.")
    line_type: Literal["iMessage", "RCS"] | None = Field(None, description="Start one only on a line of this type.")
    idempotency_key: str | None = Field(
        None, description="1 to 255 characters. A retry with the same key, within a day, pays nothing more."
    )
    max_wait: float = Field(
        0.0, ge=0, le=MAX_WAIT, allow_inf_nan=False, description="Seconds to wait for a line that is throttled."
    )


class ReportRequest(_Question):
    """What became of a send that was decided."""

    receipt: str = Field(max_length=255, description="As the decision gave it.")
    from_number: Number = Field(description="The line that the decision named.")
    outcome: Literal["sent", "not_sent", "unknown"] = "unknown"
    code: int | None = Field(None, ge=0, le=99_999, description="The API's error code, if it answered with one.")
    retry_after: float | None = Field(
        None, ge=0, le=86_400, allow_inf_nan=False, description="Seconds that the API asked to wait (code 1007)."
    )

    def decision(self) -> Decision:
        """The decision, as far as a report needs it."""
        return Decision(True, Reason.REQUESTED, from_number=self.from_number, receipt=self.receipt)

    def result(self) -> Outcome:
        """The outcome as a guard takes it."""
        sent = {"sent": True, "not_sent": False, "unknown": None}[self.outcome]
        return Outcome(sent, self.code, self.retry_after)


class PauseRequest(_Question):
    """How long to pause a line."""

    until: float | None = Field(
        None, ge=0, le=9e9, allow_inf_nan=False, description="Unix seconds; null: until it is resumed."
    )


class DecisionBody(BaseModel):
    """A send that may go."""

    model_config = ConfigDict(from_attributes=True)

    allowed: bool
    from_number: str = Field(description="The line to send from, E.164.")
    reason: Reason = Field(description="Why this line; in observe mode, also why it would have been denied.")
    status: LineStatus | None
    health: Health | None
    new_conversation: bool
    previous_from_number: str | None = Field(description="On failover, the line that the conversation lived on.")
    retry_after: float | None
    decision_id: str
    receipt: str = Field(description="For /v1/report; opaque.")


class LineBody(BaseModel):
    """One line as the pool knows it. Times are Unix seconds."""

    number: str
    status: LineStatus
    health: Health
    raw_status: str | None
    raw_health: str | None
    line_type: str | None
    status_observed_at: float | None
    health_observed_at: float | None
    paused: bool
    paused_until: float | None = Field(description="null where it is not paused, or until it is resumed.")
    cooling_down_until: float | None
    last_used_at: float | None
    may_send: bool = Field(description="Whether it may send into an existing conversation now.")
    next_send_at: float | None = Field(description="When it may again; null where it may, or where no waiting helps.")
    daily_volume: int
    new_conversations: int
    tokens: int | None = Field(description="Sends that its pace lets go at once; null where it is unpaced.")

    @classmethod
    def of(cls, line: Line) -> LineBody:
        """A line, without the infinity that JSON does not have."""
        return cls(
            number=line.number,
            status=line.status,
            health=line.health,
            raw_status=line.raw_status,
            raw_health=line.raw_health,
            line_type=line.line_type,
            status_observed_at=line.status_observed_at,
            health_observed_at=line.health_observed_at,
            paused=line.paused,
            paused_until=_finite(line.paused_until),
            cooling_down_until=_finite(line.cooling_down_until),
            last_used_at=line.last_used_at,
            may_send=line.next_send_at is None,
            next_send_at=_finite(line.next_send_at),
            daily_volume=line.daily_volume,
            new_conversations=line.new_conversations,
            tokens=line.tokens,
        )


class LinesBody(BaseModel):
    """Every line of the pool, by number."""

    lines: list[LineBody]


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: Reason | None = Field(None, description="Of a denial.")
    retry_after: float | None = Field(None, description="Seconds, exactly; asking again after it succeeds.")
    decision_id: str | None = None
    line_status: LineStatus | None = Field(None, description="Of the line that a denial is about.")
    line_health: Health | None = None
    errors: list[FieldError] | None = Field(None, description="Of a request that is not valid.")


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
