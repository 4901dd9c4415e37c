"""From the JSON of Linq's webhooks and polls, in every generation, to `sendguard.linq.events`. Pure.

The shapes are those of FACTS ("A line's state", "Webhooks", "Opt-out"). Reading is lenient: a field that is missing or
of another type was not carried. Only a line's event without a line is refused.
"""

from __future__ import annotations

import logging
import re
from typing import Annotated, Any

from sendguard.errors import LinqError, WebhookRejected
from sendguard.linq.events import Consent, LineUpdate, MessageFailed, MessageSeen, WebhookEvent
from sendguard.linq.fields import (
    AsObject,
    AsObjects,
    Identifier,
    JsonObject,
    Lenient,
    State,
    StateOrObject,
    Text,
    Truth,
    UnixTime,
    Word,
    identifier,
    state,
)

_log = logging.getLogger("sendguard.linq")

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_OPT_OUT_WORDS = frozenset({"STOP", "UNSUBSCRIBE", "OPTOUT", "CANCEL", "END", "QUIT"})
_OPT_OUT_ANY_CASE = re.compile(r"OPT[ -]?OUT", re.IGNORECASE | re.ASCII)


class _Envelope(Lenient):
    event_id: Identifier = None
    event_type: Text = None
    created_at: UnixTime = None
    data: JsonObject = None


class _LineData(Lenient):
    phone_number: Text = None
    new_status: State = None
    new_reputation: StateOrObject = None
    new_health_status: StateOrObject = None
    changed_at: UnixTime = None


class _PolledLine(Lenient):
    phone_number: Text = None
    status: Any = None
    reputation: StateOrObject = None
    health_status: StateOrObject = None
    line_type: Word = None


class _Handle(Lenient):
    handle: Text = None
    is_me: Truth = False


class _Chat(Lenient):
    id: Text = None
    is_group: Truth = False
    owner_handle: Annotated[_Handle, AsObject] = _Handle()
    handles: Annotated[tuple[_Handle, ...], AsObjects] = ()


class _Message(Lenient):
    """What stands in `data` of 2026-02-03 and, in 2025-01-01, partly under its `message`."""

    parts: Any = None
    sent_at: UnixTime = None
    received_at: UnixTime = None
    created_at: UnixTime = None
    reconciled_at: Any = None


class _MessageData(_Message):
    chat: Annotated[_Chat, AsObject] = _Chat()
    chat_id: Text = None
    is_group: Truth = False
    sender_handle: Annotated[_Handle, AsObject] = _Handle()
    from_handle: Annotated[_Handle, AsObject] = _Handle()
    recipient_handle: Annotated[_Handle, AsObject] = _Handle()
    handles: Annotated[tuple[_Handle, ...], AsObjects] = ()
    message: Annotated[_Message, AsObject] = _Message()


class _FailedData(Lenient):
    code: Any = None
    chat_id: Text = None
    failed_at: UnixTime = None


def is_e164(text: str) -> bool:
    """Whether `text` is a phone number as Linq writes it: a plus and 7 to 15 ASCII digits, the first not 0."""
    return _E164.fullmatch(text) is not None


def parse_event(
    payload: dict[str, Any], event_type: str | None, fallback_event_id: str, *, fallback_at: float
) -> WebhookEvent:
    """Read the verified JSON of one webhook.

    event_type: what the delivery's headers call it. They are not signed, so it only names an event whose payload has no
    name of its own, and never makes it news. fallback_event_id: the identity of an event whose payload has none.
    fallback_at: Unix seconds, for an event whose times are missing or unreadable.

    Data without an envelope that has `phone_number` and `new_status` is a `phone_number.status_updated`.
    Raises WebhookRejected for an event of a line whose number is not E.164; no other error.
    """
    envelope = _Envelope.model_validate(payload)
    kind, data = _kind_and_data(envelope, payload)
    at = envelope.created_at if envelope.created_at is not None else fallback_at
    return WebhookEvent(
        event_id=envelope.event_id or fallback_event_id,
        event_type=identifier(kind or event_type) or "unknown",
        news=None if kind is None else _news(kind, data, at),
    )


def parse_phone_numbers(payload: object, at: float) -> tuple[LineUpdate, ...]:
    """Read the answer of `GET /v3/phone_numbers`, in any generation, as of `at` (Unix seconds).

    Every line listed is the account's. A status is taken only where an entry carries one, which in no known generation
    it does (FACTS, "The trap"). An entry whose number is not E.164 is left out, with a warning in the log.
    Raises LinqError if there is no list.
    """
    entries = payload.get("phone_numbers") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        raise LinqError("the answer to GET /v3/phone_numbers cannot be read: phone_numbers: not a list")
    updates = (_polled_line(entry, at) for entry in entries)
    return tuple(update for update in updates if update is not None)


def chat_line_and_recipients(payload: object) -> tuple[str, tuple[str, ...]] | None:
    """Read the answer of `GET /v3/chats/{id}`: the line that the chat lives on, and all others in it."""
    chat = _Chat.model_validate(payload if isinstance(payload, dict) else {})
    line = next((each.handle for each in chat.handles if each.is_me and each.handle), None)
    others = tuple(each.handle for each in chat.handles if each.handle and not each.is_me)
    return (line, others) if line is not None and is_e164(line) and others else None


def _kind_and_data(envelope: _Envelope, payload: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    if envelope.event_type is not None:
        return envelope.event_type, envelope.data or {}
    data = envelope.data or payload
    is_status_update = "phone_number" in data and "new_status" in data
    return ("phone_number.status_updated" if is_status_update else None), data


def _news(kind: str, data: dict[str, Any], at: float) -> LineUpdate | MessageSeen | MessageFailed | None:
    match kind:
        case "phone_number.status_updated":
            return _status_updated(data, at)
        case "phone_number.assigned" | "phone_number.released":
            number, changed_at = _line(_LineData.model_validate(data), at)
            return LineUpdate(number, changed_at, assigned=kind == "phone_number.assigned")
        case "message.received" | "message.sent":
            return _message_seen(data, at, inbound=kind == "message.received")
        case "message.failed":
            return _message_failed(data, at)
    return None


def _line(line: _LineData, at: float) -> tuple[str, float]:
    if line.phone_number is None or not is_e164(line.phone_number):
        raise WebhookRejected("data.phone_number is not an E.164 number", authentic=True)
    return line.phone_number, _first_time(line.changed_at, at)


def _status_updated(data: dict[str, Any], at: float) -> LineUpdate:
    line = _LineData.model_validate(data)
    number, changed_at = _line(line, at)
    return LineUpdate(number, changed_at, status=line.new_status, health=line.new_reputation or line.new_health_status)


def _polled_line(entry: object, at: float) -> LineUpdate | None:
    line = _PolledLine.model_validate(entry if isinstance(entry, dict) else {})
    if line.phone_number is None or not is_e164(line.phone_number):
        text = "GET /v3/phone_numbers: left out an entry whose phone_number is not an E.164 number"
        _log.warning(text, extra={"event": "entry_left_out"})
        return None
    return LineUpdate(
        line.phone_number,
        at,
        status=state(line.status) if isinstance(line.status, str) else None,
        health=line.reputation or line.health_status,
        line_type=line.line_type,
        assigned=True,
    )


def _message_failed(data: dict[str, Any], at: float) -> MessageFailed | None:
    failed = _FailedData.model_validate(data)
    if not isinstance(failed.code, int) or isinstance(failed.code, bool):
        return None
    return MessageFailed(failed.code, failed.chat_id, _first_time(failed.failed_at, at))


def _message_seen(data: dict[str, Any], at: float, *, inbound: bool) -> MessageSeen | None:
    seen = _MessageData.model_validate(data)
    nested = seen.message
    line = _own_line(seen)
    if line is None:
        return None
    is_group = seen.chat.is_group or seen.is_group
    parts = seen.parts if isinstance(seen.parts, list) else nested.parts
    return MessageSeen(
        line=line,
        inbound=inbound,
        at=_first_time(
            seen.sent_at, nested.sent_at, seen.received_at, nested.received_at, seen.created_at, nested.created_at, at
        ),
        chat_id=seen.chat.id or seen.chat_id,
        is_group=is_group,
        sender=_sender(seen, line) if inbound else None,
        history=seen.reconciled_at is not None or nested.reconciled_at is not None,
        consent=_consent(parts, is_group=is_group) if inbound else None,
    )


def _own_line(seen: _MessageData) -> str | None:
    others = (seen.from_handle, seen.recipient_handle, *seen.handles, *seen.chat.handles)
    line = seen.chat.owner_handle.handle or next((each.handle for each in others if each.is_me and each.handle), None)
    return line if line is not None and is_e164(line) else None


def _sender(seen: _MessageData, line: str) -> str | None:
    sender = seen.sender_handle.handle or seen.from_handle.handle
    return None if sender == line else sender


def _consent(parts: object, *, is_group: bool) -> Consent | None:
    """What an inbound message does (FACTS, "Opt-out"): a group is never marked, and any other word opts in again."""
    if not isinstance(parts, list):
        return None
    if _is_opt_out(_whole_text(parts)):
        return None if is_group else Consent.OPT_OUT
    return Consent.OPT_IN


def _whole_text(parts: list[Any]) -> str:
    """The trimmed text of a message, or "" if anything but text is in it."""
    texts = [part["value"] for part in parts if _is_text(part)]
    return "".join(texts).strip() if len(texts) == len(parts) else ""


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("value"), str)


def _is_opt_out(text: str) -> bool:
    return text in _OPT_OUT_WORDS or _OPT_OUT_ANY_CASE.fullmatch(text) is not None


def _first_time(*times: float | None) -> float:
    """The first that is there; the last always is."""
    return next(time for time in times if time is not None)
