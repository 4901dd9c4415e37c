"""Both API clients against a real HTTP server on this machine: what they send, retry, wait for and give away."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sendguard.errors import LinqError
from sendguard.linq import AsyncLinqClient, LinqClient
from sendguard.linq.client import backoff, retry_after
from sendguard.linq.events import LineUpdate

PAYLOADS = Path(__file__).parent / "payloads"
KEY = "linq-key-9f8e7d"
LINES = (
    LineUpdate("+12025550101", 7.0, health="HEALTHY", line_type="iMessage", assigned=True),
    LineUpdate("+12025550102", 7.0, health="AT_RISK", line_type="RCS", assigned=True),
)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


def from_file(status: int, name: str, **headers: str) -> Answer:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(status, (PAYLOADS / f"{name}.json").read_bytes(), named)


GOOD = from_file(200, "phone_numbers.reputation")


class Linq:
    """A server that gives its answers in turn, the last one for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [GOOD]
        self.requests: list[tuple[str, str, str | None]] = []
        self.done = threading.Event()
        linq = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                linq.requests.append((self.command, self.path, self.headers["Authorization"]))
                answer = linq.answers.pop(0) if len(linq.answers) > 1 else linq.answers[0]
                if answer.hang_up:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                linq.done.wait(answer.delay)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that gave up waiting

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/partner"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def linq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Linq]:
    for name in ("LINQ_API_KEY", "LINQ_API_V3_API_KEY", "LINQ_API_V3_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    server = Linq()
    yield server
    server.close()


Poll = Callable[..., tuple[tuple[LineUpdate, ...], list[float]]]


def poll_sync(**settings: Any) -> tuple[tuple[LineUpdate, ...], list[float]]:
    waits: list[float] = settings.pop("waits", [])
    with LinqClient(**settings, sleep=waits.append) as client:
        return client.phone_numbers(7.0), waits


def poll_async(**settings: Any) -> tuple[tuple[LineUpdate, ...], list[float]]:
    waits: list[float] = settings.pop("waits", [])

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def run() -> tuple[LineUpdate, ...]:
        async with AsyncLinqClient(**settings, sleep=sleep) as client:
            return await client.phone_numbers(7.0)

    return asyncio.run(run()), waits


@pytest.fixture(params=[poll_sync, poll_async], ids=["sync", "async"])
def poll(request: pytest.FixtureRequest, linq: Linq) -> Poll:
    def run(**settings: Any) -> tuple[tuple[LineUpdate, ...], list[float]]:
        return request.param(**{"api_key": KEY, "base_url": linq.url, **settings})

    return run


def failure(poll: Poll, **settings: Any) -> LinqError:
    with pytest.raises(LinqError) as caught:
        poll(**settings)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert KEY not in shown
    return caught.value


def test_a_poll_is_one_authorized_request(poll: Poll, linq: Linq) -> None:
    assert poll() == (LINES, [])
    assert linq.requests == [("GET", "/api/partner/v3/phone_numbers", f"Bearer {KEY}")]


@pytest.mark.parametrize("suffix", ["/", "/v3", "/v3/"])
def test_the_base_url_is_what_precedes_v3(poll: Poll, linq: Linq, suffix: str) -> None:
    assert poll(base_url=linq.url + suffix)[0] == LINES
    assert linq.requests[0][1] == "/api/partner/v3/phone_numbers"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_retried_after_a_backoff(poll: Poll, linq: Linq, status: int) -> None:
    linq.answers = [Answer(status), Answer(status), GOOD]
    lines, waits = poll()
    assert lines == LINES
    assert len(waits) == 2
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_a_connection_that_breaks_is_retried(poll: Poll, linq: Linq) -> None:
    linq.answers = [Answer(hang_up=True), GOOD]
    lines, waits = poll()
    assert (lines, len(waits)) == (LINES, 1)


def test_a_timeout_is_retried_and_then_told(poll: Poll, linq: Linq) -> None:
    linq.answers = [Answer(delay=30.0)]
    waits: list[float] = []
    error = failure(poll, timeout=0.05, retries=1, waits=waits)
    assert (str(error), error.status, error.code) == ("GET /v3/phone_numbers failed: ReadTimeout", None, None)
    assert (len(waits), len(linq.requests)) == (1, 2)


def test_a_server_that_is_not_there_is_retried_and_then_told(poll: Poll) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        waits: list[float] = []
        error = failure(poll, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}", waits=waits)
    assert (str(error), len(waits)) == ("GET /v3/phone_numbers failed: ConnectError", 2)


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_retries_are_counted_after_the_first_attempt(poll: Poll, linq: Linq, retries: int) -> None:
    linq.answers = [from_file(500, "error.500.3006")]
    waits: list[float] = []
    error = failure(poll, retries=retries, waits=waits)
    assert (error.status, error.code, str(error)) == (500, 3006, "GET /v3/phone_numbers got HTTP 500, code 3006")
    assert (len(linq.requests), len(waits)) == (retries + 1, retries)


@pytest.mark.parametrize(("told", "waited"), [("3", 3.0), ("0", 0.0), ("1.5", 1.5), ("45", 30.0), ("9" * 400, 30.0)])
def test_retry_after_is_honoured_up_to_30_seconds(poll: Poll, linq: Linq, told: str, waited: float) -> None:
    linq.answers = [from_file(429, "error.429.1007", Retry_After=told), GOOD]
    assert poll() == (LINES, [waited])


def test_retry_after_may_be_a_date(poll: Poll, linq: Linq) -> None:
    linq.answers = [Answer(503, headers={"Retry-After": formatdate(time.time() + 20, usegmt=True)}), GOOD]
    _, (wait,) = poll()
    assert 17 <= wait <= 20


@pytest.mark.parametrize(
    ("status", "name", "code"), [(403, "error.403.2006", 2006), (403, "error.403.2027", 2027), (401, "", None)]
)
def test_a_final_refusal_is_not_retried(poll: Poll, linq: Linq, status: int, name: str, code: int | None) -> None:
    linq.answers = [from_file(status, name) if name else Answer(status, b"<html>")]
    error = failure(poll)
    assert (error.status, error.code, len(linq.requests)) == (status, code, 1)


def test_an_error_repeats_nothing_of_the_answer(poll: Poll, linq: Linq) -> None:
    body = {"error": {"code": 2004, "message": f"invalid key {KEY} of +12025550101"}}
    linq.answers = [Answer(401, json.dumps(body).encode())]
    assert str(failure(poll)) == "GET /v3/phone_numbers got HTTP 401, code 2004"


def test_a_redirect_is_not_followed(poll: Poll, linq: Linq) -> None:
    linq.answers = [Answer(302, headers={"Location": "http://127.0.0.1:1/elsewhere"})]
    assert (failure(poll).status, len(linq.requests)) == (302, 1)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_an_answer_that_is_not_json_is_an_error(poll: Poll, linq: Linq, body: bytes) -> None:
    linq.answers = [Answer(200, body)]
    error = failure(poll)
    assert (error.status, str(error)) == (200, "GET /v3/phone_numbers got an answer that is not JSON")


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"phone_numbers": null}', b"null"])
def test_an_answer_without_a_list_is_an_error(poll: Poll, linq: Linq, body: bytes) -> None:
    linq.answers = [Answer(200, body)]
    assert "phone_numbers: not a list" in str(failure(poll))


@pytest.mark.parametrize("code", ["4002", True, 2.5, None, -1, 10**30])
def test_an_error_code_is_a_plausible_number_or_none(poll: Poll, linq: Linq, code: Any) -> None:
    linq.answers = [Answer(400, json.dumps({"error": {"code": code}}).encode())]
    assert failure(poll).code is None


def test_settings_come_from_the_environment(poll: Poll, linq: Linq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_V3_BASE_URL", linq.url)
    monkeypatch.setenv("LINQ_API_V3_API_KEY", "the-sdk-name")
    poll(api_key=None, base_url=None)
    monkeypatch.setenv("LINQ_API_KEY", "the-docs-name\n")
    poll(api_key=None, base_url=None)
    poll()
    assert [key for _, _, key in linq.requests] == ["Bearer the-sdk-name", "Bearer the-docs-name", f"Bearer {KEY}"]


CLIENTS = pytest.mark.parametrize("client", [LinqClient, AsyncLinqClient])


@CLIENTS
@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"api_key": None}, "api_key"),
        ({"api_key": " "}, "api_key"),
        ({"api_key": f"{KEY}\r\nX: y"}, "api_key"),
        ({"api_key": f"{KEY}é"}, "api_key"),
        ({"base_url": "api.linqapp.com"}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "https://"}, "base_url"),
        ({"base_url": "https://me:pass@x"}, "base_url"),
        ({"base_url": "https://x:y"}, "base_url"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_bad_settings_are_named_without_the_key(client: Any, settings: Any, argument: str, linq: Linq) -> None:
    with pytest.raises(ValueError, match=f"^{argument}") as caught:
        client(**{"api_key": KEY, "base_url": linq.url, **settings})
    assert KEY not in str(caught.value)


@CLIENTS
def test_a_client_shows_where_it_calls_but_no_key(client: Any, linq: Linq) -> None:
    made = client(KEY, linq.url)
    assert repr(made) == f"{client.__name__}(base_url={linq.url!r})"
    assert KEY not in repr(vars(made))
    assert repr(client(KEY)) == f"{client.__name__}(base_url='https://api.linqapp.com/api/partner')"


def test_a_transport_can_be_put_in() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=GOOD.body, request=request)

    transport = httpx.MockTransport(answer)
    assert poll_sync(api_key=KEY, transport=transport)[0] == LINES
    assert poll_async(api_key=KEY, transport=transport)[0] == LINES


def test_backoff_doubles_from_half_a_second_to_eight() -> None:
    assert [backoff(attempt, 0.0) for attempt in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert [backoff(attempt, 1.0) for attempt in (0, 1, 4, 10_000)] == [1, 2, 8, 8]


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "nan", "inf", "1e3", "٣", "Thu, 99 Jan 2026 00:00:00 GMT"])
def test_a_retry_after_that_cannot_be_read_is_none(header: str | None) -> None:
    assert retry_after(header, 0.0) is None


def test_a_retry_after_date_is_from_0_to_30_seconds() -> None:
    date = "Thu, 01 Jan 1970 00:01:40 GMT"
    assert [retry_after(date, now) for now in (0.0, 75.5, 100.0, 200.0)] == [30, 24.5, 0, 0]
    assert retry_after("Thu, 01 Jan 1970 00:01:40 -0000", 90.0) == 10
