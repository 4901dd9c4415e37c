"""What becomes of a request that sends, step by step, for the sync and the async transport alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import httpx

from sendguard.errors import LinqError, SendBlocked, StoreUnavailable
from sendguard.flows import Flows, number_of
from sendguard.linq.payloads import chat_line_and_recipients
from sendguard.middleware.memory import Recent
from sendguard.middleware.outcome import outcome_of, outcome_of_response
from sendguard.middleware.requests import (
    Route,
    attempt_of,
    chat_request,
    idempotency_key,
    json_object,
    same_send,
    with_body,
)
from sendguard.middleware.sending import quietly, settle, was_paid_before
from sendguard.models import Decision, Outcome, Reason
from sendguard.request import Chat, Request, draw_id
from sendguard.steps import Act, Flow

_CHATS, _CHAT_TTL = 100_000, 600.0
_RETRIES, _RETRY_TTL = 10_000, 600.0
_NUMBERS_TTL = 1.0
_FINAL = frozenset({Reason.OPTED_OUT, Reason.STORE_UNAVAILABLE})
"""Denials that no other line would lift."""


class Gate:
    """Decides, forwards and settles.

    forward: sends a request on and reads the response; a coroutine function for the async transport.
    """

    def __init__(
        self, flows: Flows, forward: Callable[[httpx.Request], Any], *, rewrite_from: bool, max_wait: float
    ) -> None:
        self._flows, self._forward = flows, forward
        self._protocol = flows.protocol
        self._rewrite_from, self._max_wait = rewrite_from, max_wait
        self._chats: Recent[Chat] = Recent(_CHATS, _CHAT_TTL)
        self._retries: Recent[str] = Recent(_RETRIES, _RETRY_TTL)
        self._numbers: Recent[frozenset[str]] = Recent(1, _NUMBERS_TTL)

    def handle(self, request: httpx.Request, route: Route) -> Flow[httpx.Response]:
        """The response to a request whose body has been read. Raises SendBlocked, and ValueError naming a field."""
        body = json_object(request.content)
        if body is None:
            return (yield from self._pass(request))
        try:
            return (yield from self._gated(request, body, route))
        except StoreUnavailable:
            raise SendBlocked(Decision(False, Reason.STORE_UNAVAILABLE)) from None

    def _gated(self, request: httpx.Request, body: dict[str, Any], route: Route) -> Flow[httpx.Response]:
        key = idempotency_key(request.headers, body)
        if key is None and attempt_of(request):
            key = self._retries.pop((same_send(request), attempt_of(request)))
        if route.call == "new_chat":
            return (yield from self._new_chat(request, body, key))
        if route.call == "auto_from":
            return (yield from self._auto_from(request, body, key))
        return (yield from self._into_chat(request, body, key, route))

    def _pass(self, request: httpx.Request) -> Flow[httpx.Response]:
        response: httpx.Response = yield Act(partial(self._forward, request))
        return response

    # POST /v3/chats --------------------------------------------------------------------------------------------------

    def _new_chat(self, request: httpx.Request, body: dict[str, Any], key: str | None) -> Flow[httpx.Response]:
        ask, requested = _request(body, key, from_number=body.get("from")), body.get("from")
        may_move = requested is not None and self._rewrite_from
        decision = yield from self._flows.choose(ask, 0.0 if may_move else self._max_wait)
        if may_move and not decision.allowed and decision.reason not in _FINAL:
            ask = ask._replace(from_number=None, decision_id=draw_id())
            decision = yield from self._flows.choose(ask, self._max_wait)
        number = number_of(decision)
        changed = request if number == requested else with_body(request, {**body, "from": number})
        response = yield from self._send(request, changed, ask, decision)
        if response.is_success:
            chat = (json_object(response.content) or {}).get("chat")
            self._learn(chat.get("id") if isinstance(chat, dict) else None, number, ask.recipients)
        return response

    # POST /v3/chats/{id}/messages, /voicememo ------------------------------------------------------------------------

    def _into_chat(
        self, request: httpx.Request, body: dict[str, Any], key: str | None, route: Route
    ) -> Flow[httpx.Response]:
        chat = self._chats.get(route.chat_id)
        if chat is None:
            chat = self._protocol.chat_of((yield from self._flows.run(self._protocol.chat(route.chat_id))))
        if chat is None:
            response = yield from self._pass(chat_request(request))
            if not response.is_success:
                return response  # what the API says of the chat is the answer: nothing was sent
            chat = self._read_chat(response)
            yield from quietly(self._flows.run(self._protocol.remember_chat(route.chat_id, chat)))
        self._chats.put(route.chat_id, chat)
        ask = Request.in_chat(chat, route.kind, key, override_optout=body.get("override_optout") is True)
        decision = yield from self._flows.choose(ask, self._max_wait)
        number_of(decision)
        response = yield from self._send(request, request, ask, decision)
        if response.status_code == 404:
            self._chats.pop(route.chat_id)
        return response

    def _read_chat(self, response: httpx.Response) -> Chat:
        found = chat_line_and_recipients(json_object(response.content))
        if found is None:
            raise LinqError("the answer to GET /v3/chats cannot be read: it names no line or no recipients")
        return self._protocol.chat_with(*found)

    # POST /v3/messages -----------------------------------------------------------------------------------------------

    def _auto_from(self, request: httpx.Request, body: dict[str, Any], key: str | None) -> Flow[httpx.Response]:
        excluded = body.get("exclude_from") or ()
        ask = _request(body, key, exclude=excluded)
        numbers = yield from self._all_numbers()
        decision = yield from self._flows.choose(ask, self._max_wait)
        number, changed = number_of(decision), request
        if self._protocol.policy.mode != "observe":
            # All but the line that was paid for: whichever other line the API picked would be sent on unpaid.
            others = {*excluded, *(numbers - {number})}
            changed = with_body(request, {**body, "exclude_from": sorted(others)}) if others else request
        response = yield from self._send(request, changed, ask, decision)
        if response.is_success:
            yield from self._picked(json_object(response.content) or {}, ask, decision)
        return response

    def _all_numbers(self) -> Flow[frozenset[str]]:
        numbers = self._numbers.get("")
        if numbers is None:
            numbers = frozenset(line.number for line in (yield from self._flows.lines()))
            self._numbers.put("", numbers)
        return numbers

    def _picked(self, answer: dict[str, Any], ask: Request, decision: Decision) -> Flow[None]:
        """Learn which line the API sent from; where it is another, that one pays."""
        number = answer.get("from")
        if not isinstance(number, str):
            return
        self._learn(answer.get("chat_id"), number, ask.recipients)
        if number != decision.from_number:
            yield from quietly(self._flows.report(decision, Outcome(False)))
            sent = ask._replace(from_number=number, place="sent", exclude=(), decision_id=draw_id())
            yield from self._flows.decide(sent)

    # All of them -----------------------------------------------------------------------------------------------------

    def _send(
        self, original: httpx.Request, request: httpx.Request, ask: Request, decision: Decision
    ) -> Flow[httpx.Response]:
        try:
            response = yield from self._pass(request)
        except BaseException as error:
            yield from self._settle(original, ask, decision, outcome_of(error))
            raise
        yield from self._settle(original, ask, decision, outcome_of_response(response))
        return response

    def _settle(self, original: httpx.Request, ask: Request, decision: Decision, outcome: Outcome) -> Flow[None]:
        yield from settle(self._flows, ask, decision, outcome)
        kept = outcome.sent is None or (outcome.sent is False and was_paid_before(ask, decision))
        if kept and idempotency_key(original.headers, json_object(original.content) or {}) is None:
            yield from self._expect_retry(original, ask, decision)

    def _expect_retry(self, original: httpx.Request, ask: Request, decision: Decision) -> Flow[None]:
        """The SDK may try this send again under the same decision, so that it pays once (law 8)."""
        key = ask.idempotency_key
        if key is None:
            key = draw_id()
            remember = self._protocol.remember_answer(decision, key)
            if remember is None:
                return
            yield from quietly(self._flows.run(remember))
        self._retries.put((same_send(original), attempt_of(original) + 1), key)

    def _learn(self, chat_id: object, number: str, recipients: Iterable[str]) -> None:
        if isinstance(chat_id, str):
            self._chats.put(chat_id, self._protocol.chat_with(number, recipients))


def _request(
    body: dict[str, Any], key: str | None, *, from_number: str | None = None, exclude: Iterable[str] = ()
) -> Request:
    ask = Request.of(body.get("to", ()), "chat", from_number, exclude, None, key)
    return ask._replace(override_optout=body.get("override_optout") is True)
