"""What the logs hold: an event and fields in every record, one record for an outage, and nobody's name."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from sendguard import AsyncSendGuard, Outcome, Policy, SendBlocked, SendGuard, SendGuardTransport, TokenBucket
from sendguard.logs import LOGGER, Outages, json_formatter
from sendguard.middleware.webhooks import webhook_response
from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import Settings
from sendguard.simulator import Simulator
from tests.servers import Server, valkey_binary
from tests.serving import Served
from tests.support import OTHER_SECRET, SECRET, ManualClock, payload, standard_headers

ROOT = Path(__file__).parent.parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
LINE, OTHER, PERSON = "+12025550101", "+12025550102", "+14155550123"
HOSTILE = "%s%(levelname)s{reason}$to@hostile.example"
"""A handle that is good, and that a careless call of a logger would trip over."""
GROUP = ["+14155550188", "ann.other@example.com"]
TOKEN, KEY, HASH_KEY = "bearer-token-for-tests", "order-4711", "hash-key-for-tests"
DEAD = "redis://:store-password@127.0.0.1:1/0"


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[..., list[Any]]:
    """The records of an event, or of all, from DEBUG up, of every logger that there is."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sendguard")

    def of(event: str = "") -> list[Any]:
        return [record for record in caplog.records if event in ("", getattr(record, "event", None))]

    return of


# What is told --------------------------------------------------------------------------------------------------------


def test_a_decision_is_told_at_debug(new_guard: Callable[..., SendGuard], records: Callable[..., list[Any]]) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(1, per=100)))
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    allowed, denied = guard.decide(PERSON), guard.decide(PERSON)
    first, second = records("decision")
    assert (first.levelno, first.name) == (logging.DEBUG, "sendguard")
    assert (first.decision_id, first.allowed, first.reason) == (allowed.decision_id, True, "new_conversation")
    assert (first.line, first.retry_after, first.pool) == (LINE, None, guard.pool)
    assert (second.decision_id, second.allowed, second.reason) == (denied.decision_id, False, "throttled")
    assert (second.line, second.retry_after) == (None, denied.retry_after)
    assert first.conversation == second.conversation == guard._flows.protocol.digest(PERSON)
    assert second.getMessage() == f"decision {denied.decision_id}: throttled"


def test_a_decision_is_not_told_above_debug(guard: SendGuard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard.decide(PERSON)
    assert caplog.records == []


def test_a_flagged_line_is_a_warning_and_other_transitions_are_not(
    guard: SendGuard, records: Callable[..., list[Any]], clock: ManualClock
) -> None:
    for known in ({"status": "ACTIVE"}, {"health": "CRITICAL"}, {"status": "FLAGGED"}, {"status": "ACTIVE"}):
        clock.advance(1)
        guard.observe(LINE, **known, source="tests")
    guard.pause(LINE)
    guard.observe(LINE, status="SUSPENDED", health="WOBBLY", observed_at=clock.now + 1)
    told = [(r.field, r.old, r.new, r.levelname, r.source) for r in records("transition")]
    assert [entry for entry in told if entry[0] in ("status", "health")] == [
        ("status", None, "ACTIVE", "INFO", "tests"),
        ("health", None, "CRITICAL", "INFO", "tests"),
        ("status", "ACTIVE", "FLAGGED", "WARNING", "tests"),
        ("status", "FLAGGED", "ACTIVE", "INFO", "tests"),
        ("status", "ACTIVE", "SUSPENDED", "WARNING", "operator"),
        ("health", "CRITICAL", "WOBBLY", "WARNING", "operator"),
    ]
    assert {r.line for r in records("transition")} == {LINE}
    assert "taken as FLAGGED" in records("transition")[-2].getMessage()
    assert "taken as AT_RISK" in records("transition")[-1].getMessage()
    (paused,) = (r for r in records("transition") if r.field == "paused_until")
    assert (paused.levelname, paused.source) == ("INFO", "operator")


# Outages -------------------------------------------------------------------------------------------------------------


def test_a_dead_store_is_told_of_once_a_minute(records: Callable[..., list[Any]]) -> None:
    clock, error = ManualClock(1000.0), RuntimeError("the store failed: TimeoutError")
    outages = Outages("a-pool", clock)
    for _ in range(60_000):
        outages.failed(error)
        clock.advance(0.002)
    first, second = records("store_unavailable")
    assert (first.levelname, first.failures, first.pool) == ("ERROR", 1, "a-pool")
    assert second.failures == pytest.approx(30_000, abs=2)
    assert second.seconds == pytest.approx(60, abs=0.01)
    assert "TimeoutError" in first.getMessage()


def test_the_end_of_an_outage_is_told_once_and_counts(records: Callable[..., list[Any]]) -> None:
    clock = ManualClock(1000.0)
    outages = Outages("a-pool", clock)
    for _ in range(5):
        outages.failed(RuntimeError("x"))
        outages.answered()
        clock.advance(0.5)
    assert outages.down  # one that fails every half second is not back
    assert records("store_available") == []
    clock.advance(0.5)
    outages.answered()
    outages.answered()
    assert not outages.down
    (back,) = records("store_available")
    assert (back.levelname, back.failures, back.seconds) == ("WARNING", 5, 3.0)
    outages.failed(RuntimeError("x"))
    assert [record.failures for record in records("store_unavailable")] == [1, 1]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_store_that_dies_and_comes_back(
    tmp_path: Path, pool: str, records: Callable[..., list[Any]], asynchronous: bool
) -> None:
    store, clock = Server(valkey_binary(), tmp_path), ManualClock(1000.0)
    guard: Any = (AsyncSendGuard if asynchronous else SendGuard)(store.url, pool=pool, timeout=5.0, refresh=None)
    guard._flows._outages = Outages(pool, clock)

    async def ask() -> str:
        decision = guard.decide(PERSON)
        return str((await decision if asynchronous else decision).reason.value)

    async def live() -> None:
        assert await ask() == "no_lines"
        store.kill()
        assert [await ask() for _ in range(5)] == ["store_unavailable"] * 5
        store.start()
        while await ask() != "no_lines":  # a connection that was idle may break only now
            pass
        clock.advance(2)
        assert [await ask() for _ in range(3)] == ["no_lines"] * 3
        if asynchronous:
            await guard.close()

    asyncio.run(live())
    store.stop()
    (gone,), (back,) = records("store_unavailable"), records("store_available")
    failed = [record for record in records("decision") if record.reason == "store_unavailable"]
    assert gone.failures == 1
    assert back.failures == len(failed) >= 5


# Nobody's name -------------------------------------------------------------------------------------------------------


def secrets() -> set[str]:
    sender = payload("message.received")["data"]["sender_handle"]["handle"]
    text = payload("message.received")["data"]["parts"][0]["value"]
    handles = {PERSON, HOSTILE, "hostile.example", "ann.other", GROUP[0], sender}
    return handles | {text, SECRET, SECRET.removeprefix("whsec_"), TOKEN, KEY, HASH_KEY, "store-password", "api-key-x"}


def everything_a_guard_does(guard: SendGuard, api: Simulator) -> None:
    guard.sync_lines()
    guard.observe(LINE, health="AT_RISK")
    for to in (PERSON, HOSTILE, GROUP):
        for _ in range(3):
            guard.report(guard.decide(to, idempotency_key=KEY), Outcome(None, code=1007, retry_after=1))
            guard.dry_run(to)
            with suppress(SendBlocked, RuntimeError), guard.sending(to, max_wait=0.01):
                raise RuntimeError(f"no line to {to}")
    names = ("message.received", "message.received.stop", "message.sent", "message.failed.4002")
    unknown = {**payload("message.received"), "event_id": "unknown", "event_type": "reaction.added"}
    for event in (unknown, *map(payload, names)):
        for headers in ({}, {"secret": OTHER_SECRET}, {"secret": SECRET}):
            body = json.dumps(event).replace(PERSON, HOSTILE).encode()
            signed = standard_headers(body, time.time(), **headers) if headers else {}
            webhook_response(guard, body, signed)
    transport = SendGuardTransport(guard, max_wait=0)
    auth = {"authorization": f"Bearer {api.api_key}"}
    message = {"parts": [{"type": "text", "value": "hello there"}]}
    with httpx.Client(transport=transport, base_url=api.base_url, headers=auth) as client:
        for to in (HOSTILE, PERSON):
            with suppress(SendBlocked):
                client.post("/v3/chats", json={"from": LINE, "to": [to], "message": message})


def test_no_log_holds_a_recipient_or_a_secret(
    valkey: Server, pool: str, records: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"pool": pool, "timeout": 5.0, "webhook_secret": SECRET, "hash_key": HASH_KEY}
    with Simulator([LINE, OTHER], api_key="api-key-x") as api:
        known = {**options, "api_key": api.api_key, "api_base_url": api.base_url}
        with SendGuard(valkey.url, policy=Policy(at_risk=TokenBucket(2, per=100)), **known) as guard:
            everything_a_guard_does(guard, api)
        dead = SendGuard(DEAD, **options)
        for to in (PERSON, HOSTILE, GROUP):
            dead.decide(to)
        fields = {**known, "webhook_secret": [SECRET], "tokens": [TOKEN], "poll_interval": 60}
        with Served(create_app(Settings(store=valkey.url, **fields))) as server:
            for token in (TOKEN, "another"):
                for to in (HOSTILE, GROUP, [*GROUP, "not a handle"]):
                    asked = {"to": to, "idempotency_key": KEY, "max_wait": 0.01}
                    headers = {"authorization": f"Bearer {token}"}
                    httpx.post(f"{server.url}/v1/choose-from-number", json=asked, headers=headers)
    told = {getattr(record, "event", "") for record in records() if record.name.startswith("sendguard")}
    assert {"decision", "transition", "webhook_rejected", "webhook_ignored", "store_unavailable"} <= told
    formatter = json_formatter()
    said = caplog.text + "".join(formatter.format(record) for record in caplog.records)
    said += "".join(str(vars(record)) for record in caplog.records)
    assert [secret for secret in secrets() if secret in said] == []


# The page ------------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")
OWN = vars(logging.makeLogRecord({})).keys() | {"event", "message", "asctime"}
"""What every record has, and the formatters add."""


def documented() -> dict[str, set[str]]:
    """The fields of each event that the page names."""
    rows = re.findall(r"^\| `(\w+)` \| (?:DEBUG|INFO|WARNING|ERROR)[A-Z, ]* \|([^|]*)\|", PAGE, re.MULTILINE)
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}


def told_in(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """The event of each call that writes to the log, and the fields that it names; an event "" where it has none."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {each.arg: each.value for each in call.keywords}
        if isinstance(call.func, ast.Name) and call.func.id == "tell" and len(call.args) > 1:
            yield ast.literal_eval(call.args[1]), {name for name in keywords if name}
        elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            if call.func.value.id.lower().strip("_") not in ("log", "logger") or call.func.attr not in LEVELS:
                continue
            extra = keywords.get("extra")
            keys = [ast.literal_eval(key) for key in extra.keys if key] if isinstance(extra, ast.Dict) else []
            event = ast.literal_eval(extra.values[keys.index("event")]) if "event" in keys else ""  # type: ignore[union-attr]
            yield event, set(keys) - {"event"}


def test_every_record_has_an_event_that_the_page_names_with_its_fields() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "sendguard").rglob("*.py"):
        if "simulator" not in path.parts and path.name != "logs.py":
            for event, fields in told_in(ast.parse(path.read_text("utf-8"))):
                assert event, path
                found.setdefault(event, set()).update(fields)
    ours = {"transition", "decision", "store_unavailable", "store_available"}  # those of logs.py
    assert {event: fields for event, fields in documented().items() if event not in ours} == found
    assert ours <= documented().keys()


def test_the_page_names_the_fields_of_the_records_of_every_guard(
    new_guard: Callable[..., SendGuard], records: Callable[..., list[Any]]
) -> None:
    guard = new_guard()
    guard.observe(LINE, status="FLAGGED")
    guard.decide(PERSON)
    outages = Outages("a-pool", clock := ManualClock())
    outages.failed(RuntimeError("x"))
    clock.advance(9)
    outages.answered()
    for event in ("transition", "decision", "store_unavailable", "store_available"):
        assert records(event)
        for record in records(event):
            assert vars(record).keys() - OWN == documented()[event]


def test_the_snippets_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, logs = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    served: list[int] = []
    monkeypatch.setattr(logging, "root", logging.Logger("root"))
    monkeypatch.setattr("sendguard.metrics.REGISTRY", registry := CollectorRegistry())
    monkeypatch.setattr("prometheus_client.start_http_server", served.append)
    names: dict[str, Any] = {}
    exec(metrics.replace("redis://localhost:6379/0", "memory://"), names)
    exec(logs, names)
    names["guard"].decide(PERSON)
    assert served == [9100]
    assert registry.get_sample_value("sendguard_store_errors_total", {"pool": "default"}) == 0
    (handler,) = logging.root.handlers
    assert json.loads(handler.format(logging.makeLogRecord({"msg": "hello"})))["message"] == "hello"


# JSON ----------------------------------------------------------------------------------------------------------------


def test_a_record_as_json(guard: SendGuard, records: Callable[..., list[Any]]) -> None:
    before = time.time()
    guard.observe(LINE, status="ACTIVE")
    told = [json.loads(json_formatter().format(record)) for record in records("transition")]
    found = next(each for each in told if each["field"] == "status")
    assert found["level"] == "INFO"
    assert found["logger"] == "sendguard"
    assert found["message"] == f"line {LINE}: status None -> 'ACTIVE' (operator)"
    assert (found["event"], found["line"], found["new"]) == ("transition", LINE, "ACTIVE")
    assert abs(datetime.fromisoformat(found["time"]).timestamp() - before) < 60
    assert found["time"].endswith("Z")


def test_json_is_one_line_whatever_a_record_holds() -> None:
    try:
        raise ValueError("of\nthree")
    except ValueError:
        failure = sys.exc_info()
    record = logging.makeLogRecord({"name": "sendguard", "msg": "two\nlines and \ud800", "exc_info": failure})
    record.source, record.line = "a\nb", Path("/x")
    text = json_formatter().format(record)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text)["logger"] == "sendguard"


def test_the_settings_say_how_the_sidecar_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    from sendguard.sidecar import serve

    root: Any = logging.Logger("root")
    level = LOGGER.level
    monkeypatch.setattr(logging, "root", root)
    serve._write_logs(Settings(poll_interval=0, log_format="json", log_level="debug"))
    try:
        (handler,) = root.handlers
        assert json.loads(handler.format(logging.makeLogRecord({"msg": "hello", "event": "x"})))["event"] == "x"
        assert LOGGER.level == logging.DEBUG
    finally:
        LOGGER.setLevel(level)
        logging.getLogger("httpx").setLevel(logging.NOTSET)
