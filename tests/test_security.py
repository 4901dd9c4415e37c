"""The claims of docs/security.md, by their ids: each is shown by a test whose docstring starts with the id."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from sendguard import (
    AsyncSendGuard,
    LineStatus,
    Outcome,
    Policy,
    Quota,
    Reason,
    SendBlocked,
    SendGuard,
    WebhookRejected,
)
from sendguard.linq.webhooks import read_webhook
from sendguard.middleware.webhooks import WebhookApp
from sendguard.protocol import Protocol
from sendguard.request import Request
from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import Settings
from tests import traffic
from tests.servers import Server, valkey_binary
from tests.serving import Served
from tests.support import SECRET, ManualClock, iso, older_headers, payload, standard_headers

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text("utf-8")
CLAIM = re.compile(r"^\| (S[0-9]+) \| (.+?) \|", re.MULTILINE)
LINE, OTHER, PERSON = "+12025550101", "+12025550102", "+14155550123"
TOKEN, NEXT_TOKEN = "the-leaked-token", "the-next-token"

PROVEN_BY = {
    "S1": ["test_fuzz_webhooks.test_law_10_no_forgery_is_taken_or_changes_a_key",
           "test_webhooks.test_law_10_another_secret_is_refused",
           "test_webhooks.test_law_10_a_tampered_body_is_refused",
           "test_webhook_app.test_law_10_no_forged_webhook_raises_or_changes_anything"],
    "S2": ["test_webhooks.test_law_10_no_secret_lets_nothing_in",
           "test_webhooks.test_law_10_a_secret_that_is_not_base64_leaves_no_weak_key"],
    "S4": ["test_webhooks.test_law_10_more_than_five_minutes_off_is_refused"],
    "S5": ["test_webhooks.test_law_10_a_body_over_one_mebibyte_is_refused_before_hashing",
           "test_webhooks.test_law_10_a_body_is_verified_before_it_is_parsed",
           "test_webhook_app.test_a_streamed_body_is_not_read_past_the_limit"],
    "S6": ["test_fuzz_webhooks.test_law_10_no_signed_content_corrupts_the_pool"],
    "S7": ["test_fuzz_webhooks.test_law_10_what_names_an_event_is_kept_and_logged_only_if_it_is_short_and_plain"],
    "S9": ["test_laws.test_law_9_an_outcome_makes_no_line_known", "test_payloads.test_not_e164"],
    "S10": ["test_sidecar.test_what_is_not_loopback_is_refused_without_a_token",
            "test_sidecar.test_an_address_of_the_network_needs_a_token"],
    "S11": ["test_sidecar.test_law_10_without_a_token_nothing_is_answered_and_nothing_changes"],
    "S13": ["test_sidecar.test_law_10_a_forged_receipt_is_422_and_changes_nothing",
            "test_sidecar.test_a_receipt_of_another_pool_is_422"],
    "S15": ["test_sidecar.test_an_unreadable_body_is_a_4xx",
            "test_sidecar.test_a_streamed_body_without_length_is_cut_at_the_limit"],
    "S16": ["test_sidecar_fuzz.test_no_request_breaks_the_sidecar_or_changes_a_line",
            "test_sidecar.test_bad_input_is_422_that_names_the_field_and_repeats_nothing"],
    "S32": ["test_linq_client.test_a_redirect_is_not_followed",
            "test_linq_client.test_an_error_repeats_nothing_of_the_answer"],
}  # fmt: skip
"""Claims that tests elsewhere show, which do not name them."""


def _tests_of(path: Path) -> Iterator[tuple[str, str]]:
    """The name of every test in a file, with its docstring."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path.stem}.{node.name}", ast.get_docstring(node) or ""


def test_every_claim_of_the_page_has_a_test_and_every_test_its_claim() -> None:
    claims = [found[0] for found in CLAIM.findall(PAGE)]
    assert len(claims) == len(set(claims)) > 25
    known = dict(found for path in TESTS.glob("test_*.py") for found in _tests_of(path))
    assert set(known) >= {name for names in PROVEN_BY.values() for name in names}
    named = {found for doc in known.values() if (at := re.match(r"(S[0-9]+(?:, S[0-9]+)*): ", doc))
             for found in at[1].split(", ")}  # fmt: skip
    assert named | set(PROVEN_BY) == set(claims)


# Webhooks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    with SendGuard(valkey.url, pool=pool, timeout=5.0, webhook_secret=SECRET, refresh=None) as guard:
        guard.observe(LINE, status="ACTIVE", observed_at=1)
        yield guard


def signed_update(number: int, status: str, at: float) -> bytes:
    data = {"phone_number": LINE, "new_status": status, "changed_at": iso(at)}
    return json.dumps({**payload("status_updated.status_only"), "event_id": f"event-{number}", "data": data}).encode()


def test_a_replayed_delivery_changes_nothing(guard: SendGuard) -> None:
    """S3: a delivery that is sent again, under the same headers or the other set of them, is applied once."""
    now = time.time()
    body = json.dumps({**payload("message.received"), "event_id": "once"}).encode()
    guard.handle_webhook(body, standard_headers(body, now))
    volume = guard.lines()[0].daily_volume
    for headers in (
        standard_headers(body, now),
        standard_headers(body, now + 1, message_id="m2"),
        older_headers(body, now),
    ):
        assert guard.handle_webhook(body, headers) == ()
    assert guard.lines()[0].daily_volume == volume == 1


def test_an_old_delivery_does_not_undo_newer_knowledge(guard: SendGuard) -> None:
    """S4: what is replayed later than newer news, or later than five minutes, is of no use to an attacker."""
    now = time.time()
    active, flagged = signed_update(1, "ACTIVE", now - 60), signed_update(2, "FLAGGED", now - 30)
    guard.handle_webhook(flagged, standard_headers(flagged, now))
    assert guard.handle_webhook(active, standard_headers(active, now)) == ()
    with pytest.raises(WebhookRejected, match="too old"):
        guard.handle_webhook(active, standard_headers(active, now - 301))
    assert guard.lines()[0].status is LineStatus.FLAGGED


class Compare:
    """Stands in for `hmac.compare_digest`: notes what is compared, and answers as told."""

    def __init__(self) -> None:
        self.answer, self.pairs = True, list[tuple[bytes, bytes]]()

    def __call__(self, one: bytes, other: bytes) -> bool:
        self.pairs.append((one, other))
        return self.answer


@pytest.mark.parametrize("scheme", [standard_headers, older_headers])
def test_only_a_comparison_in_constant_time_decides_on_a_signature(
    scheme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S8: every signature is compared with `hmac.compare_digest`, and with every secret whichever matches."""
    body = signed_update(1, "FLAGGED", 1_771_000_000)
    headers, secrets = scheme(body, 1_771_000_000), [SECRET, "whsec_QUJDREVGR0g=", "another"]
    compare = Compare()
    monkeypatch.setattr("sendguard.linq.webhooks.hmac.compare_digest", compare)
    assert read_webhook(body, headers, secrets, 1_771_000_000).event_id == "event-1"
    matched, compare.pairs, compare.answer = compare.pairs, [], False
    with pytest.raises(WebhookRejected, match="does not match"):
        read_webhook(body, headers, secrets, 1_771_000_000)
    assert compare.pairs == matched
    assert len(matched) >= 3, "each secret, in each form that the scheme has a key for"


def test_a_line_that_the_account_does_not_have_goes_with_the_next_poll(valkey: Server, pool: str) -> None:
    """S9: a rogue number can only come with a signature or from an operator, and a poll that misses it releases it."""
    rogue = "+12025550666"
    body = json.dumps(
        {"event_type": "phone_number.assigned", "event_id": "e", "data": {"phone_number": rogue}}
    ).encode()
    with traffic.simulated() as api:
        options: dict[str, Any] = {"webhook_secret": SECRET, "api_key": api.api_key, "api_base_url": api.base_url}
        with SendGuard(valkey.url, pool=pool, timeout=5.0, refresh=None, **options) as guard:
            guard.sync_lines()
            guard.handle_webhook(body, standard_headers(body, time.time() - 2))
            assert rogue in [line.number for line in guard.lines()]
            time.sleep(0.01)  # the poll must have been asked later than the signature's second
            guard.sync_lines()
            assert rogue not in [line.number for line in guard.lines()]
            assert guard.decide(PERSON, from_number=rogue).reason is Reason.UNKNOWN_LINE


# The sidecar ---------------------------------------------------------------------------------------------------------


@contextmanager
def sidecar(store: str, pool: str, **options: Any) -> Iterator[httpx.Client]:
    given = {"store": store, "pool": pool, "timeout": 5.0, "poll_interval": 0, "webhook_secret": [SECRET], **options}
    with Served(create_app(Settings(**given))) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


def test_a_leaked_token_clears_no_flag_reads_no_recipient_and_ends_with_its_rotation(
    valkey: Server, pool: str, guard: SendGuard
) -> None:
    """S12: who holds a token can spend quotas and stop lines, but not clear FLAGGED or learn who was written to."""
    guard.observe(OTHER, status="FLAGGED")
    asked, told = {"to": traffic.PHONE, "from_number": LINE}, ""
    with sidecar(valkey.url, pool, tokens=[NEXT_TOKEN, TOKEN]) as client:
        receipt = client.post("/v1/choose-from-number", json=asked).json()["receipt"]
        for method, path in (("POST", "pause"), ("POST", "resume"), ("GET", "")):
            told += client.request(method, f"/v1/lines/{OTHER}/{path}".rstrip("/")).text
        for code in (None, 1007, 2006, 2024, 2027, 4002):
            client.post("/v1/report", json={"receipt": "", "from_number": OTHER, "outcome": "not_sent", "code": code})
            client.post("/v1/report", json={"receipt": receipt, "from_number": LINE, "outcome": "sent", "code": code})
            assert client.post("/v1/choose-from-number", json={"to": PERSON, "from_number": OTHER}).status_code >= 400
        told += (
            "".join(client.get(path).text for path in ("/v1/lines", "/metrics", "/openapi.json", "/readyz")) + receipt
        )
    assert not [needle for needle in traffic.NEEDLES if needle in told.lower()]
    data = {"phone_number": OTHER, "changed_at": iso(time.time() + 1)}  # one that was released comes back as it was
    body = json.dumps({"event_type": "phone_number.assigned", "event_id": "back", "data": data}).encode()
    guard.handle_webhook(body, standard_headers(body, time.time()))
    assert [line.status for line in guard.lines() if line.number == OTHER] == [LineStatus.FLAGGED]
    with sidecar(valkey.url, pool, tokens=[NEXT_TOKEN]) as client:
        assert client.get("/v1/lines").status_code == 401


@pytest.mark.usefixtures("guard")
def test_a_seal_is_as_secret_as_the_hash_key(valkey: Server, pool: str) -> None:
    """S14: with a `hash_key` nobody can make up a receipt; without one, who knows the pool's name can."""
    receipt = f"{LINE}|1771000000000000|1|0|0|{'A' * 16}|{'0' * 24}|"
    seal = Protocol(pool, Policy(), None).digest(f"receipt {pool} {receipt}")
    body = {"receipt": f"{receipt}|{seal}", "from_number": LINE, "outcome": "not_sent"}
    with sidecar(valkey.url, pool, hash_key="a key of its own", tokens=[TOKEN]) as client:
        assert client.post("/v1/report", json=body).status_code == 422
    with sidecar(valkey.url, pool, tokens=[TOKEN]) as client:
        assert client.post("/v1/report", json=body).status_code == 204


def test_only_a_comparison_in_constant_time_decides_on_a_token(
    valkey: Server, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S17: a token is compared with `hmac.compare_digest`, with every token whichever matches."""
    compare = Compare()
    with sidecar(valkey.url, pool, tokens=[TOKEN, NEXT_TOKEN]) as client:
        monkeypatch.setattr("sendguard.sidecar.gate.hmac.compare_digest", compare)
        for compare.answer, status in ((False, 401), (True, 200)):
            assert client.get("/v1/lines").status_code == status
    assert compare.pairs == [(TOKEN.encode(), token.encode()) for token in (TOKEN, NEXT_TOKEN)] * 2


# Recipients ----------------------------------------------------------------------------------------------------------

HANDLES = st.text(st.characters(), max_size=40) | st.sampled_from([
    "+1415555\u0660\u0661\u0662\u0663", "+14155550123\n", "+14155550123,+14155550124", "a@b.c}:lines", "*",
    "{other}:lines", "a@b|c.d", "+" + "9" * 1000, "r:../lines", "\ud800@b.c", "a@\u0430pple.com",
    "' OR 1=1 --", "+14155550123\x00",
])  # fmt: skip


@settings(max_examples=500)
@given(HANDLES, st.none() | st.text(st.characters(), min_size=1, max_size=20))
def test_a_hostile_recipient_reaches_no_key_but_the_one_of_its_hash(handle: str, key: str | None) -> None:
    """S18: a recipient, and an idempotency key, become a hash of 16 characters in a key of the pool, or are refused."""
    protocol, refused = Protocol("p", Policy(), "k"), ""
    try:
        request = Request.of(handle, "chat", None, (), None, key)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("to must hold")
        assert len(handle) < 4 or handle not in refused
        return
    call = protocol.decide(request, max_wait=0, waiter=False, now=1.0)
    own = r"sendguard:\{p\}:(r:[\w-]{16}|i:([\w-]{16})?|decisions)"
    assert all(re.fullmatch(own, name, re.ASCII) for name in call.keys)
    assert not [arg for arg in call.args if handle in arg or (key and len(key) > 3 and key in arg)]


class Monitor:
    """All that a server is asked, as MONITOR tells it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"
        self.told = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := self._socket.recv(65536):
            self.told += chunk
            if b"the-end-of-it" in self.told:
                return

    def end(self, client: redis.Redis) -> bytes:
        client.echo("the-end-of-it")
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()
        return self.told


def everything_in(client: Any) -> bytes:
    """Every key of a store, its value as its type gives it, and its dump."""
    readers: dict[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    found = [(key, client.dump(key), readers[client.type(key)](key)) for key in client.scan_iter()]
    assert {client.type(key) for key, _, _ in found} == set(readers)
    return repr(found).encode()


@pytest.mark.parametrize("hash_key", [None, "a key of its own"])
def test_no_recipient_is_in_the_store_on_its_wire_or_in_a_log(
    tmp_path: Path, pool: str, hash_key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """S19: traffic of every kind leaves no handle in any key, value, command or line of the log."""
    caplog.set_level("DEBUG")
    server = Server(valkey_binary(), tmp_path / "store")
    try:
        client = redis.Redis(port=server.port)
        monitor = Monitor(server.port)
        with traffic.simulated() as api:
            traffic.run(server.url, pool, api, hash_key=hash_key)
            traffic.run_alerts(server.url, pool, api, hash_key=hash_key)
        asked, kept = monitor.end(client), everything_in(client)
    finally:
        server.stop()
    assert len(asked) > 20_000
    assert b'"FCALL"' in asked.upper()
    assert kept.count(f"sendguard:{{{pool}}}:r:".encode()) > 3
    log = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("sendguard"))
    assert "line +12025550102: status" in log
    for text in (asked, kept, log.encode()):
        assert not [needle for needle in traffic.NEEDLES if needle.encode() in text.lower()]


def test_without_a_hash_key_who_knows_the_pool_can_guess_and_compare(pool: str) -> None:
    """S20: with a `hash_key` of its own a store's reader cannot find a recipient by trying numbers."""
    request = Request.of(PERSON, "chat", None, (), None, None)

    def key_of(hash_key: str | None) -> str:
        return Protocol(pool, Policy(), hash_key).decide(request, max_wait=0, waiter=False, now=1.0).keys[0]

    assert key_of(None) == key_of(f"sendguard:{pool}"), "what anybody can compute"
    assert len({key_of(None), key_of("one"), key_of("another")}) == 3


def test_another_hash_key_knows_nothing_of_what_was_under_the_old_one(
    valkey: Server, pool: str, clock: ManualClock
) -> None:
    """S21: changing `hash_key` forgets conversations, opt-outs and pair windows, and keeps lines and their quotas."""

    def guard(hash_key: str) -> SendGuard:
        options: dict[str, Any] = {"policy": Policy(pair=Quota(1, per=60)), "clock": clock, "refresh": None}
        return SendGuard(valkey.url, pool=pool, timeout=5.0, hash_key=hash_key, **options)

    with guard("old") as old, guard("new") as new:
        old.observe(LINE, status="ACTIVE", health="HEALTHY")
        old.observe(OTHER, status="FLAGGED")
        assert old.decide("+14155550777").allowed
        old.report(old.decide(PERSON), Outcome(False, 2024))
        assert old.decide(PERSON).reason is Reason.OPTED_OUT
        assert new.decide(PERSON).reason is Reason.NEW_CONVERSATION
        assert [line.status for line in new.lines()] == [LineStatus.ACTIVE, LineStatus.FLAGGED]
        assert new.lines()[0].daily_volume == 2
        new.report(new.decide("+14155550999"), Outcome(False, 2024))
        with pytest.raises(SendBlocked, match="opted_out"):
            new.choose_from_number("+14155550999")


def test_a_webhook_app_without_a_secret_takes_nothing(valkey: Server, pool: str) -> None:
    """S2: a guard that was given no webhook secret refuses every webhook, also one signed with an empty key."""
    body = signed_update(1, "FLAGGED", time.time())

    async def ask() -> int:
        guard = AsyncSendGuard(valkey.url, pool=pool, timeout=5.0, refresh=None)
        transport = httpx.ASGITransport(WebhookApp(guard))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.post("/", content=body, headers=older_headers(body, time.time(), secret=""))
        await guard.close()
        return answer.status_code

    assert asyncio.run(ask()) == 401
