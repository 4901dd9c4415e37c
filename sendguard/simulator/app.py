"""The API over HTTP: one Starlette application that hands each call to the account, and dresses what comes back."""

from __future__ import annotations

import asyncio
import hmac
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import requests, shapes, subscriptions
from .model import ApiError, Attachment, Faults, Generation, invalid, new_id
from .sending import Send, take
from .state import Account

BASE_PATH = "/api/partner"
_MOST_BYTES = 100 * 1024 * 1024

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Api:
    """What the handlers share: the account behind its lock, and the knobs."""

    account: Account
    lock: threading.RLock
    api_key: str
    generation: Generation
    faults: Faults
    dice: random.Random = field(default_factory=random.Random)

    def app(self) -> Starlette:
        """The application, to be served under any host."""
        routes = [
            self._route("GET", "/phone_numbers", self.phone_numbers),
            self._route("GET", "/phonenumbers", self.phone_numbers),
            self._route("GET", "/available_number", self.available_number),
            self._route("POST", "/phone_numbers/{number}/reputation_audit", self.start_audit),
            self._route("GET", "/phone_numbers/{number}/reputation_audit/{id}", self.read_audit),
            self._route("POST", "/chats", self.create_chat, sends=True),
            self._route("GET", "/chats/{id}", self.get_chat),
            self._route("POST", "/chats/{id}/messages", self.send_message, sends=True),
            self._route("POST", "/chats/{id}/voicememo", self.send_voice_memo, sends=True),
            self._route("POST", "/messages", self.create_message, sends=True),
            self._route("POST", "/attachments", self.create_attachment),
            self._route("GET", "/attachments/{id}", self.get_attachment),
            Route("/uploads/{id}", self.upload, methods=["PUT"]),
            self._route("GET", "/webhook-subscriptions", self.list_subscriptions),
            self._route("POST", "/webhook-subscriptions", self.create_subscription),
            self._route("GET", "/webhook-subscriptions/{id}", self.get_subscription),
            self._route("PUT", "/webhook-subscriptions/{id}", self.update_subscription),
            self._route("DELETE", "/webhook-subscriptions/{id}", self.delete_subscription),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_call, Exception: _broken})

    def _route(self, method: str, path: str, handler: Handler, *, sends: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if not sends:
                    self._admit(request)
                response = await handler(request)
            except ApiError as failure:
                response = _refusal(failure)
            await asyncio.sleep(self.dice.uniform(*self.faults.latency))
            return response

        return Route(f"{BASE_PATH}/v3{path}", endpoint, methods=[method])

    def _admit(self, request: Request) -> None:
        """Let an authorised call in, unless it is to fail before anything is created."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.api_key.encode()):
            raise ApiError(401, 2004, "Invalid or missing API key")
        if self.dice.random() < self.faults.fail_rate:
            raise ApiError(500, 3006, "Internal server error")

    # Sends

    async def create_chat(self, request: Request) -> Response:
        return await self._send(request, "chat")

    async def send_message(self, request: Request) -> Response:
        return await self._send(request, "chat")

    async def send_voice_memo(self, request: Request) -> Response:
        return await self._send(request, "voice_memo")

    async def create_message(self, request: Request) -> Response:
        return await self._send(request, "chat", auto_from=True)

    async def _send(
        self, request: Request, kind: Literal["chat", "voice_memo"], *, auto_from: bool = False
    ) -> Response:
        now = time.time()
        chat_id = request.path_params.get("id")
        send = Send(kind, {}, chat_id=chat_id, in_chat=chat_id is not None, auto_from=auto_from)
        send.key = request.headers.get("idempotency-key") if auto_from else None
        try:
            send.body = requests.json_object(await request.body())
        except ApiError as failure:
            send.refused = failure
        try:
            self._admit(request)
        except ApiError as failure:
            send.refused = failure
        with self.lock:
            lose_answer = self.dice.random() < self.faults.fail_after_rate
            status, body = take(self.account, send, now, lose_answer=lose_answer)
        return JSONResponse(body, status)

    # Reads

    async def phone_numbers(self, _: Request) -> Response:
        with self.lock:
            entries = [shapes.phone_number(line, self.generation) for line in self.account.lines.values()]
        return JSONResponse({"phone_numbers": entries})

    async def available_number(self, request: Request) -> Response:
        query = request.query_params
        to = _repeated(request, "to")
        excluded = requests.numbers(_repeated(request, "exclude_from"), "exclude_from")
        line_type = query.get("type")
        if line_type is not None and line_type.lower() not in ("rcs", "imessage"):
            raise invalid("type must be RCS or iMessage")
        recipients = requests.handles(to) if to else ()
        now = time.time()
        with self.lock:
            fit = [line.number for line in self.account.available(now, line_type) if line.number not in excluded]
            living = [chat.line for chat in self.account.chats_with(recipients) if chat.line in fit]
            line = self.account.lines[living[0]] if living else self.account.pick(excluded, now, line_type)
            line.used = self.account.next_order()
        vcf_url = f"https://cdn.linqapp.com/vcf/{line.number[1:]}.vcf?X-Amz-Expires=3600"
        return JSONResponse({"phone_number": line.number, "vcf_url": vcf_url})

    async def start_audit(self, request: Request) -> Response:
        with self.lock:
            line = self.account.lines.get(request.path_params["number"])
            if line is None:
                raise ApiError(403, 2006, "The number is not assigned to this account")
            return JSONResponse(self.account.audits.start(line, time.time()), 202)

    async def read_audit(self, request: Request) -> Response:
        number, audit_id = request.path_params["number"], request.path_params["id"]
        with self.lock:
            return JSONResponse(self.account.audits.read(number, audit_id, time.time()))

    async def get_chat(self, request: Request) -> Response:
        with self.lock:
            chat = self.account.chat(request.path_params["id"])
            return JSONResponse(shapes.chat(chat, opted_out=self.account.has_opted_out(chat)))

    # Attachments

    async def create_attachment(self, request: Request) -> Response:
        body = requests.json_object(await request.body())
        size = body.get("size_bytes")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MOST_BYTES:
            raise invalid(f"size_bytes must be a whole number from 1 to {_MOST_BYTES}")
        content_type = requests.text(body.get("content_type"), "content_type")
        if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", content_type, re.ASCII):
            raise invalid("content_type must be a media type")
        now = time.time()
        made = Attachment(new_id(), requests.text(body.get("filename"), "filename"), content_type, size, now)
        with self.lock:
            self.account.attachments[made.id] = made
        return JSONResponse(
            {
                "attachment_id": made.id,
                "download_url": shapes.download_url(made),
                "expires_at": shapes.iso(now + 900),
                "http_method": "PUT",
                "required_headers": {"Content-Type": made.content_type},
                "upload_url": str(request.base_url.replace(path=f"/uploads/{made.id}")),
            },
            201,
        )

    async def upload(self, request: Request) -> Response:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        with self.lock:
            found = self.account.attachments.get(request.path_params["id"])
            if found is None:
                return _refusal(ApiError(404, 2001, "Attachment not found"))
            found.uploaded, found.size_bytes = True, size
        return Response(status_code=200)

    async def get_attachment(self, request: Request) -> Response:
        with self.lock:
            found = self.account.attachments.get(request.path_params["id"])
            if found is None:
                raise ApiError(404, 2001, "Attachment not found")
            return JSONResponse(shapes.attachment(found))

    # Webhook subscriptions

    async def list_subscriptions(self, _: Request) -> Response:
        with self.lock:
            return JSONResponse({"subscriptions": subscriptions.listed(self.account)})

    async def create_subscription(self, request: Request) -> Response:
        body = requests.json_object(await request.body())
        with self.lock:
            return JSONResponse(subscriptions.create(self.account, body, time.time()), 201)

    async def get_subscription(self, request: Request) -> Response:
        with self.lock:
            return JSONResponse(subscriptions.get(self.account, request.path_params["id"]))

    async def update_subscription(self, request: Request) -> Response:
        body = requests.json_object(await request.body())
        with self.lock:
            return JSONResponse(subscriptions.update(self.account, request.path_params["id"], body, time.time()))

    async def delete_subscription(self, request: Request) -> Response:
        with self.lock:
            subscriptions.delete(self.account, request.path_params["id"])
        return Response(status_code=204)


def _repeated(request: Request, name: str) -> list[str]:
    """The values of a query parameter, given several times or, as linq-python does it, with commas between."""
    values = [item for value in request.query_params.getlist(name) for item in value.split(",")]
    return [item.replace(" ", "+") for item in values if item]


def _refusal(failure: ApiError) -> Response:
    headers = {} if failure.retry_after is None else {"Retry-After": str(failure.retry_after)}
    return JSONResponse(shapes.error(failure), failure.status, headers)


async def _no_such_call(_: Request, failure: Any) -> Response:
    return _refusal(ApiError(failure.status_code, 1005, str(failure.detail)))


async def _broken(_: Request, __: Exception) -> Response:
    return _refusal(ApiError(500, 3006, "Internal server error"))
