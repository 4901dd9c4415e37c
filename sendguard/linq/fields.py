"""Lenient field types for Linq's JSON: each takes any value, and reads one that it cannot use as not carried.

Linq adds and renames fields between generations (FACTS, "A line's state"), so no field's type may fail a payload.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

_MAX_STATE = 32
_NOT_STATE = re.compile(r"[^A-Za-z0-9_ -]")
_WORD = re.compile(r"[A-Za-z0-9_ -]{1,32}")
_IDENTIFIER = re.compile(r"[!-~]{1,128}")
_LETTER_OR_DIGIT = re.compile(r"[A-Z0-9]")


class Lenient(BaseModel):
    """The base of the payload models: unknown fields are ignored, instances are frozen."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def text(value: object) -> str | None:
    """A string that can be stored as UTF-8 and is not empty; None for anything else (JSON allows lone surrogates)."""
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def unix_time(value: object) -> float | None:
    """Unix seconds, to the microsecond, of an ISO 8601 time; without an offset it is UTC.

    None for anything else, and for times up to 1970: a zero time is how some encoders write "never".
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def state(value: object) -> str | None:
    """A status or health as upper-case text of at most 32 of `A-Z 0-9 _ - space`; None where it is null or "".

    Whatever else stands there was carried, so it stays a value that a guard counts as unknown. Characters outside the
    set become `_` rather than vanish, so that nothing but ACTIVE itself (in any case) can come out as ACTIVE.
    """
    if value is None or value == "":
        return None
    try:
        spelt = str(value).strip()
    except (RecursionError, ValueError):
        return "UNKNOWN"
    kept = _NOT_STATE.sub("_", spelt[:_MAX_STATE]).upper()
    return kept if _LETTER_OR_DIGIT.search(kept) else "UNKNOWN"


def word(value: object) -> str | None:
    """A short name as it is spelt; None for anything else."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def identifier(value: object) -> str | None:
    """An id or a name that can be kept and logged as it is: 1 to 128 printable ASCII characters; None otherwise."""
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None


def state_or_object(value: object) -> str | None:
    """As `state`, of a plain value or of the `status` of an object (FACTS: webhooks carry the one, polls the other)."""
    return state(value.get("status")) if isinstance(value, dict) else state(value)


def _json_object(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _json_objects(value: object) -> list[dict[Any, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


Text = Annotated[str | None, BeforeValidator(text)]
Word = Annotated[str | None, BeforeValidator(word)]
Identifier = Annotated[str | None, BeforeValidator(identifier)]
Truth = Annotated[bool, BeforeValidator(lambda value: value is True)]
UnixTime = Annotated[float | None, BeforeValidator(unix_time)]
State = Annotated[str | None, BeforeValidator(state)]
StateOrObject = Annotated[str | None, BeforeValidator(state_or_object)]
JsonObject = Annotated[Any, BeforeValidator(_json_object)]
AsObject = BeforeValidator(_json_object)
"""For a field that is a nested model: anything but an object reads as an empty one."""
AsObjects = BeforeValidator(_json_objects)
"""For a field that is a list of nested models: anything but objects is left out."""
