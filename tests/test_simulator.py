"""The simulator over real HTTP: the official SDK against it, and its webhooks into a receiver of our own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import linq
import pytest
from linq import AsyncLinqAPIV3, LinqAPIV3
from standardwebhooks import Webhook

from sendguard.models import Health, LineStatus
from sendguard.simulator import HealthModel, Simulator

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB = "+14155550123", "+14155550124"
SECRET = "whsec_" + base64.b64encode(b"simulator-test-secret-0123456789").decode()
HELLO: Any = {"parts": [{"type": "text", "value": "Hello"}]}
PAYLOADS = Path(__file__).parent / "payloads"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator([A, B, C], webhook_secret=SECRET) as running:
        running.delivery.retry_scale = 0.001
        yield running


@pytest.fixture
def client(sim: Simulator) -> Iterator[LinqAPIV3]:
    with LinqAPIV3(base_url=sim.base_url, api_key=sim.api_key, max_retries=0) as made:
        yield made


class Receiver:
    """An HTTP server that keeps what it is sent and answers what `answer` says."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[int], int] = lambda _: 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.answer(len(receiver.got)))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def start_chat(client: LinqAPIV3, line: str = A, to: str = ANN, **more: Any) -> Any:
    return client.chats.create(from_=line, to=[to], message=HELLO, **more).chat


def refusal(call: Callable[[], object]) -> tuple[int, int, httpx.Response]:
    with pytest.raises(linq.APIStatusError) as caught:
        call()
    body = caught.value.response.json()
    assert body["success"] is False
    assert body["trace_id"]
    assert body["error"]["status"] == caught.value.status_code
    return caught.value.status_code, body["error"]["code"], caught.value.response


def shape(value: Any) -> Any:
    """The keys and types of some JSON, None matching whatever."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def sample(name: str) -> Any:
    return json.loads((PAYLOADS / name).read_text())


# The SDK, unchanged


def test_sdk_lists_lines_and_none_carries_a_status(sim: Simulator, client: LinqAPIV3) -> None:
    sim.flip(B, status="FLAGGED", health="CRITICAL")
    lines = client.phone_numbers.list().phone_numbers
    assert [(line.phone_number, line.reputation.status) for line in lines] == [
        (A, "HEALTHY"),
        (B, "CRITICAL"),
        (C, "HEALTHY"),
    ]
    assert lines[0].line_type == "iMessage"
    assert "FLAGGED" not in client.phone_numbers.with_raw_response.list().text()


@pytest.mark.parametrize("generation", ["plain", "health_status", "both", "reputation"])
def test_each_generation_of_the_poll_has_the_shape_of_its_payload(sim: Simulator, generation: Any) -> None:
    sim.generation = generation
    answer = httpx.get(f"{sim.base_url}/v3/phone_numbers", headers={"Authorization": f"Bearer {sim.api_key}"}).json()
    assert shape(answer["phone_numbers"][0]) == shape(sample(f"phone_numbers.{generation}.json")["phone_numbers"][0])


def test_sdk_creates_a_chat_sends_into_it_and_reads_it(sim: Simulator, client: LinqAPIV3) -> None:
    chat = start_chat(client)
    assert [(handle.handle, handle.is_me) for handle in chat.handles] == [(A, True), (ANN, False)]
    assert (chat.is_group, chat.service, chat.health_status.status) == (False, "iMessage", "HEALTHY")
    assert (chat.message.parts[0].value, chat.message.delivery_status) == ("Hello", "pending")
    assert chat.message.created_at.timestamp() == pytest.approx(time.time(), abs=30)

    sent = client.chats.messages.send(chat.id, message={"parts": [{"type": "link", "value": "https://example.com"}]})
    assert (sent.chat_id, sent.message.parts[0].type) == (chat.id, "link")
    read = client.chats.retrieve(chat.id)
    assert (read.id, read.is_archived) == (chat.id, False)
    first, second = sim.sends
    assert (first.line, first.recipients, first.kind, first.new_conversation) == (A, (ANN,), "chat", True)
    assert (second.line, second.chat_id, second.new_conversation, second.accepted) == (A, chat.id, False, True)
    assert (first.line_status, first.line_health) == (LineStatus.ACTIVE, Health.HEALTHY)


def test_answers_have_the_shapes_of_the_payloads(client: LinqAPIV3) -> None:
    raw = client.chats.with_raw_response.create(from_=A, to=[BOB], message=HELLO)
    assert raw.status_code == 201
    assert shape(json.loads(raw.text())) == shape(sample("chats.create.response.json"))
    chat_id = raw.parse().chat.id
    got = json.loads(client.chats.with_raw_response.retrieve(chat_id).text())
    assert shape(got) == shape(sample("chats.get.response.json"))
    memo = client.chats.with_raw_response.send_voicememo(chat_id, voice_memo_url="https://example.com/memo.m4a")
    assert memo.status_code == 202
    assert shape(json.loads(memo.text())) == shape(sample("voicememo.response.json"))


def test_repeating_from_and_to_reuses_the_chat_in_any_order(sim: Simulator, client: LinqAPIV3) -> None:
    one = client.chats.create(from_=A, to=[ANN, "bob@example.com"], message=HELLO).chat
    link: Any = {"parts": [{"type": "text", "value": "see https://example.com"}]}
    two = client.chats.create(from_=A, to=["bob@example.com", ANN], message=link).chat
    assert one.id == two.id
    assert one.is_group
    assert [record.new_conversation for record in sim.sends] == [True, False]


def test_voice_memo_by_url_and_by_attachment(sim: Simulator, client: LinqAPIV3) -> None:
    chat = start_chat(client)
    memo = client.chats.send_voicememo(chat.id, voice_memo_url="https://example.com/a/memo.m4a").voice_memo
    assert (memo.from_, memo.to, memo.chat.id, memo.status) == (A, [ANN], chat.id, "queued")
    made = client.attachments.create(content_type="audio/x-m4a", filename="memo.m4a", size_bytes=4)
    put = httpx.put(made.upload_url, content=b"abcd", headers=made.required_headers)
    assert (made.http_method, put.status_code) == ("PUT", 200)
    assert client.attachments.retrieve(made.attachment_id).status == "complete"
    again = client.chats.send_voicememo(chat.id, attachment_id=made.attachment_id).voice_memo
    assert (again.voice_memo.filename, again.voice_memo.size_bytes) == ("memo.m4a", 4)
    assert [record.kind for record in sim.sends] == ["chat", "voice_memo", "voice_memo"]
    assert refusal(lambda: client.chats.send_voicememo(chat.id))[:2] == (400, 1005)
    assert refusal(lambda: client.chats.send_voicememo(chat.id, attachment_id="nope"))[0] == 404


def test_auto_from_is_new_then_sticky_then_fails_over(sim: Simulator, client: LinqAPIV3) -> None:
    sim.flip(A, health="AT_RISK")
    first = client.messages.create(to=[ANN], message=HELLO, exclude_from=[B])
    assert (first.from_, first.from_selection.reason, first.created_new_chat) == (C, "new_best_number", True)
    again = client.messages.create(to=[ANN], message=HELLO, exclude_from=[C])
    assert (again.from_, again.from_selection.reason) == (C, "reused_active_chat")
    sim.flip(C, status="FLAGGED")
    moved = client.messages.create(to=[ANN], message=HELLO, continuation_message={"text": "New number"})
    assert (moved.from_, moved.from_selection.reason) == (B, "failover_flagged")
    assert moved.previous_chat_id == first.chat_id
    assert moved.message.parts[0].value == "New number"  # type: ignore[union-attr]
    assert all(record.auto_from and record.accepted for record in sim.sends)


def test_auto_from_without_a_line(sim: Simulator, client: LinqAPIV3) -> None:
    create = client.messages.create
    assert refusal(lambda: create(to=[ANN], message=HELLO, exclude_from=[A, B, C]))[:2] == (400, 1005)
    for line in (A, B, C):
        sim.make_ineligible(line, math.inf)
    assert refusal(lambda: create(to=[ANN], message=HELLO))[:2] == (409, 2015)
    assert [record.accepted for record in sim.sends] == [False, False]


def test_available_number(sim: Simulator, client: LinqAPIV3) -> None:
    numbers = [client.available_number.retrieve().phone_number for _ in range(4)]
    assert numbers == [A, B, C, A]
    start_chat(client, B)
    assert client.available_number.retrieve(to=[ANN]).phone_number == B
    assert client.available_number.retrieve(to=[ANN], exclude_from=[B, C]).phone_number == A
    assert refusal(lambda: client.available_number.retrieve(exclude_from=[A, B, C]))[0] == 400
    assert refusal(lambda: client.available_number.retrieve(type="RCS"))[0] == 503
    sim.assign("+12025550104", line_type="RCS")
    assert client.available_number.retrieve(type="RCS").phone_number == "+12025550104"


def test_async_sdk(sim: Simulator) -> None:
    async def session() -> tuple[Any, Any]:
        async with AsyncLinqAPIV3(base_url=sim.base_url, api_key=sim.api_key, max_retries=0) as client:
            chats = await asyncio.gather(
                *(client.chats.create(from_=A, to=[f"+1415555{i:04d}"], message=HELLO) for i in range(20))
            )
            return chats, await client.phone_numbers.list()

    chats, lines = asyncio.run(session())
    assert len({each.chat.id for each in chats}) == len(sim.sends) == 20
    assert len(lines.phone_numbers) == 3


# Refusals


def test_wrong_key(sim: Simulator) -> None:
    with LinqAPIV3(base_url=sim.base_url, api_key="wrong", max_retries=0) as client:
        assert refusal(client.phone_numbers.list)[:2] == (401, 2004)
        assert refusal(lambda: start_chat(client))[:2] == (401, 2004)
    assert [(record.accepted, record.error_code, record.line) for record in sim.sends] == [(False, 2004, A)]


def test_flagged_and_ineligible_lines_refuse_every_kind_of_send(sim: Simulator, client: LinqAPIV3) -> None:
    chat = start_chat(client)
    sim.flip(A, status=LineStatus.FLAGGED)
    assert refusal(lambda: start_chat(client, to=BOB))[:2] == (403, 2027)
    assert refusal(lambda: client.chats.messages.send(chat.id, message=HELLO))[:2] == (403, 2027)
    assert refusal(lambda: client.chats.send_voicememo(chat.id, voice_memo_url="https://x.io/m.m4a"))[:2] == (403, 2027)
    assert [record.error_code for record in sim.sends_to_flagged()] == [2027] * 3
    assert client.chats.retrieve(chat.id).id == chat.id
    sim.flip(A, status="ACTIVE")
    sim.make_ineligible(A, time.time() + 3600)
    assert refusal(lambda: start_chat(client, to=BOB))[:2] == (403, 2027)
    sim.make_ineligible(A, time.time() - 1)
    assert start_chat(client, to=BOB).id
    assert len(sim.sends_to_flagged()) == 3


@pytest.mark.parametrize("word", ["STOP", " QUIT\n", "opt-out", "Opt Out", "OPTOUT"])
def test_opt_out_holds_single_chats_until_they_write(sim: Simulator, client: LinqAPIV3, word: str) -> None:
    sim.receive(ANN, A, word)
    for line in (A, B):
        assert refusal(lambda line=line: start_chat(client, line))[:2] == (403, 2024)
    assert refusal(lambda: client.messages.create(to=[ANN], message=HELLO))[:2] == (403, 2024)
    assert start_chat(client, override_optout=True).health_status.status == "OPTED_OUT"
    assert client.chats.create(from_=A, to=[ANN, BOB], message=HELLO).chat.is_group
    sim.receive(ANN, B, "stop it, hello")
    assert start_chat(client).health_status.status == "HEALTHY"


def test_pair_limit_is_thirty_in_a_minute(sim: Simulator, client: LinqAPIV3) -> None:
    chat = start_chat(client)
    for _ in range(29):
        client.chats.messages.send(chat.id, message=HELLO)
    status, code, response = refusal(lambda: client.chats.messages.send(chat.id, message=HELLO))
    assert (status, code) == (429, 1007)
    wait = response.json()["error"]["retry_after"]
    assert 0 < wait <= 60
    assert response.headers["Retry-After"] == str(wait)
    assert shape(response.json()) == shape(sample("error.429.1007.json"))
    assert start_chat(client, B).id
    assert start_chat(client, A, BOB).id
    assert [record.error_code for record in sim.sends if not record.accepted] == [1007]


def test_values_that_are_wrong(sim: Simulator, client: LinqAPIV3) -> None:
    create = client.chats.create
    assert refusal(lambda: create(from_="+12025559999", to=[ANN], message=HELLO))[:2] == (403, 2006)
    assert refusal(lambda: create(from_="2025550101", to=[ANN], message=HELLO))[:2] == (400, 1002)
    assert refusal(lambda: create(from_=A, to=["4155550123"], message=HELLO))[:2] == (400, 1002)
    assert refusal(lambda: create(from_=A, to=[], message=HELLO))[:2] == (400, 1005)
    assert refusal(lambda: create(from_=A, to=[ANN] * 32, message=HELLO))[:2] == (400, 1005)
    assert refusal(lambda: create(from_=A, to=[ANN], message={"parts": []}))[:2] == (400, 1005)
    for part in ({"type": "link", "value": "https://a.io"}, {"type": "text", "value": "go to https://a.io now"}):
        assert refusal(lambda part=part: create(from_=A, to=[ANN], message={"parts": [part]}))[:2] == (400, 1005)
    assert refusal(lambda: client.chats.messages.send("nope", message=HELLO))[:2] == (404, 2001)
    assert refusal(lambda: client.chats.retrieve("nope"))[:2] == (404, 2001)
    assert create(from_=A, to=["ann@example.com"], message=HELLO).chat.id
    assert [record.accepted for record in sim.sends] == [False] * 9 + [True]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"from": NaN}',
        b"[" * 100_000,
        b'{"from": 1, "to": {}, "message": []}',
        b'{"from": "+12025550101", "to": [{}], "message": {"parts": [1]}}',
        b'{"from": "+12025550101", "to": ["+14155550123"], "message": {"parts": [{"type": {}}]}}',
        b'{"from": "+12025550101", "to": ["+14155550123"], '
        b'"message": {"parts": [{"type": "text", "value": "\\ud800"}]}}',
        b'{"from": "+12025550101", "to": ["+14155550123"], "override_optout": "x", '
        b'"message": {"parts": [{"type": "text", "value": "a"}]}}',
    ],
)
@pytest.mark.parametrize("path", ["chats", "messages", "chats/x/voicememo", "webhook-subscriptions", "attachments"])
def test_malformed_bodies_are_400_1005(sim: Simulator, path: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {sim.api_key}", "Content-Type": "application/json"}
    answer = httpx.post(f"{sim.base_url}/v3/{path}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1005)
    assert len(sim.sends) == (0 if path in ("webhook-subscriptions", "attachments") else 1)


def test_unknown_call_has_the_envelope(sim: Simulator) -> None:
    assert httpx.get(f"{sim.base_url}/v3/nothing").json()["success"] is False
    assert httpx.delete(f"{sim.base_url}/v3/phone_numbers").status_code == 405


# Idempotency and faults


def test_an_idempotency_key_sends_once(sim: Simulator, client: LinqAPIV3) -> None:
    keyed: Any = HELLO | {"idempotency_key": "job-7"}
    one = client.chats.create(from_=A, to=[ANN], message=keyed).chat
    two = client.chats.create(from_=A, to=[ANN], message=keyed).chat
    assert one.message.id == two.message.id
    first = client.messages.create(to=[BOB], message=HELLO, idempotency_key="job-8")
    assert client.messages.create(to=[BOB], message=HELLO, idempotency_key="job-8") == first
    assert [record.idempotency_key for record in sim.sends] == ["job-7", "job-8"]
    assert [record.idempotency_key for record in sim.replays] == ["job-7", "job-8"]


def test_a_refused_send_does_not_use_up_its_key(sim: Simulator, client: LinqAPIV3) -> None:
    keyed: Any = HELLO | {"idempotency_key": "job-9"}
    sim.flip(A, status="FLAGGED")
    refusal(lambda: client.chats.create(from_=A, to=[ANN], message=keyed))
    sim.flip(A, status="ACTIVE")
    assert client.chats.create(from_=A, to=[ANN], message=keyed).chat.id
    assert [record.accepted for record in sim.sends] == [False, True]


def test_faults_before_and_after(sim: Simulator, client: LinqAPIV3) -> None:
    sim.faults.fail_rate = 1.0
    assert refusal(lambda: start_chat(client))[:2] == (500, 3006)
    assert refusal(client.phone_numbers.list)[:2] == (500, 3006)
    sim.faults.fail_rate, sim.faults.fail_after_rate = 0.0, 1.0
    keyed: Any = HELLO | {"idempotency_key": "job-1"}
    assert refusal(lambda: client.chats.create(from_=A, to=[ANN], message=keyed))[:2] == (500, 3006)
    sim.faults.fail_after_rate = 0.0
    assert client.chats.create(from_=A, to=[ANN], message=keyed).chat.message.id == sim.sends[1].message_id
    assert [(record.accepted, record.error_code) for record in sim.sends] == [(False, 3006), (True, 3006)]


def test_latency_holds_the_answer_back_after_the_effect(sim: Simulator, client: LinqAPIV3) -> None:
    sim.faults.latency = (0.2, 0.2)
    began = time.time()
    start_chat(client)
    assert time.time() - began >= 0.2
    assert sim.sends[0].at - began < 0.2


# Webhooks


def test_both_signatures_verify(sim: Simulator, receiver: Receiver, client: LinqAPIV3) -> None:
    sim.subscribe(receiver.url)
    event_id = sim.flip(A, status="FLAGGED", health="CRITICAL")
    assert sim.drain(5)
    headers, body = receiver.got[0]
    assert Webhook(SECRET).verify(body, headers)["event_id"] == event_id
    event = client.webhooks.unwrap(body.decode(), headers=headers, key=SECRET)
    assert event.event_type == "phone_number.status_updated"
    low = {name.lower(): value for name, value in headers.items()}
    assert (low["webhook-id"], low["x-webhook-event"]) == (event_id, "phone_number.status_updated")
    signed = low["x-webhook-timestamp"].encode() + b"." + body
    assert low["x-webhook-signature"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    (delivery,) = sim.deliveries
    assert (delivery.event_id, delivery.attempt, delivery.status) == (event_id, 1, 204)
    assert delivery.acknowledged_at is not None
    assert delivery.payload == json.loads(body)


@pytest.mark.parametrize("generation", ["status_only", "health_status", "both", "reputation"])
def test_each_generation_of_the_status_webhook(sim: Simulator, receiver: Receiver, generation: Any) -> None:
    sim.webhook_generation = generation
    sim.subscribe(receiver.url)
    sim.flip(A, health="AT_RISK")
    sim.flip(A, status="FLAGGED", health="CRITICAL")
    assert sim.drain(5)
    data = max((event["data"] for event in receiver.events()), key=lambda data: data["changed_at"])
    expected = sample(f"status_updated.{generation}.json")["data"]
    assert data | {"changed_at": ""} == expected | {"changed_at": ""}


def test_changed_at_rises_strictly(sim: Simulator) -> None:
    for step in range(50):
        sim.flip(A, health=("AT_RISK", "HEALTHY")[step % 2])
    times = [event.data["changed_at"] for event in sim.events]
    assert times == sorted(set(times))
    assert len(times) == 50


def test_events_of_a_conversation(sim: Simulator, receiver: Receiver, client: LinqAPIV3) -> None:
    sim.subscribe(receiver.url, events=["chat.created", "message.sent", "message.received", "message.failed"])
    keyed: Any = HELLO | {"idempotency_key": "job-7"}
    chat = client.chats.create(from_=A, to=[ANN], message=keyed).chat
    sim.receive(ANN, A, "STOP")
    sim.fail_message(chat.message.id)
    sim.flip(A, health="AT_RISK")
    assert sim.drain(5)
    by_type = {event["event_type"]: event for event in receiver.events()}
    assert set(by_type) == {"chat.created", "message.sent", "message.received", "message.failed"}
    assert shape(by_type["message.sent"]) == shape(sample("message.sent.json"))
    assert shape(by_type["message.received"]) == shape(sample("message.received.stop.json"))
    assert by_type["message.received"]["data"]["sender_handle"]["handle"] == ANN
    assert by_type["message.failed"]["data"]["code"] == 4002
    assert by_type["message.failed"]["data"]["message_id"] == chat.message.id
    for headers, body in receiver.got:
        assert client.webhooks.unwrap(body.decode(), headers=headers, key=SECRET).event_id


def test_assign_and_release(sim: Simulator, receiver: Receiver, client: LinqAPIV3) -> None:
    chat = start_chat(client)
    sim.subscribe(receiver.url)
    sim.assign("+12025550104")
    sim.release(A)
    assert sim.drain(5)
    assert {event["event_type"] for event in receiver.events()} == {"phone_number.assigned", "phone_number.released"}
    assert [line.phone_number for line in client.phone_numbers.list().phone_numbers] == [B, C, "+12025550104"]
    assert refusal(lambda: client.chats.messages.send(chat.id, message=HELLO))[:2] == (403, 2006)
    moved = client.messages.create(to=[ANN], message=HELLO)
    assert moved.from_selection.reason == "failover_flagged"


def test_subscriptions_through_the_sdk(sim: Simulator, receiver: Receiver, client: LinqAPIV3) -> None:
    hooks = client.webhook_subscriptions
    url = receiver.url + "?version=2025-01-01"
    made = hooks.create(target_url=url, subscribed_events=["message.received"], phone_numbers=[A])
    assert made.signing_secret.startswith("whsec_")
    assert "signing_secret" not in hooks.with_raw_response.retrieve(made.id).text()
    assert refusal(lambda: hooks.create(target_url=url, subscribed_events=["message.sent"]))[0] == 409
    with_http = "http://example.com/hook"
    assert refusal(lambda: hooks.create(target_url=with_http, subscribed_events=["message.sent"]))[0] == 400
    sim.receive(ANN, B, "not for us")
    event_id = sim.receive(ANN, A, "hi")
    assert sim.drain(5)
    ((headers, body),) = receiver.got
    event = Webhook(made.signing_secret).verify(body, headers)
    assert (event["event_id"], event["webhook_version"]) == (event_id, "2025-01-01")
    assert shape(event) == shape(sample("message.received.2025-01-01.json"))
    assert hooks.update(made.id, is_active=False).is_active is False
    sim.receive(ANN, A, "unheard")
    assert [each.id for each in hooks.list().subscriptions] == [made.id]
    hooks.delete(made.id)
    assert refusal(lambda: hooks.retrieve(made.id))[0] == 404
    assert sim.drain(5)
    assert len(receiver.got) == 1


def test_retries_until_acknowledged(sim: Simulator, receiver: Receiver) -> None:
    receiver.answer = lambda count: {1: 500, 2: 429, 3: 503}.get(count, 200)
    sim.subscribe(receiver.url)
    sim.flip(A, health="AT_RISK")
    assert sim.drain(5)
    assert [(each.attempt, each.status) for each in sim.deliveries] == [(1, 500), (2, 429), (3, 503), (4, 200)]
    assert [each.acknowledged_at is not None for each in sim.deliveries] == [False, False, False, True]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_gives_up_after_ten_retries_and_at_once_on_other_4xx(sim: Simulator, receiver: Receiver) -> None:
    receiver.answer = lambda _: 400
    sim.subscribe(receiver.url)
    sim.flip(A, health="AT_RISK")
    assert sim.drain(5)
    assert [each.attempt for each in sim.deliveries] == [1]
    receiver.close()
    sim.flip(A, health="HEALTHY")
    assert not sim.drain(0)
    assert sim.drain(10)
    assert [(each.attempt, each.status) for each in sim.deliveries[1:]] == [(n, None) for n in range(1, 12)]


def test_duplicates_come_twice_with_one_id(sim: Simulator, receiver: Receiver) -> None:
    sim.delivery.duplicate = 1.0
    sim.subscribe(receiver.url)
    sim.flip(A, health="AT_RISK")
    assert sim.drain(5)
    assert len(receiver.got) == 2
    assert len({event["event_id"] for event in receiver.events()}) == 1
    assert sorted(each.duplicate for each in sim.deliveries) == [False, True]


def test_a_held_delivery_comes_after_a_later_one(sim: Simulator, receiver: Receiver) -> None:
    sim.delivery.reorder_hold = 5.0
    sim.subscribe(receiver.url)
    sim.delivery.reorder = 1.0
    first = sim.flip(A, health="AT_RISK")
    assert not sim.drain(0.1)
    sim.delivery.reorder = 0.0
    second = sim.flip(A, health="CRITICAL")
    assert sim.drain(4)
    assert [event["event_id"] for event in receiver.events()] == [second, first]


def test_delay(sim: Simulator, receiver: Receiver) -> None:
    sim.delivery.delay = (0.2, 0.3)
    sim.subscribe(receiver.url)
    began = time.time()
    sim.flip(A, health="AT_RISK")
    assert sim.drain(5)
    assert sim.deliveries[0].sent_at - began >= 0.2


# The health model


def test_health_model_has_hysteresis() -> None:
    model = HealthModel(at_risk=20, critical=40, flagged=60, recovery=0.5)
    active, flagged = LineStatus.ACTIVE, LineStatus.FLAGGED
    assert model.judge(active, Health.HEALTHY, 19.9) == (active, Health.HEALTHY)
    assert model.judge(active, Health.HEALTHY, 45) == (active, Health.CRITICAL)
    assert model.judge(active, Health.AT_RISK, 11) == (active, Health.AT_RISK)
    assert model.judge(active, Health.AT_RISK, 9.9) == (active, Health.HEALTHY)
    assert model.judge(active, Health.CRITICAL, 60) == (flagged, Health.CRITICAL)
    assert model.judge(flagged, Health.CRITICAL, 31) == (flagged, Health.CRITICAL)
    assert model.judge(flagged, Health.CRITICAL, 29) == (active, Health.CRITICAL)
    assert model.decayed(40, model.half_life) == pytest.approx(20)


def test_a_line_wears_out_by_sending_and_recovers_by_resting() -> None:
    model = HealthModel(half_life=0.5, per_new_conversation=9, tick=0.02)
    with Simulator([A], health_model=model) as sim, LinqAPIV3(base_url=sim.base_url, api_key=sim.api_key) as client:
        client = client.with_options(max_retries=0)
        for person in range(200):
            try:
                start_chat(client, to=f"+1415556{person:04d}")
            except linq.PermissionDeniedError:
                break
        assert sim.sends_to_flagged()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and sim.events[-1].data.get("new_reputation") != "HEALTHY":
            threading.Event().wait(0.02)
        steps = [event.data for event in sim.events if event.type == "phone_number.status_updated"]
    healths = [step["new_reputation"] for step in steps]
    assert healths[0] == "AT_RISK"
    assert healths[-1] == "HEALTHY"
    assert "FLAGGED" in [step["new_status"] for step in steps]
    for before, after in itertools.pairwise(steps):
        assert (before["new_status"], before["new_reputation"]) == (
            after["previous_status"],
            after["previous_reputation"],
        )


# The server


def test_starts_again_on_another_port_and_stops_for_good() -> None:
    with Simulator([A]) as one, Simulator([B]) as two:
        assert one.base_url != two.base_url
    with pytest.raises(httpx.ConnectError):
        httpx.get(one.base_url)
    with pytest.raises(ValueError, match=r"E\.164"):
        Simulator(["12025550101"])
    with pytest.raises(ValueError, match="not a line"):
        one.flip(B, health="AT_RISK")
