"""The sidecar over real HTTP: what a sender in any language sees."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sendguard import AsyncSendGuard, LineStatus, Policy, Reason, SendGuard, TokenBucket
from sendguard.sidecar.app import create_app
from sendguard.sidecar.gate import API_MAX_BODY
from sendguard.sidecar.service import Service
from sendguard.sidecar.settings import ConfigError, Settings
from sendguard.simulator import Simulator
from tests import judge
from tests.servers import Server, free_port, valkey_binary
from tests.serving import Served
from tests.support import SECRET, payload, standard_headers, wait_until

LINE, OTHER, PERSON = "+12025550101", "+12025550102", "+14155550123"
TOKENS = ["first-token", "second-token"]
ONE_AT_A_TIME = {"at_risk": {"tokens": 1, "per": 1000, "burst": 1}}

Start = Callable[..., httpx.Client]


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    """Another process's guard, as far as the sidecar knows."""
    with SendGuard(valkey.url, pool=pool, timeout=5.0) as guard:
        yield guard


@pytest.fixture
def slow(valkey: Server, pool: str) -> Iterator[SendGuard]:
    """As `guard`, with a burst of one, so that it tells when the next slot comes."""
    with SendGuard(valkey.url, pool=pool, timeout=5.0, policy=Policy(at_risk=TokenBucket(1, per=3))) as guard:
        yield guard


@pytest.fixture
def start(valkey: Server, pool: str) -> Iterator[Start]:
    """Starts a sidecar and returns a client of it."""
    with ExitStack() as stack:

        def start(**options: Any) -> httpx.Client:
            fields = {"store": valkey.url, "pool": pool, "timeout": 5.0, "webhook_secret": [SECRET], "poll_interval": 0}
            server = stack.enter_context(Served(create_app(Settings(**{**fields, **options}))))
            return stack.enter_context(httpx.Client(base_url=server.url, timeout=30))

        yield start


@pytest.fixture
def sidecar(start: Start) -> httpx.Client:
    return start(policy=ONE_AT_A_TIME)


def ask(sidecar: httpx.Client, to: Any = PERSON, **options: Any) -> httpx.Response:
    return sidecar.post("/v1/choose-from-number", json={"to": to, **options})


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


# Decisions -----------------------------------------------------------------------------------------------------------


def test_a_send_that_may_go_gets_its_line(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE")
    response = ask(sidecar)
    assert response.status_code == 200
    body = response.json()
    assert (body["allowed"], body["from_number"], body["reason"]) == (True, LINE, "new_conversation")
    assert (body["status"], body["health"], body["new_conversation"]) == ("ACTIVE", "HEALTHY", True)
    assert len(body["decision_id"]) == 24
    assert body["receipt"].startswith(LINE)
    assert ask(sidecar).json()["reason"] == "sticky"
    assert ask(sidecar, from_number=LINE).json()["reason"] == "requested"


def test_where_waiting_helps_it_is_429_and_retry_after_is_exact(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    assert ask(sidecar).status_code == 200
    response = ask(sidecar)
    body = problem(response, 429)
    assert body["reason"] == "throttled"
    assert (body["line_status"], body["line_health"]) == ("ACTIVE", "AT_RISK")
    assert 990 < body["retry_after"] <= 1000
    assert response.headers["retry-after"] == str(math.ceil(body["retry_after"]))


def test_retry_after_is_at_least_a_second(start: Start, guard: SendGuard) -> None:
    sidecar = start(policy={"at_risk": {"tokens": 1, "per": 0.9, "burst": 1}})
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    assert ask(sidecar).status_code == 200
    response = ask(sidecar)
    assert problem(response, 429)["retry_after"] <= 0.9
    assert response.headers["retry-after"] == "1"


def test_where_waiting_does_not_help_it_is_409(sidecar: httpx.Client, guard: SendGuard) -> None:
    assert problem(ask(sidecar), 409)["reason"] == "no_lines"
    guard.observe(LINE, status="FLAGGED")
    response = ask(sidecar)
    assert problem(response, 409)["reason"] == "flagged"
    assert "retry-after" not in response.headers
    assert problem(ask(sidecar, from_number=OTHER), 409)["reason"] == "unknown_line"


def test_a_store_out_of_reach_is_503_everywhere(start: Start) -> None:
    sidecar = start(store="redis://127.0.0.1:1/0")
    response = ask(sidecar)
    assert problem(response, 503)["reason"] == "store_unavailable"
    assert response.headers["retry-after"] == "1"
    assert "the store" in problem(sidecar.get("/readyz"), 503)["detail"]
    problem(sidecar.get("/v1/lines"), 503)
    problem(sidecar.post(f"/v1/lines/{LINE}/pause"), 503)
    assert sidecar.get("/healthz").status_code == 200
    found = metrics(sidecar)
    assert found["sendguard_store_up", ()] == 0
    assert found["sendguard_store_errors_total", ()] >= 3


def test_an_idempotency_key_pays_once(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    first, second = ask(sidecar, idempotency_key="k"), ask(sidecar, idempotency_key="k")
    assert first.json()["decision_id"] == second.json()["decision_id"]


def test_observe_mode_lets_a_send_go_and_says_why_not(start: Start, guard: SendGuard) -> None:
    guard.observe(LINE, status="FLAGGED")
    body = ask(start(policy={"mode": "observe"}), from_number=LINE).json()
    assert (body["allowed"], body["from_number"], body["reason"]) == (True, LINE, "flagged")


def test_a_wait_ends_when_the_slot_has_come(start: Start, guard: SendGuard) -> None:
    sidecar = start(policy={"at_risk": {"tokens": 2, "per": 1, "burst": 1}})
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    assert ask(sidecar).status_code == 200
    began = time.monotonic()
    assert ask(sidecar, max_wait=5).status_code == 200
    assert 0.3 < time.monotonic() - began < 5


def test_a_client_that_leaves_while_it_waits_gives_its_slot_back(start: Start, slow: SendGuard) -> None:
    sidecar = start(policy={"at_risk": {"tokens": 1, "per": 50, "burst": 1}})
    slow.observe(LINE, status="ACTIVE", health="AT_RISK")
    assert ask(sidecar).status_code == 200
    free = slow.lines()[0].next_send_at
    body = json.dumps({"to": PERSON, "max_wait": 60}).encode()
    head = "POST /v1/choose-from-number HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    with socket.create_connection((sidecar.base_url.host, sidecar.base_url.port)) as connection:
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: slow.lines()[0].next_send_at != free)
    wait_until(lambda: slow.lines()[0].next_send_at == free)


# What became of a send -----------------------------------------------------------------------------------------------


def report(sidecar: httpx.Client, decision: httpx.Response, **fields: Any) -> httpx.Response:
    body = decision.json()
    return sidecar.post("/v1/report", json={"receipt": body["receipt"], "from_number": body["from_number"], **fields})


def test_a_send_that_did_not_leave_gives_its_token_back(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    decision = ask(sidecar)
    assert ask(sidecar).status_code == 429
    assert report(sidecar, decision, outcome="not_sent").status_code == 204
    assert ask(sidecar).status_code == 200


def test_an_error_code_is_learnt_from(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE")
    assert report(sidecar, ask(sidecar), code=2027).status_code == 204
    assert problem(ask(sidecar), 429)["reason"] == "cooling_down"


def test_law_10_a_forged_receipt_is_422_and_changes_nothing(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    good = ask(sidecar).json()["receipt"]
    before = guard.lines()
    parts = good.split("|")
    forged = [
        "x",
        "|" * 7,
        good + "|",
        good + "\n",
        good.replace(parts[5], "}:elsewhere:{abc"),
        good.replace(parts[1], "9" * 40),
        good.replace(parts[1], "-1"),
        good.replace(parts[6], "0" * 24),
        good.replace(parts[1], "0"),
        "|".join(parts[:-1]),
        "|".join(parts[:-1]) + "|",
        good + "\ud800",
    ]
    for receipt in forged:
        for outcome in ("sent", "not_sent", "unknown"):
            body = {"receipt": receipt, "from_number": LINE, "outcome": outcome}
            sent = json.dumps(body)
            response = sidecar.post("/v1/report", content=sent, headers={"content-type": "application/json"})
            errors = problem(response, 422)["errors"]
            assert [error["field"] for error in errors] == ["receipt"], receipt
    body = {"receipt": good, "from_number": OTHER, "outcome": "not_sent"}
    assert problem(sidecar.post("/v1/report", json=body), 422)["errors"][0]["field"] == "receipt"
    body = {"receipt": "", "from_number": OTHER, "code": 2027}
    problem(sidecar.post("/v1/report", json=body), 404)
    assert guard.lines() == before


def test_a_receipt_of_another_pool_is_422(start: Start, guard: SendGuard, pool: str) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    decision = ask(start(policy=ONE_AT_A_TIME, hash_key="shared"))
    stranger = start(pool=f"{pool}-other", hash_key="shared", policy=ONE_AT_A_TIME)
    before = guard.lines()
    problem(report(stranger, decision, outcome="not_sent"), 422)
    assert guard.lines() == before
    assert stranger.get("/v1/lines").json() == {"lines": []}


# Lines ---------------------------------------------------------------------------------------------------------------


def test_lines_are_listed_paused_and_resumed(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="BEWITCHED")
    (line,) = sidecar.get("/v1/lines").json()["lines"]
    assert (line["number"], line["status"], line["health"], line["raw_health"]) == (
        LINE,
        "ACTIVE",
        "AT_RISK",
        "BEWITCHED",
    )
    assert (line["paused"], line["may_send"], line["next_send_at"]) == (False, True, None)
    assert sidecar.get(f"/v1/lines/{LINE}").json() == line

    paused = sidecar.post(f"/v1/lines/{LINE}/pause").json()
    assert (paused["paused"], paused["paused_until"], paused["may_send"]) == (True, None, False)
    assert problem(ask(sidecar), 409)["reason"] == "paused"
    until = time.time() + 100
    assert sidecar.post(f"/v1/lines/{LINE}/pause", json={"until": until}).json()["paused_until"] == pytest.approx(until)
    assert problem(ask(sidecar), 429)["reason"] == "paused"
    assert not sidecar.post(f"/v1/lines/{LINE.replace('+', '%2B')}/resume").json()["paused"]
    assert ask(sidecar).status_code == 200


def test_an_unknown_line_is_404(sidecar: httpx.Client) -> None:
    for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume")):
        body = problem(sidecar.request(method, f"/v1/lines/{OTHER}{path}"), 404)
        assert OTHER not in json.dumps(body)
        errors = problem(sidecar.request(method, f"/v1/lines/nonsense{path}"), 422)["errors"]
        assert [error["field"] for error in errors] == ["number"]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("to", {}),
        ("to", {"to": []}),
        ("to", {"to": ""}),
        ("to", {"to": None}),
        ("to", {"to": 14155550199}),
        ("to", {"to": "4155550199"}),
        ("to", {"to": [PERSON, {"a": 1}]}),
        ("to", {"to": [f"+1415556{i:04d}" for i in range(1000)]}),
        ("to", {"to": PERSON + "\0"}),
        ("to", {"to": "\ud800"}),
        ("kind", {"to": PERSON, "kind": "carrier_pigeon"}),
        ("from_number", {"to": PERSON, "from_number": "+1415555019x"}),
        ("exclude", {"to": PERSON, "exclude": LINE}),
        ("exclude", {"to": PERSON, "exclude": ["\ud800"]}),
        ("line_type", {"to": PERSON, "line_type": "pager"}),
        ("idempotency_key", {"to": PERSON, "idempotency_key": ""}),
        ("idempotency_key", {"to": PERSON, "idempotency_key": "k" * 256}),
        ("max_wait", {"to": PERSON, "max_wait": True}),
        ("max_wait", {"to": PERSON, "max_wait": "5"}),
        ("max_wait", {"to": PERSON, "max_wait": -1}),
        ("max_wait", {"to": PERSON, "max_wait": 61}),
        ("max_wait", {"to": PERSON, "max_wait": 10**400}),
        ("max_wait", {"to": PERSON, "max_wait": math.nan}),
        ("max_wait", {"to": PERSON, "max_wait": math.inf}),
        ("to_all", {"to": PERSON, "to_all": 1}),
        ("body", {"to": PERSON, "+14155550199": 1}),
        ("body", [PERSON]),
        ("body", None),
    ],
)
def test_bad_input_is_422_that_names_the_field_and_repeats_nothing(
    sidecar: httpx.Client, guard: SendGuard, field: str, body: Any
) -> None:
    guard.observe(LINE, status="ACTIVE", observed_at=1)
    before = guard.lines()
    response = sidecar.post(
        "/v1/choose-from-number", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    found = problem(response, 422)
    assert [error["field"] for error in found["errors"]] == [field]
    assert "555" not in response.text.replace("+12025550101", ""), "the example is all that looks like a number"
    assert guard.lines() == before


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b"", {422}),
        (b'{"to": "+1415555', {422}),
        (b'{"to": "\xff\xfe"}', {400}),
        (b"[" * 60_000, {400, 422}),
        (b'{"max_wait": ' + b"9" * 5000 + b"}", {400, 422}),
        (b'{"to": "' + b"1" * API_MAX_BODY + b'"}', {413}),
    ],
)
def test_an_unreadable_body_is_a_4xx(sidecar: httpx.Client, content: bytes, statuses: set[int]) -> None:
    response = sidecar.post("/v1/choose-from-number", content=content, headers={"content-type": "application/json"})
    assert response.status_code in statuses
    problem(response, response.status_code)


def test_a_streamed_body_without_length_is_cut_at_the_limit(sidecar: httpx.Client) -> None:
    chunks = (b"x" * 1000 for _ in range(66))
    response = sidecar.post("/v1/report", content=chunks, headers={"content-type": "application/json"})
    problem(response, 413)


def test_404_405_and_500_are_problems_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = start()
    problem(sidecar.get("/nothing"), 404)
    response = sidecar.delete("/v1/lines")
    problem(response, 405)
    assert response.headers["allow"] == "GET"

    async def broken(*_: Any) -> None:
        raise RuntimeError(f"about {PERSON}")

    monkeypatch.setattr(Service, "choose", broken)
    response = ask(sidecar)
    problem(response, 500)
    assert PERSON not in response.text


# Who may ask ---------------------------------------------------------------------------------------------------------


def test_law_10_without_a_token_nothing_is_answered_and_nothing_changes(start: Start, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE")
    sidecar = start(tokens=TOKENS)
    before = guard.lines()
    calls = [
        ("POST", "/v1/choose-from-number"),
        ("POST", "/v1/report"),
        ("GET", "/v1/lines"),
        ("POST", f"/v1/lines/{LINE}/pause"),
        ("POST", f"//v1/lines/{LINE}/pause"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/healthz/../v1/lines"),
    ]
    wrong: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer first-toke")],
        [("Authorization", "Bearer first-token,second-token")],
        [("Authorization", f"Basic {TOKENS[0]}")],
        [("Authorization", TOKENS[0])],
        [("Authorization", f"Bearer {TOKENS[0]}"), ("Authorization", "Bearer x")],
        [("X-Authorization", f"Bearer {TOKENS[0]}")],
        [("Authorization", "Bearer \xfc")],
    ]
    for method, path in calls:
        for headers in wrong:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            response = sidecar.request(method, path, headers=raw)
            problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
    assert guard.lines() == before
    for path in ("/healthz", "/readyz"):
        assert sidecar.get(path).status_code == 200


@pytest.mark.parametrize("token", TOKENS)
def test_each_of_the_tokens_is_good(start: Start, guard: SendGuard, token: str) -> None:
    guard.observe(LINE, status="ACTIVE")
    sidecar = start(tokens=TOKENS)
    sidecar.headers["authorization"] = f"bearer {token}"
    assert ask(sidecar).status_code == 200
    assert sidecar.get("/metrics").status_code == 200
    document = sidecar.get("/openapi.json").json()
    assert document["paths"]["/v1/lines"]["get"]["security"]
    assert "security" not in document["paths"]["/webhooks/linq"]["post"]


# Webhooks and polls --------------------------------------------------------------------------------------------------


def test_law_1_a_webhook_through_the_sidecar_stops_the_next_decision(start: Start, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", observed_at=1)
    sidecar = start(tokens=TOKENS)
    sidecar.headers["authorization"] = f"Bearer {TOKENS[0]}"
    assert ask(sidecar).status_code == 200
    body = json.dumps(payload("status_updated.reputation")).encode()

    def deliver(content: bytes) -> httpx.Response:
        return httpx.post(f"{sidecar.base_url}/webhooks/linq", content=content, headers=signed)

    signed: dict[str, str] = {}
    problem(deliver(body), 401)
    assert guard.lines()[0].status is LineStatus.ACTIVE
    signed = standard_headers(body, time.time())
    assert deliver(body).status_code == 200
    assert sidecar.get(f"/v1/lines/{LINE}").json()["status"] == "FLAGGED"
    assert problem(ask(sidecar), 409)["reason"] == "flagged"
    signed = standard_headers(b"[]", time.time())
    problem(deliver(b"[]"), 400)
    problem(deliver(b" " * (1024 * 1024 + 1)), 413)
    found = metrics(sidecar)
    assert found["sendguard_webhooks_total", ("applied",)] == 1
    assert found["sendguard_webhooks_total", ("unauthentic",)] == 1
    assert found["sendguard_webhooks_total", ("unreadable",)] == 1
    assert found["sendguard_webhooks_total", ("too_large",)] == 1


def test_it_polls_in_the_background_and_says_when_it_is_ready(start: Start, guard: SendGuard) -> None:
    api = Simulator([LINE, OTHER], port=free_port())
    sidecar = start(poll_interval=0.2, api_key=api.api_key, api_base_url=api.base_url)
    assert problem(sidecar.get("/readyz"), 503)["detail"] == "no line is known yet"
    guard.observe(LINE, status="ACTIVE")
    assert problem(sidecar.get("/readyz"), 503)["detail"] == "there was no poll yet"
    assert math.isnan(metrics(sidecar)["sendguard_poll_age_seconds", ()])
    with api:
        wait_until(lambda: sidecar.get("/readyz").status_code == 200)
        assert [line["number"] for line in sidecar.get("/v1/lines").json()["lines"]] == [LINE, OTHER]
        assert metrics(sidecar)["sendguard_poll_age_seconds", ()] < 20
    wait_until(lambda: sidecar.get("/readyz").status_code == 503)
    assert "the last poll was" in problem(sidecar.get("/readyz"), 503)["detail"]


def test_polling_has_stopped_when_the_store_is_closed(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    polling: list[bool] = []

    def is_polling() -> bool:
        return any(task.get_name() == "sendguard-poller" for task in asyncio.all_tasks())

    async def close(_: AsyncSendGuard) -> None:
        polling.append(is_polling())

    async def live() -> None:
        app = create_app(Settings(store=f"memory://{pool}", api_key="k", api_base_url="http://127.0.0.1:1"))
        async with app.router.lifespan_context(app):
            polling.append(is_polling())

    monkeypatch.setattr(AsyncSendGuard, "close", close)
    asyncio.run(live())
    assert polling == [True, False]


def test_it_is_not_ready_without_its_store(start: Start, tmp_path: Path, pool: str) -> None:
    store = Server(valkey_binary(), tmp_path)
    sidecar = start(store=store.url)
    with SendGuard(store.url, pool=pool, timeout=5.0) as guard:
        guard.observe(LINE, status="ACTIVE")
    assert sidecar.get("/readyz").text == "ok"
    store.stop()
    assert problem(sidecar.get("/readyz"), 503)["detail"] == "the store is out of reach"


# Metrics -------------------------------------------------------------------------------------------------------------


def metrics(sidecar: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels but for the pool, in the order of their names."""
    response = sidecar.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(value for name, value in sorted(sample.labels.items()) if name != "pool")): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_tell_of_decisions_and_lines(sidecar: httpx.Client, guard: SendGuard) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    guard.observe(OTHER, status="FLAGGED", health="CRITICAL")
    ask(sidecar), ask(sidecar), ask(sidecar, max_wait=0.001)
    found = metrics(sidecar)
    assert found["sendguard_decisions_total", ("true", "new_conversation")] == 1
    assert found["sendguard_decisions_total", ("false", "throttled")] == 2
    assert found["sendguard_decision_seconds_count", ("false",)] == 2
    assert found["sendguard_decision_seconds_count", ("true",)] == 1
    assert found["sendguard_lines", ("AT_RISK", "ACTIVE")] == 1
    assert found["sendguard_lines", ("CRITICAL", "FLAGGED")] == 1
    assert found["sendguard_lines", ("HEALTHY", "ACTIVE")] == 0
    assert found["sendguard_store_up", ()] == 1
    assert 0 <= found["sendguard_observation_age_seconds", ()] < 60


def test_two_apps_count_apart(start: Start) -> None:
    first, second = start(), start()
    ask(first)
    assert metrics(first)["sendguard_decisions_total", ("false", "no_lines")] == 1
    assert metrics(second)["sendguard_decisions_total", ("false", "no_lines")] == 0


# The page ------------------------------------------------------------------------------------------------------------


def test_the_page_names_every_setting_and_call(sidecar: httpx.Client) -> None:
    page = (Path(__file__).parent.parent / "docs" / "sidecar.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? *\|", page, re.MULTILINE))
    assert told.keys() == Settings.model_fields.keys()
    for name, default in told.items():
        if default:
            value = Settings.model_fields[name].default
            assert str(value.get_secret_value() if name == "store" else value) == default, name
    for path in sidecar.get("/openapi.json").json()["paths"]:
        assert path.replace("{number}", LINE) in page, path


# The process ---------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from sendguard.cli import main; main()", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_check_names_what_is_wrong_in_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('port = "eighty"\nstoar = "x"\n[policy]\nat_risk = { tokens = -1, per = 60 }\n')
    result = run("serve", "--check", "--config", str(file), SENDGUARD_STORE="redis://:hush/hush@db/0")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["store", "policy", "port", "stoar"]
    assert "hush" not in result.stderr
    assert result.stdout == ""


def test_the_file_of_the_page_is_good(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "sidecar.md").read_text("utf-8")
    file = tmp_path / "sidecar.toml"
    file.write_text(page.partition("```toml\n")[2].partition("```")[0])
    policy = Settings.load(file, poll_interval=0).policy.policy()
    assert policy.daily_volume is None
    assert policy.limits_of(LINE)["new_conversations"].limit == 20


def test_check_accepts_what_is_good(tmp_path: Path, pool: str) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(
        f'pool = "{pool}"\npoll_interval = 0\n[policy]\nat_risk = "none"\n'
        f'[policy.overrides."{LINE}"]\ndaily_volume = {{ limit = 5, per = 60 }}\n'
    )
    result = run("serve", "--check", "--config", str(file), LINQ_WEBHOOK_SECRET=SECRET, SENDGUARD_STORE="redis://db/0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "the configuration is good\n", "")


def test_an_address_of_the_network_needs_a_token() -> None:
    result = run("serve", "--host", "0.0.0.0", SENDGUARD_POLL_INTERVAL="0")
    assert result.returncode == 2
    assert "host" in result.stderr
    assert "tokens" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
def test_what_is_not_loopback_is_refused_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="tokens"):
        Settings.load(host=host, poll_interval=0)
    assert Settings.load(host=host, poll_interval=0, tokens=["t"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert Settings.load(host=host, poll_interval=0).host == host


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('pool = "file"\nport = 1\ntimeout = 3\npoll_interval = 0\n[policy]\nmode = "observe"\n')
    monkeypatch.setenv("SENDGUARD_POOL", "environment")
    monkeypatch.setenv("SENDGUARD_TOKENS", "a, b")
    monkeypatch.setenv("SENDGUARD_POLICY__AT_RISK__TOKENS", "3")
    monkeypatch.setenv("SENDGUARD_POLICY__AT_RISK__PER", "4")
    monkeypatch.setenv("LINQ_WEBHOOK_SECRET", "hush-1,hush-2")
    monkeypatch.setenv("LINQ_API_V3_BASE_URL", "https://linq.example")
    settings = Settings.load(file, port=2)
    assert (settings.pool, settings.port, settings.timeout) == ("environment", 2, 3)
    assert [token.get_secret_value() for token in settings.tokens] == ["a", "b"]
    assert [secret.get_secret_value() for secret in settings.webhook_secret] == ["hush-1", "hush-2"]
    assert settings.api_base_url == "https://linq.example"
    policy = settings.policy.policy()
    assert policy.mode == "observe"
    assert policy.at_risk is not None
    assert (policy.at_risk.tokens, policy.at_risk.per) == (3, 4)
    assert "hush" not in repr(settings)


def test_a_missing_extra_is_one_clear_line(tmp_path: Path) -> None:
    for package in ("typer", "fastapi"):
        code = f"import sys; sys.modules[{package!r}] = None; from sendguard.cli import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", code, "serve"], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
        )
        assert result.returncode == 2
        assert result.stderr == "sendguard: the command needs more packages: pip install 'sendguard[sidecar]'\n"


def test_sigterm_loses_no_decision_in_flight(valkey: Server, pool: str, slow: SendGuard, tmp_path: Path) -> None:
    file, port = tmp_path / "sidecar.toml", free_port()
    file.write_text("poll_interval = 0\n[policy]\nat_risk = { tokens = 1, per = 3, burst = 1 }\n")
    environment = {"SENDGUARD_STORE": valkey.url, "SENDGUARD_POOL": pool, "SENDGUARD_TIMEOUT": "5"}
    slow.observe(LINE, status="ACTIVE", health="AT_RISK")
    process = subprocess.Popen(command("serve", "--config", str(file), "--port", str(port)), env=environment)
    base = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor() as threads, httpx.Client(base_url=base, timeout=30) as sidecar:
        wait_until(lambda: _answers(base))
        assert ask(sidecar).status_code == 200
        first_slot = slow.lines()[0].next_send_at
        waiting = threads.submit(lambda: ask(sidecar, max_wait=30))
        wait_until(lambda: slow.lines()[0].next_send_at != first_slot)
        process.terminate()
        wait_until(lambda: not _answers(base))
        assert waiting.result().status_code == 200
        assert waiting.result().json()["from_number"] == LINE
    assert process.wait(20) == 0


def _answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/healthz").status_code == 200
    except httpx.TransportError:
        return False


# Whole ---------------------------------------------------------------------------------------------------------------


def test_a_sender_without_the_library_is_guarded(start: Start, guard: SendGuard) -> None:
    """Plain HTTP asks the sidecar and sends; lines turn FLAGGED meanwhile. The simulator's record is the judge."""
    numbers = [f"+1202555010{i}" for i in range(1, 5)]
    with Simulator(numbers, webhook_secret=SECRET) as api, httpx.Client(base_url=api.base_url) as linq:
        linq.headers["authorization"] = f"Bearer {api.api_key}"
        sidecar = start(poll_interval=30, api_key=api.api_key, api_base_url=api.base_url)
        api.subscribe(f"{sidecar.base_url}/webhooks/linq")
        wait_until(lambda: sidecar.get("/readyz").status_code == 200)
        asked: dict[Any, float] = {}

        def send(person: str) -> None:
            began = time.time()
            decision = ask(sidecar, person)
            if decision.status_code == 200:
                number = decision.json()["from_number"]
                message = {"parts": [{"type": "text", "value": f"{person} {began}"}]}
                answer = linq.post("/v3/chats", json={"from": number, "to": [person], "message": message})
                asked[api.sends[-1]] = began
                code = answer.json().get("error", {}).get("code")
                report(sidecar, decision, outcome="sent" if answer.is_success else "not_sent", code=code)

        flipping = threading.Thread(target=_flip, args=(api, numbers))
        flipping.start()
        for i in range(120):
            send(f"+1415555{i % 40:04d}")
        flipping.join()
        assert api.drain()
        for i in range(40):
            send(f"+1415555{i:04d}")
        flagged = judge.spans(api.events, api.deliveries, "status")
        assert any(span.value == "FLAGGED" for span in flagged)
        assert judge.sent_on_flagged(api.sends, asked, flagged) == []
        assert sum(record.accepted for record in api.sends) > 100

        api.make_ineligible(numbers[3], math.inf)
        while guard.lines()[3].cooling_down_until is None:
            send(f"+1415556{len(asked):04d}")
        assert guard.decide(PERSON, from_number=numbers[3]).reason is Reason.COOLING_DOWN


def _flip(api: Simulator, numbers: list[str]) -> None:
    for number in numbers[:2]:
        api.flip(number, status="FLAGGED")
        sends = len(api.sends)
        wait_until(lambda sends=sends: len(api.sends) > sends + 20)  # type: ignore[misc]
    api.flip(numbers[0], status="ACTIVE")
