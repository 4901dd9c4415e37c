"""What a client sent, checked: each function returns the value or raises ApiError as the API would. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .model import ApiError, Json, invalid

_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_URL = re.compile(r"\b(?:https?://|www\.)\S", re.IGNORECASE)
_PART_VALUES = {"text": "value", "link": "value", "app_clip": "value", "imessage_app": "app", "media": None}
MOST_RECIPIENTS = 31
SERVICES = ("iMessage", "RCS", "SMS")


def json_object(raw: bytes) -> Json:
    """The body as an object that can be written out again; 1005 for anything else."""
    try:
        body = json.loads(raw, parse_constant=_no_constant)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise invalid("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise invalid("The request body must be a JSON object")
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def e164(value: Any, name: str) -> str:
    """A phone number; 1005 where it is no text, 1002 where it is not E.164."""
    if not isinstance(value, str):
        raise invalid(f"{name} is required and must be a string")
    if not _E164.fullmatch(value):
        raise ApiError(400, 1002, f"{name} must be a phone number in E.164 format")
    return value


def handles(value: Any) -> tuple[str, ...]:
    """`to`: one to 31 handles, as the sorted set that identifies a chat."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_RECIPIENTS:
        raise invalid(f"to must be a list of 1 to {MOST_RECIPIENTS} handles")
    return tuple(sorted({_handle(item) for item in value}))


def _handle(value: Any) -> str:
    if isinstance(value, str) and "@" in value and _EMAIL.fullmatch(value):
        return value
    return e164(value, "to")


def numbers(value: Any, name: str) -> tuple[str, ...]:
    """A list of phone numbers, empty where absent."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid(f"{name} must be a list")
    return tuple(e164(item, name) for item in value)


def flag(value: Any, name: str) -> bool:
    """A boolean, False where absent."""
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be a boolean")
    return bool(value)


def text(value: Any, name: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"{name} is required and must be a string")
    return value


def idempotency_key(value: Any) -> str | None:
    """A key of 1 to 255 characters, None where absent."""
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 255):
        raise invalid("idempotency_key must be a string of 1 to 255 characters")
    return value


def message(value: Any) -> Json:
    """A message: `parts`, or an `experience`, never both."""
    if not isinstance(value, dict):
        raise invalid("message is required and must be an object")
    if value.get("preferred_service") not in (None, *SERVICES):
        raise invalid(f"message.preferred_service must be one of {', '.join(SERVICES)}")
    parts, experience = value.get("parts"), value.get("experience")
    if isinstance(experience, dict) and parts is None:
        return value
    if experience is not None or not isinstance(parts, list) or not parts:
        raise invalid("message.parts must be a list of at least one part, or message.experience an object")
    for part in parts:
        _check_part(part)
    return value


def _check_part(part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PART_VALUES:
        raise invalid(f"message.parts: type must be one of {', '.join(_PART_VALUES)}")
    if kind == "media":
        media_source(part, "url")
    elif kind == "imessage_app":
        if not isinstance(part.get("app"), dict):
            raise invalid("message.parts: app is required and must be an object")
    else:
        text(part.get("value"), "message.parts: value")


def media_source(body: Json, url_name: str) -> None:
    """Check that exactly one of a web address and an attachment is named."""
    url, attachment = body.get(url_name), body.get("attachment_id")
    if (url is None) == (attachment is None):
        raise invalid(f"exactly one of {url_name} and attachment_id is required")
    if url is not None and not re.match(r"https?://\S+$", text(url, url_name)):
        raise invalid(f"{url_name} must be a web address")
    if attachment is not None:
        text(attachment, "attachment_id")


def has_link(checked: Json) -> bool:
    """True if a message holds a link part, or a text with a web address in it."""
    return any(
        part["type"] == "link" or (part["type"] == "text" and _URL.search(part["value"]))
        for part in checked.get("parts") or ()
    )
