"""One question to the guard: a caller's arguments, checked and in one canonical form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from sendguard.linq.payloads import is_e164
from sendguard.models import SendKind

MAX_RECIPIENTS = 31
"""Handles in one `to` (POST /v3/chats)."""

_EMAIL = re.compile(r"[!-+\--?A-~]{1,64}@[!-+\--?A-~]{1,189}")


def draw_id() -> str:
    """A random id of 24 characters."""
    return os.urandom(12).hex()


_KINDS: dict[str, SendKind] = {kind.value: kind for kind in SendKind}


def check_number(name: str, number: object) -> str:
    """`number` if it is an E.164 phone number; else ValueError naming the argument."""
    if not isinstance(number, str) or not is_e164(number):
        raise ValueError(f"{name} must be an E.164 phone number such as +12025550101")
    return number


def check_recipients(to: str | Iterable[str]) -> tuple[str, ...]:
    """The recipients in one canonical order, e-mails in lower case, each once.

    Raises ValueError naming `to` if there is none, more than 31, or one that is neither E.164 nor an e-mail address.
    """
    if isinstance(to, str) and is_e164(to):
        return (to,)
    if isinstance(to, (bytes, bytearray)) or not isinstance(to, Iterable):
        raise ValueError("to must be a handle or an iterable of handles")
    handles = (to,) if isinstance(to, str) else to
    found: set[str] = set()
    for count, handle in enumerate(handles):
        if count >= 10 * MAX_RECIPIENTS:
            raise ValueError(f"to holds more than {MAX_RECIPIENTS} handles")
        if isinstance(handle, str) and is_e164(handle):
            found.add(handle)
        elif isinstance(handle, str) and _EMAIL.fullmatch(handle):
            found.add(handle.lower())
        else:
            raise ValueError("to must hold E.164 phone numbers or e-mail addresses")
    if not 1 <= len(found) <= MAX_RECIPIENTS:
        raise ValueError(f"to must hold from 1 to {MAX_RECIPIENTS} handles")
    return tuple(sorted(found))


def _check_exclude(exclude: Iterable[str]) -> tuple[str, ...]:
    if isinstance(exclude, tuple) and not exclude:
        return ()
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        raise ValueError("exclude must be an iterable of phone numbers")
    return tuple(check_number("exclude", number) for number in exclude)


class Chat(NamedTuple):
    """A chat of the API. line: the one it lives on; conversation: the digest of its recipients."""

    line: str
    conversation: str
    is_group: bool


class Request(NamedTuple):
    """One question to the guard, checked.

    place: "" where a conversation may start; "in_chat" where the send goes into a chat that lives on `from_number`;
    "sent" where it has left from there already and can only be counted. conversation: its digest, where it is known
    by no more than that. override_optout: the send may go to one who opted out.
    """

    recipients: tuple[str, ...]
    kind: SendKind
    from_number: str | None
    exclude: tuple[str, ...]
    line_type: str | None
    idempotency_key: str | None
    decision_id: str
    place: str = ""
    conversation: str = ""
    override_optout: bool = False

    @classmethod
    def of(
        cls,
        to: str | Iterable[str],
        kind: SendKind | str,
        from_number: str | None,
        exclude: Iterable[str],
        line_type: str | None,
        idempotency_key: str | None,
    ) -> Request:
        """Check a caller's arguments. Raises ValueError naming the one that is wrong."""
        excluded = _check_exclude(exclude)
        if line_type not in (None, "iMessage", "RCS"):
            raise ValueError("line_type must be 'iMessage', 'RCS' or None")
        if idempotency_key is not None and not (isinstance(idempotency_key, str) and 1 <= len(idempotency_key) <= 255):
            raise ValueError("idempotency_key must be 1 to 255 characters")
        send_kind = _KINDS.get(kind) if isinstance(kind, str) else None
        if send_kind is None:
            raise ValueError("kind must be 'chat' or 'voice_memo'")
        recipients = check_recipients(to)
        number = None if from_number is None else check_number("from_number", from_number)
        return cls(recipients, send_kind, number, excluded, line_type, idempotency_key, draw_id())

    @classmethod
    def in_chat(cls, chat: Chat, kind: SendKind, idempotency_key: str | None, *, override_optout: bool) -> Request:
        """A send into a chat, which cannot move to another line."""
        return cls(
            recipients=(),
            kind=kind,
            from_number=chat.line,
            exclude=(),
            line_type=None,
            idempotency_key=idempotency_key,
            decision_id=draw_id(),
            place="in_chat",
            conversation=chat.conversation,
            override_optout=override_optout or chat.is_group,
        )
