"""Every error as `application/problem+json` (RFC 9457). None repeats what the caller sent: it may name a recipient."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sendguard.errors import StoreUnavailable, UnknownLine
from sendguard.models import Decision, Reason
from sendguard.sidecar.models import FieldError, Problem

MEDIA_TYPE = "application/problem+json"
_FIELD_NAME = re.compile(r"[a-z_]{1,32}")
_OF_THE_BODY = {
    "json_invalid": "not readable as JSON",
    "model_attributes_type": "must be a JSON object, sent as application/json",
}


class InvalidField(Exception):
    """An argument that the guard does not take."""

    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = field, message
        super().__init__(message)


@contextmanager
def naming_the_field() -> Iterator[None]:
    """Turn the guard's ValueError, which starts with the argument's name, into an InvalidField."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise InvalidField(message.partition(" ")[0], message) from None


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    """A problem as a response. members: of `Problem`; what is None is left out."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, **members)
    return Response(body.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def denied(decision: Decision) -> Response:
    """A denial: 429 where waiting helps, 409 where it does not, 503 where nobody could decide."""
    if decision.reason is Reason.STORE_UNAVAILABLE:
        return out_of_reach(decision.decision_id)
    reason, wait = decision.reason.value, decision.retry_after
    return problem(
        409 if wait is None else 429,
        f"{reason}: waiting does not help" if wait is None else f"{reason}: ask again in {wait:.3f} s",
        None if wait is None else {"retry-after": str(max(1, math.ceil(wait)))},
        reason=decision.reason,
        retry_after=wait,
        decision_id=decision.decision_id,
        line_status=decision.status,
        line_health=decision.health,
    )


def out_of_reach(decision_id: str | None = None) -> Response:
    """The store did not answer."""
    return problem(
        503,
        "the store is out of reach",
        {"retry-after": "1"},
        reason=Reason.STORE_UNAVAILABLE,
        retry_after=1.0,
        decision_id=decision_id,
    )


def invalid(*errors: FieldError) -> Response:
    """A request that is not valid, field by field."""
    texts = [e.message if e.message.startswith(f"{e.field} ") else f"{e.field}: {e.message}" for e in errors]
    return problem(422, "; ".join(texts), errors=list(errors))


def _field_error(found: Mapping[str, Any]) -> FieldError:
    """A finding of the models, under the name of the top-level field, which is all of it that is not the caller's."""
    if found["type"] in _OF_THE_BODY:
        return FieldError(field="body", message=_OF_THE_BODY[found["type"]])
    where = [part for part in found["loc"][1:] if isinstance(part, str)]
    field = where[0] if where and _FIELD_NAME.fullmatch(where[0]) else "body"
    return FieldError(field=field, message="unknown field" if found["type"] == "extra_forbidden" else found["msg"])


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    by_field: dict[str, FieldError] = {}
    for found in map(_field_error, error.errors()):
        by_field.setdefault(found.field, found)
    return invalid(*by_field.values())


async def _on_invalid_field(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidField)
    return invalid(FieldError(field=error.field, message=error.message))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


async def _on_unknown_line(_: Request, __: Exception) -> Response:
    return problem(404, "the pool has no such line")


async def _on_store(_: Request, __: Exception) -> Response:
    return out_of_reach()


async def _on_anything(_: Request, __: Exception) -> Response:
    return problem(500, "the sidecar failed; its log says how")


def install(app: FastAPI) -> None:
    """Answer every error of an app with a problem."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(InvalidField, _on_invalid_field)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(UnknownLine, _on_unknown_line)
    app.add_exception_handler(StoreUnavailable, _on_store)
    app.add_exception_handler(Exception, _on_anything)
