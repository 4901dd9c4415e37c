"""The JSON of the API's answers and webhooks, as linq-python 0.65 and the documented generations have it. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sendguard.models import Health, LineStatus

from .model import (
    ApiError,
    Attachment,
    Chat,
    Event,
    Generation,
    Json,
    SimulatedLine,
    Subscription,
    WebhookGeneration,
)

_DOCS = "https://docs.linqapp.com"
_NAMESPACE = uuid.UUID("6f1c2a3b-0000-4000-8000-000000000000")


def iso(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, with milliseconds."""
    return iso_ms(int(seconds * 1000))


def iso_ms(milliseconds: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC, exact."""
    whole = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def stable_id(text: str) -> str:
    """The UUID that a number or handle always has."""
    return str(uuid.uuid5(_NAMESPACE, text))


def error(failure: ApiError) -> Json:
    """The error envelope."""
    body: Json = {
        "status": failure.status,
        "code": failure.code,
        "message": failure.message,
        "doc_url": f"{_DOCS}/error/codes/{failure.code // 1000}xxx/{failure.code}/",
    }
    if failure.retry_after is not None:
        body["retry_after"] = failure.retry_after
    return {"success": False, "error": body, "trace_id": uuid.uuid4().hex}


def audit(audit_id: str, number: str, health: Health, at: float) -> Json:
    """A complete reputation audit."""
    return {
        "audit_id": audit_id,
        "status": "complete",
        "phone": number,
        "generated_at": iso(at),
        "report": {
            "severity": health.value,
            "primary_driver": "new_conversation_rate",
            "drivers": [
                {
                    "key": "new_conversation_rate",
                    "metric": "83 new conversations in 24 hours",
                    "summary": "The line opens more conversations a day than is healthy.",
                },
                {"key": "volume_spike", "metric": "4.1 times the usual day", "summary": "Volume jumped."},
            ],
            "action_items": [
                {
                    "priority": 2,
                    "title": "Ramp volume gradually",
                    "detail": "Raise it over days.",
                    "expected_impact": "medium",
                },
                {
                    "priority": 1,
                    "title": "Spread first contacts",
                    "detail": "Open fewer than fifty a day on one line.",
                    "expected_impact": "high",
                },
            ],
            "evidence": {"unhealthy_chats": [], "opt_out_chats": []},
            "summary_markdown": f"**{health.value}**: too many first contacts",
        },
    }


def phone_number(line: SimulatedLine, generation: Generation) -> Json:
    """One entry of `GET /v3/phone_numbers`; in no generation does it carry the status."""
    entry: Json = {"id": stable_id(line.number), "phone_number": line.number}
    anchor = line.health.value.lower().replace("_", "-")
    health = {"status": line.health.value, "doc_url": f"{_DOCS}/guides/phone-numbers/phone-reputation#{anchor}"}
    if generation == "plain":
        return entry | {
            "type": None,
            "country_code": None,
            "capabilities": {"sms": True, "mms": True, "voice": True},
        }
    if generation in ("health_status", "both"):
        entry["health_status"] = health
    if generation in ("reputation", "both"):
        entry |= {"reputation": health, "forwarding_number": None}
    if generation == "reputation":
        entry["line_type"] = line.line_type
    return entry


def handle(name: str, chat: Chat, *, is_me: bool) -> Json:
    """One party of a chat."""
    return {
        "id": stable_id(name),
        "handle": name,
        "joined_at": iso(chat.created_at),
        "service": chat.line_type,
        "status": "active",
        "left_at": None,
        "is_me": is_me,
    }


def handles(chat: Chat) -> list[Json]:
    """The line, then the recipients."""
    return [handle(chat.line, chat, is_me=True), *(handle(name, chat, is_me=False) for name in chat.recipients)]


def chat_health(chat: Chat, *, opted_out: bool) -> Json:
    """The health of a conversation (not of its line)."""
    return {
        "status": "OPTED_OUT" if opted_out else "HEALTHY",
        "doc_url": f"{_DOCS}/guides/chats/chat-health",
        "updated_at": iso(chat.updated_at),
    }


def chat(of: Chat, *, opted_out: bool) -> Json:
    """`GET /v3/chats/{id}`, and the data of `chat.created`."""
    return {
        "id": of.id,
        "created_at": iso(of.created_at),
        "updated_at": iso(of.updated_at),
        "display_name": ", ".join(of.recipients),
        "handles": handles(of),
        "health_status": chat_health(of, opted_out=opted_out),
        "is_archived": False,
        "is_group": of.is_group,
        "service": of.line_type,
    }


def chat_created(of: Chat, message: Json, *, opted_out: bool) -> Json:
    """The answer of `POST /v3/chats`."""
    whole = chat(of, opted_out=opted_out)
    kept = ("id", "display_name", "handles", "health_status", "is_group", "service")
    return {"chat": {key: whole[key] for key in kept} | {"message": message}}


def message(message_id: str, of: Chat, parts: list[Json], preferred_service: str | None, now: float) -> Json:
    """A message just sent, as the send calls answer it."""
    return {
        "id": message_id,
        "created_at": iso(now),
        "delivery_status": "pending",
        "is_read": False,
        "parts": [part | {"reactions": None} for part in parts],
        "sent_at": None,
        "delivered_at": None,
        "service": preferred_service or of.line_type,
        "preferred_service": preferred_service,
        "effect": None,
        "from_handle": handle(of.line, of, is_me=True),
        "reply_to": None,
    }


def voice_memo(memo_id: str, of: Chat, media: Json, now: float) -> Json:
    """The answer of `POST /v3/chats/{id}/voicememo`."""
    return {
        "voice_memo": {
            "id": memo_id,
            "chat": {
                "id": of.id,
                "handles": handles(of),
                "is_active": True,
                "is_group": of.is_group,
                "service": of.line_type,
            },
            "created_at": iso(now),
            "from": of.line,
            "to": list(of.recipients),
            "status": "queued",
            "service": of.line_type,
            "voice_memo": media | {"duration_ms": 5100},
        }
    }


def media(filename: str, content_type: str, size_bytes: int, url: str, media_id: str) -> Json:
    """A file in a message."""
    return {"id": media_id, "filename": filename, "mime_type": content_type, "size_bytes": size_bytes, "url": url}


def attachment(of: Attachment) -> Json:
    """`GET /v3/attachments/{id}`."""
    return {
        "id": of.id,
        "content_type": of.content_type,
        "created_at": iso(of.created_at),
        "filename": of.filename,
        "size_bytes": of.size_bytes,
        "status": "complete" if of.uploaded else "pending",
        "download_url": download_url(of),
    }


def download_url(of: Attachment) -> str:
    """Where Linq would serve the file; the simulator serves none."""
    return f"https://cdn.linqapp.com/attachments/partners/simulator/{of.id}/{of.filename}"


def subscription(of: Subscription, known_events: Iterable[str], *, with_secret: bool = False) -> Json:
    """A webhook subscription; its signing secret only in the answer that created it."""
    body: Json = {
        "id": of.id,
        "created_at": iso(of.created_at),
        "updated_at": iso(of.updated_at),
        "is_active": of.is_active,
        "subscribed_events": sorted(known_events if of.events is None else of.events),
        "target_url": of.url,
        "phone_numbers": list(of.phone_numbers) or None,
    }
    return body | {"signing_secret": of.secret} if with_secret else body


def status_updated(
    line: SimulatedLine, before: tuple[LineStatus, Health], changed_at: str, generation: WebhookGeneration
) -> Json:
    """The data of `phone_number.status_updated`."""
    data: Json = {
        "phone_number": line.number,
        "previous_status": before[0].value,
        "new_status": line.status.value,
        "changed_at": changed_at,
    }
    names = {"status_only": (), "health_status": ("health_status",), "reputation": ("reputation",)}
    for name in names.get(generation, ("health_status", "reputation")):
        data[f"previous_{name}"], data[f"new_{name}"] = before[1].value, line.health.value
    return data


def message_event(
    message_id: str,
    of: Chat,
    parts: list[Json],
    now: float,
    *,
    sender: str | None = None,
    opted_out: bool = False,
    idempotency_key: str | None = None,
) -> Json:
    """The data of `message.sent` and, with a `sender`, of `message.received`; webhook version 2026-02-03."""
    data: dict[str, Any] = {
        "id": message_id,
        "chat": {
            "id": of.id,
            "is_group": of.is_group,
            "owner_handle": handle(of.line, of, is_me=True),
            "health_status": chat_health(of, opted_out=opted_out),
        },
        "direction": "inbound" if sender else "outbound",
        "parts": [part | {"reactions": None} for part in parts],
        "sender_handle": handle(sender or of.line, of, is_me=sender is None),
        "service": of.line_type,
        "sent_at": iso(now),
        "delivered_at": None,
        "read_at": None,
        "preferred_service": "auto",
        "effect": None,
        "reply_to": None,
    }
    return data if idempotency_key is None else data | {"idempotency_key": idempotency_key}


def message_event_2025(message_id: str, of: Chat, parts: list[Json], now: float, *, sender: str | None = None) -> Json:
    """The same in webhook version 2025-01-01."""
    me, other = handle(of.line, of, is_me=True), handle(sender or of.recipients[0], of, is_me=False)
    return {
        "chat_id": of.id,
        "is_from_me": sender is None,
        "from_handle": other if sender else me,
        "recipient_handle": me if sender else other,
        "service": of.line_type,
        "message": {"id": message_id, "parts": parts},
        "received_at" if sender else "sent_at": iso(now),
    }


def envelope(event: Event, version: str) -> Json:
    """A whole webhook in one of the two versions."""
    data = event.data_2025 if version == "2025-01-01" and event.data_2025 is not None else event.data
    return {
        "api_version": "v3",
        "created_at": iso(event.created_at),
        "event_id": event.id,
        "event_type": event.type,
        "partner_id": "partner_simulator",
        "trace_id": event.trace_id,
        "webhook_version": version,
        "data": data,
    }
