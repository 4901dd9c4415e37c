"""The three ways to send: what the simulator checks, in which order, and what it records. No I/O, no clock."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from typing import Literal

from . import requests, shapes
from .model import ApiError, Chat, Json, SentRecord, SimulatedLine, invalid, new_id
from .state import Account

PAIR_LIMIT = 30
PAIR_SECONDS = 60.0


@dataclass(slots=True)
class Send:
    """One send request, and what has been learnt of it so far.

    body: as parsed, empty where it could not be. chat_id: from the path. key: of the header `Idempotency-Key`.
    auto_from: it came to `/v3/messages`. in_chat: it came to a chat's own path. refused: an error that was certain
    before the account was asked.
    """

    kind: Literal["chat", "voice_memo"]
    body: Json
    chat_id: str | None = None
    auto_from: bool = False
    key: str | None = None
    refused: ApiError | None = None
    in_chat: bool = False
    line: str | None = None
    recipients: tuple[str, ...] = ()
    new_conversation: bool = False
    message_id: str | None = None
    replayed: bool = False


def take(account: Account, send: Send, now: float, *, lose_answer: bool = False) -> tuple[int, Json]:
    """Carry out a send, record it, and return the HTTP status and body. Raises ApiError, recorded too.

    lose_answer: make the send, then raise 500 3006 all the same.
    """
    _note_intent(account, send)
    states = {number: (line.status, line.health) for number, line in account.lines.items()}
    error: ApiError | None = None
    accepted = False
    try:
        answer = _carry_out(account, send, now)
        accepted = True
        if lose_answer:
            raise ApiError(500, 3006, "Internal server error")
        return answer
    except ApiError as failure:
        error = failure
        raise
    finally:
        status, health = states.get(send.line or "", (None, None))
        record = SentRecord(
            at=now,
            line=send.line,
            recipients=send.recipients,
            chat_id=send.chat_id,
            kind=send.kind,
            new_conversation=send.new_conversation,
            auto_from=send.auto_from,
            accepted=accepted,
            error_code=error.code if error else None,
            line_status=status,
            line_health=health,
            idempotency_key=send.key,
            message_id=send.message_id,
        )
        (account.replays if send.replayed else account.sends).append(record)


def _note_intent(account: Account, send: Send) -> None:
    """Read what can be read for the record, however wrong the rest is."""
    line, to, message = (send.body.get(name) for name in ("from", "to", "message"))
    if isinstance(message, dict) and isinstance(message.get("idempotency_key"), str):
        send.key = send.key or message["idempotency_key"]
    if send.in_chat:
        chat = account.chats.get(send.chat_id or "")
        send.line, send.recipients = (chat.line, chat.recipients) if chat else (None, ())
    else:
        send.line = line if isinstance(line, str) and not send.auto_from else None
        send.recipients = tuple(sorted({item for item in to if isinstance(item, str)})) if isinstance(to, list) else ()


def _carry_out(account: Account, send: Send, now: float) -> tuple[int, Json]:
    if send.refused:
        raise send.refused
    message = requests.message(send.body.get("message")) if send.kind == "chat" else _voice_memo(send.body)
    if not send.in_chat:
        send.recipients = requests.handles(send.body.get("to"))
        if not send.auto_from:
            send.line = requests.e164(send.body.get("from"), "from")
    override = requests.flag(send.body.get("override_optout"), "override_optout")
    excluded = requests.numbers(send.body.get("exclude_from"), "exclude_from") if send.auto_from else ()
    continuation = _continuation(send.body) if send.auto_from else None
    requests.idempotency_key(message.get("idempotency_key"))
    requests.idempotency_key(send.key)
    if send.key is not None and send.key in account.answers:
        return _replay(account, send)

    parts = _parts(account, message)
    if len(send.recipients) == 1 and send.auto_from:
        _check_opt_out(account, send.recipients, override)
    line, chat, previous = _route(account, send, excluded, now)
    send.line, send.chat_id = line.number, chat.id if chat else None
    if chat is None and not send.auto_from and requests.has_link(message):
        raise invalid("The first message of a chat may not contain a link")
    if not line.can_send(now):
        raise ApiError(403, 2027, "Number cannot send at the moment")
    _check_opt_out(account, send.recipients, override)
    _count_pair(account, line.number, send.recipients, now)
    if previous and continuation:
        parts = [{"type": "text", "value": continuation}]
    return _accept(account, send, line, chat, parts, message, previous, now)


def _route(
    account: Account, send: Send, excluded: tuple[str, ...], now: float
) -> tuple[SimulatedLine, Chat | None, Chat | None]:
    """The line, the chat on it where there is one, and on a failover the chat that is left behind."""
    if send.auto_from:
        return _auto_route(account, send.recipients, excluded, now)
    if send.chat_id is not None:
        chat = account.chat(send.chat_id)
        send.line, send.recipients = chat.line, chat.recipients
    else:
        chats = account.chats_with(send.recipients)
        found = next((chat for chat in chats if chat.line == send.line), None)
        return _own_line(account, send.line), found, None
    return _own_line(account, chat.line), chat, None


def _own_line(account: Account, number: str | None) -> SimulatedLine:
    if number not in account.lines:
        raise ApiError(403, 2006, "Phone number permission denied")
    return account.lines[number]


def _auto_route(
    account: Account, recipients: tuple[str, ...], excluded: tuple[str, ...], now: float
) -> tuple[SimulatedLine, Chat | None, Chat | None]:
    chats = account.chats_with(recipients)
    usable = [chat for chat in chats if chat.line in account.lines and account.lines[chat.line].can_send(now)]
    usable.sort(key=lambda chat: chat.line in excluded)
    if usable:
        return account.lines[usable[0].line], usable[0], None
    return account.pick(excluded, now), None, chats[0] if chats else None


def _check_opt_out(account: Account, recipients: tuple[str, ...], override: bool) -> None:
    if len(recipients) == 1 and recipients[0] in account.opted_out and not override:
        raise ApiError(403, 2024, "Recipient has opted out")


def _count_pair(account: Account, line: str, recipients: tuple[str, ...], now: float) -> None:
    """At most 30 accepted sends in a rolling 60 s between a line and a set of recipients."""
    recent = [at for at in account.pair_sends.get((line, recipients), ()) if at > now - PAIR_SECONDS]
    if len(recent) >= PAIR_LIMIT:
        wait = ApiError(429, 1007, "", recent[-PAIR_LIMIT] + PAIR_SECONDS - now).retry_after
        raise ApiError(429, 1007, f"Rate limited. Try again in {wait} seconds.", wait)
    account.pair_sends[line, recipients] = [*recent, now]


def _accept(
    account: Account,
    send: Send,
    line: SimulatedLine,
    chat: Chat | None,
    parts: list[Json],
    message: Json,
    previous: Chat | None,
    now: float,
) -> tuple[int, Json]:
    send.new_conversation = chat is None
    chat = chat or account.open_chat(line, send.recipients, now)
    send.chat_id, send.message_id = chat.id, new_id()
    line.used = account.next_order()
    account.touch(chat, send.message_id, now)
    answer = _answer(account, send, chat, parts, message, previous, now)
    if send.key is not None:
        account.answers[send.key] = answer
    account.tell_sent(chat, send.message_id, parts, send.key, now)
    model = account.health_model
    if model:
        account.strain(line, now, model.per_new_conversation if send.new_conversation else model.per_send)
    return answer


def _answer(
    account: Account, send: Send, chat: Chat, parts: list[Json], message: Json, previous: Chat | None, now: float
) -> tuple[int, Json]:
    message_id = send.message_id or ""
    if send.kind == "voice_memo":
        media = {name: value for name, value in parts[0].items() if name != "type"}
        return 202, shapes.voice_memo(message_id, chat, media, now)
    sent = shapes.message(message_id, chat, parts, message.get("preferred_service"), now)
    if send.auto_from:
        return 202, _auto_answer(send, chat, sent, previous)
    if not send.in_chat:
        return 201, shapes.chat_created(chat, sent, opted_out=account.has_opted_out(chat))
    return 202, {"chat_id": chat.id, "message": sent}


def _auto_answer(send: Send, chat: Chat, sent: Json, previous: Chat | None) -> Json:
    reason = "failover_flagged" if previous else "new_best_number" if send.new_conversation else "reused_active_chat"
    body = {
        "chat_id": chat.id,
        "created_new_chat": send.new_conversation,
        "from": chat.line,
        "from_selection": {"reason": reason, "reused_existing_chat": not send.new_conversation},
        "handles": shapes.handles(chat),
        "is_group": chat.is_group,
        "message": sent,
        "service": sent["service"],
    }
    return body | {"previous_chat_id": previous.id} if previous else body


def _replay(account: Account, send: Send) -> tuple[int, Json]:
    send.replayed = True
    status, body = account.answers[send.key or ""]
    if send.auto_from:
        send.line = body.get("from")
    return status, body


def _continuation(body: Json) -> str | None:
    value = body.get("continuation_message")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("continuation_message must be an object")
    return requests.text(value.get("text"), "continuation_message.text")


def _voice_memo(body: Json) -> Json:
    requests.media_source(body, "voice_memo_url")
    return {"parts": [{"type": "media", "url": body.get("voice_memo_url"), "attachment_id": body.get("attachment_id")}]}


def _parts(account: Account, message: Json) -> list[Json]:
    """The parts as they are stored: media with the facts of their file."""
    return [_media(account, part) if part["type"] == "media" else part for part in message.get("parts") or ()]


def _media(account: Account, part: Json) -> Json:
    key = part.get("attachment_id")
    if key is None:
        url = part["url"]
        name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        return {"type": "media"} | shapes.media(
            name, mimetypes.guess_type(name)[0] or "audio/x-m4a", 48211, url, new_id()
        )
    if key not in account.attachments:
        raise ApiError(404, 2001, "Attachment not found")
    of = account.attachments[key]
    return {"type": "media"} | shapes.media(of.filename, of.content_type, of.size_bytes, shapes.download_url(of), of.id)
