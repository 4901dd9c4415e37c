"""The guard under an HTTP client: the official SDK and plain httpx, judged by what reached the simulator."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import linq
import pytest
from linq import AsyncLinqAPIV3, LinqAPIV3

from sendguard import AsyncSendGuard, Health, LineStatus, Policy, Quota, Reason, SendBlocked, SendGuard
from sendguard.middleware.transport import AsyncSendGuardTransport, SendGuardTransport
from sendguard.simulator import Simulator
from tests.support import SECRET, standard_headers

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550101", "+14155550102"
HELLO: Any = {"parts": [{"type": "text", "value": "Hello"}]}
MEMO = "https://example.com/memo.m4a"


class Wire(httpx.BaseTransport):
    """Passes requests on, notes them, and fails as told: an exception before or after the request got through."""

    def __init__(self) -> None:
        self.inner = httpx.HTTPTransport()
        self.seen: list[httpx.Request] = []
        self.before: Any = []
        self.after: Any = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if self.before and (error := self.before.pop(0)):
            raise type(error)(str(error))
        response = self.inner.handle_request(request)
        if self.after and (error := self.after.pop(0)):
            response.close()
            raise type(error)(str(error))
        return response

    def close(self) -> None:
        self.inner.close()


class AsyncWire(httpx.AsyncBaseTransport):
    """`Wire` for asyncio."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.inner = wire, httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.wire.seen.append(request)
        if self.wire.before and (error := self.wire.before.pop(0)):
            raise type(error)(str(error))
        response = await self.inner.handle_async_request(request)
        if self.wire.after and (error := self.wire.after.pop(0)):
            await response.aclose()
            raise type(error)(str(error))
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator([A, B, C], webhook_secret=SECRET, seed=3) as simulator:
        yield simulator


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def guard(pool: str, store_url: str) -> Iterator[SendGuard]:
    url = f"memory://{pool}" if store_url == "memory://" else store_url
    with SendGuard(url, pool=pool, timeout=5, policy=Policy(pair=Quota(30, per=60))) as guard:
        for number in (A, B, C):
            guard.observe(number, status="ACTIVE", health="HEALTHY")
        yield guard


def volumes(guard: SendGuard) -> dict[str, int]:
    return {line.number: line.daily_volume for line in guard.lines() if line.daily_volume}


class Sdk:
    """The official SDK over the transport. `run(*steps)`: each is called with the client and what the last returned."""

    def __init__(self, simulator: Simulator, guard: SendGuard, wire: Wire, store: str) -> None:
        self.simulator, self.guard, self.wire, self.store = simulator, guard, wire, store

    def run(self, *steps: Callable[[Any, Any], Any], retries: int = 2, **options: Any) -> Any:
        with httpx.Client(transport=SendGuardTransport(self.guard, self.wire, **options)) as http:
            client = LinqAPIV3(**self.settings(retries), http_client=http)
            last = None
            for step in steps:
                last = step(client, last)
        return last

    def settings(self, retries: int) -> dict[str, Any]:
        return {"api_key": self.simulator.api_key, "base_url": self.simulator.base_url, "max_retries": retries}


class AsyncSdk(Sdk):
    """The same with the async SDK, transport and guard."""

    def run(self, *steps: Callable[[Any, Any], Any], retries: int = 2, **options: Any) -> Any:
        async def all_of_them() -> Any:
            policy = self.guard._flows.protocol.policy
            async with AsyncSendGuard(self.store, pool=self.guard.pool, timeout=5, policy=policy) as guard:
                transport = AsyncSendGuardTransport(guard, AsyncWire(self.wire), **options)
                async with httpx.AsyncClient(transport=transport) as http:
                    client = AsyncLinqAPIV3(**self.settings(retries), http_client=http)
                    last = None
                    for step in steps:
                        last = await step(client, last)
            return last

        return asyncio.run(all_of_them())


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (linq._base_client.SyncAPIClient, linq._base_client.AsyncAPIClient):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_: 0.0)


@pytest.fixture(params=[Sdk, AsyncSdk])
def sdk(request: pytest.FixtureRequest, simulator: Simulator, guard: SendGuard, wire: Wire, store_url: str) -> Sdk:
    store = f"memory://{guard.pool}" if store_url == "memory://" else store_url
    made: Sdk = request.param(simulator, guard, wire, store)
    return made


def create(line: str = A, to: Any = (ANN,), **more: Any) -> Callable[[Any, Any], Any]:
    return lambda client, _: client.chats.create(from_=line, to=list(to), message={**HELLO, **more})


def say(client: Any, chat: Any) -> Any:
    return client.chats.messages.send(chat.chat.id, message=HELLO)


def say_in(chat_id: str) -> Callable[[Any, Any], Any]:
    return lambda client, _: client.chats.messages.send(chat_id, message=HELLO)


def memo_in(chat_id: str) -> Callable[[Any, Any], Any]:
    return lambda client, _: client.chats.send_voicememo(chat_id, voice_memo_url=MEMO)


def anywhere(to: str = ANN, **more: Any) -> Callable[[Any, Any], Any]:
    return lambda client, _: client.messages.create(to=[to], message=HELLO, **more)


def lines_of(simulator: Simulator) -> list[str | None]:
    return [record.line for record in simulator.sends if record.accepted]


def test_a_chat_is_created_and_counted_once(sdk: Sdk, simulator: Simulator, guard: SendGuard) -> None:
    sdk.run(create(A), say)
    assert lines_of(simulator) == [A, A]
    assert volumes(guard) == {A: 2}
    assert guard.lines()[0].new_conversations == 1
    assert [r.url.path.endswith("/messages") for r in sdk.wire.seen] == [False, True], "the chat needed no GET"


def test_a_chat_from_a_flagged_line_is_moved_and_says_so(sdk: Sdk, simulator: Simulator, guard: SendGuard) -> None:
    guard.observe(A, status="FLAGGED")
    simulator.flip(A, status=LineStatus.FLAGGED)
    chat = sdk.run(create(A), say)
    assert lines_of(simulator) == [B, B]
    assert A not in volumes(guard)
    assert chat.chat_id


def test_a_chat_from_a_flagged_line_is_blocked_without_rewriting(sdk: Sdk, simulator: Simulator) -> None:
    sdk.guard.observe(A, status="FLAGGED")
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(create(A), rewrite_from=False)
    assert blocked.value.reason is Reason.FLAGGED
    assert simulator.sends == []
    assert volumes(sdk.guard) == {}


def test_a_blocked_send_is_asked_for_once_and_raises_its_own_error(sdk: Sdk) -> None:
    """Of the SDK's retries none sends, none spends, and none hides the error behind a lost connection."""
    sdk.guard.observe(A, health="CRITICAL")
    sdk.guard.report(sdk.guard.decide(ANN, from_number=B), "sent")
    sdk.guard.observe(B, status="FLAGGED")
    sdk.guard.observe(C, status="FLAGGED")
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(create(A, [BOB]), retries=5)
    assert blocked.value.reason is Reason.FLAGGED or blocked.value.reason is Reason.NEW_CONVERSATIONS
    assert sdk.wire.seen == []
    assert volumes(sdk.guard) == {B: 1}


def test_a_throttled_send_tells_when_to_come_back(sdk: Sdk, simulator: Simulator) -> None:
    for number in (A, B, C):
        sdk.guard.observe(number, health="AT_RISK")
        while sdk.guard.decide(BOB, from_number=number).allowed:
            pass
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(create(A))
    assert blocked.value.retry_after is not None
    assert simulator.sends == []


def test_a_message_into_a_chat_that_nobody_told_of_costs_one_get(sdk: Sdk, simulator: Simulator) -> None:
    chat_id = _old_chat(simulator)
    sdk.run(say_in(chat_id), say_in(chat_id), memo_in(chat_id))
    sdk.run(memo_in(chat_id))
    assert [r.method for r in sdk.wire.seen] == ["GET", "POST", "POST", "POST", "POST"], "the store remembers it"
    (line,) = (line for line in sdk.guard.lines() if line.daily_volume)
    assert (line.number, line.daily_volume, line.new_conversations) == (A, 4, 0), "an old chat is no new conversation"


def test_a_webhook_tells_of_a_chat(sdk: Sdk, simulator: Simulator) -> None:
    chat_id = _old_chat(simulator)
    news = json.dumps({
        "event_id": "evt-1",
        "event_type": "message.received",
        "created_at": "2026-01-01T00:00:00Z",
        "data": {
            "id": "m1",
            "chat": {"id": chat_id, "is_group": False, "owner_handle": {"handle": A, "is_me": True}},
            "direction": "inbound",
            "sender_handle": {"handle": ANN},
            "parts": [{"type": "text", "value": "Hi"}],
        },
    }).encode()  # fmt: skip
    with SendGuard(sdk.store, pool=sdk.guard.pool, webhook_secret=SECRET, timeout=5) as receiver:
        receiver.handle_webhook(news, standard_headers(news, time.time()))
    sdk.run(say_in(chat_id))
    assert [r.method for r in sdk.wire.seen] == ["POST"]


@pytest.mark.parametrize("send", [say_in, memo_in])
def test_a_send_into_a_chat_on_a_flagged_line_is_blocked(
    sdk: Sdk, simulator: Simulator, send: Callable[[str], Any]
) -> None:
    chat_id = _old_chat(simulator)
    sdk.guard.observe(A, status="FLAGGED")
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(send(chat_id))
    assert blocked.value.reason is Reason.FLAGGED
    assert len(simulator.sends) == 1, "only the chat's own beginning"


def test_a_weak_line_still_answers_in_its_chats(sdk: Sdk, simulator: Simulator) -> None:
    chat_id = _old_chat(simulator)
    sdk.guard.observe(A, health="AT_RISK")
    sdk.run(say_in(chat_id))
    assert lines_of(simulator) == [A, A]


def test_a_chat_that_the_api_does_not_know_is_the_apis_answer(sdk: Sdk) -> None:
    with pytest.raises(linq.NotFoundError):
        sdk.run(say_in("00000000-0000-4000-8000-000000000000"))
    assert [r.method for r in sdk.wire.seen] == ["GET"]


def test_auto_from_is_steered_to_the_line_that_pays(sdk: Sdk, simulator: Simulator) -> None:
    sdk.guard.observe(A, status="FLAGGED")
    sdk.guard.observe(B, health="CRITICAL")
    answer = sdk.run(anywhere(exclude_from=[A]), lambda client, _: client.messages.create(to=[BOB], message=HELLO))
    assert answer.from_ == C
    assert lines_of(simulator) == [C, C]
    assert volumes(sdk.guard) == {C: 2}
    bodies = [json.loads(r.content) for r in sdk.wire.seen]
    assert [body["exclude_from"] for body in bodies] == [[A, B], [A, B]]


def test_auto_from_checks_the_line_that_the_conversation_lives_on(sdk: Sdk, simulator: Simulator) -> None:
    sdk.run(create(A))
    sdk.guard.pause(A)
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(anywhere())
    assert blocked.value.reason is Reason.PAUSED
    assert lines_of(simulator) == [A]


def test_where_auto_from_picks_another_line_that_one_pays(sdk: Sdk, simulator: Simulator) -> None:
    _old_chat(simulator)  # the API keeps this conversation on A, of which the guard never heard
    sdk.guard.observe(A, health="AT_RISK")
    answer = sdk.run(anywhere())
    assert answer.from_ == A
    assert volumes(sdk.guard) == {A: 1}
    assert sdk.guard.decide(ANN).from_number == A, "the conversation is known now"


LOST = httpx.ReadTimeout("lost")
REFUSED = httpx.ConnectError("refused")


def test_a_retry_of_the_sdk_after_a_lost_answer_pays_once(sdk: Sdk) -> None:
    sdk.wire.after = [LOST, None]
    sdk.run(create(A))
    assert len(sdk.wire.seen) == 2
    assert volumes(sdk.guard) == {A: 1}


def test_a_retry_after_a_lost_answer_and_a_refused_connection_pays_once(sdk: Sdk) -> None:
    sdk.wire.before = [None, REFUSED, None]
    sdk.wire.after = [LOST]
    sdk.run(create(A))
    assert len(sdk.wire.seen) == 3
    assert volumes(sdk.guard) == {A: 1}, "the refused connection gave nothing back that the first attempt had used"


def test_what_never_left_is_given_back_and_its_retry_pays(sdk: Sdk) -> None:
    sdk.wire.before = [REFUSED, None]
    sdk.run(create(A))
    assert volumes(sdk.guard) == {A: 1}
    sdk.wire.before = [REFUSED] * 3
    with pytest.raises(linq.APIConnectionError):
        sdk.run(create(A))
    assert volumes(sdk.guard) == {A: 1}


def test_what_may_have_left_is_not_given_back(sdk: Sdk) -> None:
    sdk.wire.after = [LOST]
    with pytest.raises(linq.APITimeoutError):
        sdk.run(create(A), retries=0)
    assert volumes(sdk.guard) == {A: 1}


def test_a_retry_is_not_sent_on_a_line_flagged_meanwhile(sdk: Sdk) -> None:
    guard = sdk.guard

    class LostAndFlagged(list[Exception]):
        def pop(self, _: Any = -1) -> Exception:
            guard.observe(A, status="FLAGGED")
            return super().pop()

    sdk.wire.after = LostAndFlagged([LOST])
    with pytest.raises(SendBlocked):
        sdk.run(create(A), rewrite_from=False)
    assert len(sdk.wire.seen) == 1


def test_the_same_text_sent_twice_by_the_application_is_two(sdk: Sdk) -> None:
    sdk.run(create(A), create(A))
    assert volumes(sdk.guard) == {A: 2}
    assert len(sdk.wire.seen) == 2


def test_the_sdks_idempotency_key_is_the_guards(sdk: Sdk) -> None:
    sdk.run(create(A, idempotency_key="order-1"), create(A, idempotency_key="order-1"))
    assert volumes(sdk.guard) == {A: 1}
    again = sdk.guard.decide(ANN, idempotency_key="order-1")
    assert volumes(sdk.guard) == {A: 1}
    assert again.from_number == A


def test_the_idempotency_header_is_the_guards(sdk: Sdk) -> None:
    header = {"Idempotency-Key": "order-2"}
    sdk.run(anywhere(extra_headers=header), anywhere(extra_headers=header))
    assert sum(volumes(sdk.guard).values()) == 1


def test_2027_cools_the_line_down_for_every_process(sdk: Sdk, simulator: Simulator) -> None:
    simulator.make_ineligible(A, until=time.time() + 60)
    with pytest.raises(linq.PermissionDeniedError):
        sdk.run(create(A))
    assert volumes(sdk.guard) == {}
    assert sdk.guard.decide(ANN, from_number=A).reason is Reason.COOLING_DOWN
    sdk.run(create(A))
    assert lines_of(simulator) == [B]


def test_2006_releases_the_line(sdk: Sdk, simulator: Simulator) -> None:
    simulator.release(A)
    with pytest.raises(linq.PermissionDeniedError):
        sdk.run(create(A))
    assert A not in {line.number for line in sdk.guard.lines()}


def test_2024_holds_all_sends_to_one_who_opted_out(sdk: Sdk, simulator: Simulator) -> None:
    sdk.run(create(A))
    simulator.receive(ANN, A, "STOP")
    with pytest.raises(linq.PermissionDeniedError):
        sdk.run(create(A))
    assert len(sdk.wire.seen) == 2
    with pytest.raises(SendBlocked) as blocked:
        sdk.run(create(A))
    assert blocked.value.reason is Reason.OPTED_OUT
    assert len(sdk.wire.seen) == 2
    sdk.run(lambda client, _: client.chats.create(from_=A, to=[ANN], message=HELLO, override_optout=True))
    assert lines_of(simulator) == [A, A], "the API's own way past an opt-out is the caller's to take"


def test_1007_closes_the_pair_until_it_may_write_again(pool: str, simulator: Simulator, wire: Wire) -> None:
    with SendGuard(f"memory://{pool}", pool=pool, timeout=5, policy=Policy(pair=Quota(100, per=60))) as guard:
        guard.observe(A, status="ACTIVE")
        sdk = Sdk(simulator, guard, wire, f"memory://{pool}")
        sdk.run(create(A), *[say_again] * 29)
        with pytest.raises(linq.RateLimitError):
            sdk.run(create(A), retries=0)
        told = guard.decide(ANN, from_number=A)
        assert told.reason is Reason.PAIR
        assert told.retry_after == pytest.approx(60, abs=15)
        assert guard.decide(BOB, from_number=A).allowed


def say_again(client: Any, last: Any) -> Any:
    client.chats.messages.send(last.chat.id, message=HELLO)
    return last


def test_a_server_error_leaves_all_as_it_is(sdk: Sdk, simulator: Simulator) -> None:
    simulator.faults.fail_rate = 1.0
    with pytest.raises(linq.InternalServerError):
        sdk.run(create(A))
    assert len(sdk.wire.seen) == 3
    assert volumes(sdk.guard) == {A: 1}
    assert guard_stands(sdk.guard)


def guard_stands(guard: SendGuard) -> bool:
    return all(line.health is Health.HEALTHY and line.cooling_down_until is None for line in guard.lines())


def test_what_does_not_send_passes_untouched(sdk: Sdk) -> None:
    for number in (A, B, C):
        sdk.guard.observe(number, status="FLAGGED")
    found = sdk.run(lambda client, _: client.phone_numbers.list())
    assert len(found.phone_numbers) == 3


def test_streaming_bodies_pass_untouched(guard: SendGuard) -> None:
    """Neither a request nor an answer that does not send is read on its way."""
    pulled: list[str] = []

    def pieces() -> Iterator[bytes]:
        pulled.append("request")
        yield b"x" * 10

    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            pulled.append("response")
            yield b"y"

    class Inner(httpx.BaseTransport):
        def handle_request(self, _: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Stream())

    with (
        httpx.Client(transport=SendGuardTransport(guard, Inner())) as client,
        client.stream("POST", "https://example.com/v3/attachments", content=pieces()) as response,
    ):
        assert pulled == []
        assert response.read() == b"y"


def test_plain_httpx_raises_the_guards_error(simulator: Simulator, guard: SendGuard) -> None:
    guard.observe(A, status="FLAGGED")
    transport = SendGuardTransport(guard, rewrite_from=False)
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    with httpx.Client(transport=transport, base_url=simulator.base_url, headers=headers) as client:
        with pytest.raises(SendBlocked):
            client.post("/v3/chats", json={"from": A, "to": [ANN], "message": HELLO})
        answer = client.post("/v3/chats", json={"from": B, "to": [ANN], "message": HELLO})
    assert answer.status_code == 201
    assert lines_of(simulator) == [B]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"from": A, "to": [], "message": HELLO}, "to"),
        ({"from": A, "message": HELLO}, "to"),
        ({"from": A, "to": ["12345"], "message": HELLO}, "to"),
        ({"from": A, "to": 7, "message": HELLO}, "to"),
        ({"from": A, "to": [f"+1415555{i:04d}" for i in range(1000)], "message": HELLO}, "to"),
        ({"from": 7, "to": [ANN], "message": HELLO}, "from_number"),
    ],
)
def test_bad_values_name_the_field_and_send_nothing(
    body: Any, field: str, simulator: Simulator, guard: SendGuard
) -> None:
    with (
        httpx.Client(transport=SendGuardTransport(guard), base_url=simulator.base_url) as client,
        pytest.raises(ValueError, match=rf"^{field} "),
    ):
        client.post("/v3/chats", json=body)
    assert simulator.sends == []
    assert volumes(guard) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_the_apis_to_refuse(content: bytes, simulator: Simulator, guard: SendGuard) -> None:
    headers = {"Authorization": f"Bearer {simulator.api_key}", "Content-Type": "application/json"}
    transport = SendGuardTransport(guard)
    with httpx.Client(transport=transport, base_url=simulator.base_url, headers=headers) as client:
        assert client.post("/v3/chats", content=content).status_code == 400
    assert volumes(guard) == {}


def test_a_store_out_of_reach_blocks_every_way_of_sending(simulator: Simulator, wire: Wire) -> None:
    with SendGuard("redis://127.0.0.1:1/0", timeout=0.1) as guard:
        sdk = Sdk(simulator, guard, wire, "")
        for send in (create(A), say_in("chat-1"), memo_in("chat-1"), anywhere()):
            with pytest.raises(SendBlocked) as blocked:
                sdk.run(send)
            assert blocked.value.reason is Reason.STORE_UNAVAILABLE
    assert wire.seen == []


def test_observe_mode_changes_no_request(pool: str, simulator: Simulator, wire: Wire) -> None:
    store = f"memory://{pool}"
    with SendGuard(store, pool=pool, timeout=5, policy=Policy(mode="observe")) as guard:
        for number in (A, B, C):
            guard.observe(number, status="FLAGGED")
        sdk = Sdk(simulator, guard, wire, store)
        sdk.run(create(A), say)
        sdk.run(anywhere(BOB))
    assert [json.loads(r.content).get("exclude_from") for r in wire.seen] == [None, None, None]
    assert lines_of(simulator)[:2] == [A, A]


def _old_chat(simulator: Simulator) -> str:
    """A chat of A and ANN that began before there was a guard."""
    with httpx.Client() as http:
        client = LinqAPIV3(api_key=simulator.api_key, base_url=simulator.base_url, http_client=http)
        return client.chats.create(from_=A, to=[ANN], message=HELLO).chat.id
