"""The webhook endpoint, mounted as docs/webhooks.md says in FastAPI, Starlette, Flask and Django."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendguard import AsyncSendGuard, LineStatus, Reason, SendGuard
from sendguard.linq.webhooks import MAX_BODY
from sendguard.middleware.webhooks import WebhookApp, webhook_response
from tests.serving import Served
from tests.support import OTHER_SECRET, SECRET, older_headers, payload, standard_headers

LINE = "+12025550101"
PAGE = (Path(__file__).parent.parent / "docs" / "webhooks.md").read_text("utf-8")
SNIPPETS = dict(re.findall(r"In (\w+):\n\n```py\n(.*?)```", PAGE, re.DOTALL))
FLAGGED = json.dumps(payload("status_updated.reputation")).encode()
Post = Callable[[bytes, dict[str, str]], httpx.Response]


def signed(body: bytes) -> dict[str, str]:
    return standard_headers(body, time.time())


@pytest.fixture
def guard(valkey: Any, pool: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SendGuard]:
    """A guard that knows one ACTIVE line; the environment names the same store and pool."""
    for name, value in (("STORE", valkey.url), ("POOL", pool), ("TIMEOUT", "5")):
        monkeypatch.setenv(f"SENDGUARD_{name}", value)
    monkeypatch.setenv("LINQ_WEBHOOK_SECRET", SECRET)
    with SendGuard.from_env() as guard:
        guard.observe(LINE, status="ACTIVE", observed_at=1)
        yield guard


def django_app(snippet: str) -> Any:
    import django
    from django.conf import settings as configuration
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import clear_url_caches, path, set_urlconf

    if not configuration.configured:
        configuration.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=(), LOGGING_CONFIG=None)
        django.setup()
    names: dict[str, Any] = {"__name__": __name__}
    exec(snippet, names)
    clear_url_caches()
    configuration.ROOT_URLCONF = (path("webhooks/linq", names["linq_webhook"]),)
    set_urlconf(None)
    return WSGIHandler()


@pytest.fixture(params=["FastAPI", "Starlette", "Flask", "Django"])
def client(request: pytest.FixtureRequest, guard: SendGuard) -> Iterator[httpx.Client]:
    """A client of an app of each framework in turn."""
    assert guard
    snippet = SNIPPETS[request.param]
    with ExitStack() as stack:
        if request.param == "Django":
            client = httpx.Client(transport=httpx.WSGITransport(app=django_app(snippet)), base_url="http://linq")
        else:
            names: dict[str, Any] = {"__name__": __name__}
            exec(snippet, names)
            if request.param == "Flask":
                client = httpx.Client(transport=httpx.WSGITransport(app=names["app"]), base_url="http://linq")
            else:
                client = httpx.Client(base_url=stack.enter_context(Served(names["app"])).url)
        stack.enter_context(client)
        yield client


@pytest.fixture
def post(client: httpx.Client) -> Post:
    return lambda body, headers: client.post("/webhooks/linq", content=body, headers=headers)


def test_a_signed_webhook_flags_the_line(post: Post, guard: SendGuard) -> None:
    assert post(FLAGGED, signed(FLAGGED)).status_code == 200
    assert guard.lines()[0].status is LineStatus.FLAGGED
    assert guard.decide("+14155550123").reason is Reason.FLAGGED
    assert post(FLAGGED, older_headers(FLAGGED, time.time())).status_code == 200, "a duplicate is taken, and is no news"


def test_what_nobody_shows_to_be_linqs_is_401_and_changes_nothing(post: Post, guard: SendGuard) -> None:
    before = guard.lines()
    for headers in (
        {},
        standard_headers(FLAGGED, time.time(), OTHER_SECRET),
        standard_headers(FLAGGED, time.time() - 301),
        standard_headers(FLAGGED + b" ", time.time()),
        {**signed(FLAGGED), "webhook-signature": "v1,"},
    ):
        response = post(FLAGGED, headers)
        assert response.status_code == 401, headers
        assert LINE not in response.text
    assert guard.lines() == before


def test_what_is_linqs_and_not_readable_is_400(post: Post, guard: SendGuard) -> None:
    before = guard.lines()
    nameless = json.dumps({**payload("status_updated.reputation"), "data": {"new_status": "FLAGGED"}}).encode()
    for body in (b"", b"[]", b"{", FLAGGED[:-10], nameless):
        assert post(body, signed(body)).status_code == 400, body
    assert guard.lines() == before


def test_a_body_past_the_limit_is_413(post: Post, guard: SendGuard) -> None:
    before = guard.lines()
    body = b" " * (MAX_BODY + 1)
    assert post(body, signed(body)).status_code == 413
    assert guard.lines() == before


def test_a_get_is_405(client: httpx.Client) -> None:
    response = client.get("/webhooks/linq")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


def test_a_store_out_of_reach_is_503_so_that_linq_delivers_again() -> None:
    with SendGuard("redis://127.0.0.1:1/0", webhook_secret=SECRET) as guard:
        assert webhook_response(guard, FLAGGED, signed(FLAGGED)).status == 503
    app = WebhookApp(AsyncSendGuard("redis://127.0.0.1:1/0", webhook_secret=SECRET))
    with Served(app) as server:
        assert httpx.post(server.url, content=FLAGGED, headers=signed(FLAGGED)).status_code == 503


def test_a_streamed_body_is_not_read_past_the_limit(guard: SendGuard) -> None:
    """Without a Content-Length, and without end: the answer comes all the same."""
    read: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append(65536)
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = WebhookApp(AsyncSendGuard.from_env())
    step = app({"type": "http", "method": "POST", "headers": []}, receive, send).send
    with pytest.raises(StopIteration):
        step(None)
    assert sent[0]["status"] == 413
    assert sum(read) <= MAX_BODY + 65536
    assert guard.lines()[0].status is LineStatus.ACTIVE


def test_a_client_that_leaves_within_a_body_changes_nothing(guard: SendGuard) -> None:
    messages = iter([{"type": "http.request", "body": FLAGGED, "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(name.encode(), value.encode()) for name, value in signed(FLAGGED).items()]
    app = WebhookApp(AsyncSendGuard.from_env())
    with pytest.raises(StopIteration):
        app({"type": "http", "method": "POST", "headers": headers}, receive, send).send(None)
    assert guard.lines()[0].status is LineStatus.ACTIVE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)
header_names = st.sampled_from([*signed(b""), *older_headers(b"", 1), "Content-Type"]) | st.text(max_size=20)
unsigned_headers = st.lists(st.tuples(header_names, st.text(max_size=80)), max_size=6)


@settings(max_examples=300)
@given(body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()) | st.just(FLAGGED),
       headers=unsigned_headers)  # fmt: skip
def test_law_10_no_forged_webhook_raises_or_changes_anything(body: bytes, headers: list[tuple[str, str]]) -> None:
    with SendGuard("memory://", webhook_secret=SECRET) as guard:
        guard.observe(LINE, status="ACTIVE", observed_at=1)
        before = guard.lines()
        assert webhook_response(guard, body, headers).status == 401
        assert guard.lines() == before


@settings(max_examples=300)
@given(
    event=st.sampled_from(["status_updated.reputation", "message.received", "message.failed.4002", "message.sent"]),
    path=st.lists(
        st.sampled_from(["data", "event_id", "phone_number", "new_status", "changed_at", "chat"]), max_size=3
    ),
    value=json_values,
)
def test_an_authentic_webhook_of_any_shape_raises_nothing(event: str, path: list[str], value: Any) -> None:
    body: Any = payload(event)
    at = body
    for name in path[:-1]:
        at = at[name] if isinstance(at.get(name), dict) else at
    if path:
        at[path[-1]] = value
    raw = json.dumps(body).encode()
    with SendGuard("memory://", webhook_secret=SECRET) as guard:
        guard.observe(LINE, status="ACTIVE", observed_at=1)
        assert webhook_response(guard, raw, signed(raw)).status in (200, 400)
