"""What fills the page, without a browser: the stream, its one reader, and who may ask the sidecar for what."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest
import redis

from sendguard import AsyncSendGuard, DecisionRecord, Policy, Quota, Reason, SendGuard, TokenBucket
from sendguard.sidecar import page
from sendguard.sidecar.app import create_app
from sendguard.sidecar.page import feed as feeds
from sendguard.sidecar.page.feed import Feed
from sendguard.sidecar.page.minutes import Minutes
from sendguard.sidecar.service import Service
from sendguard.sidecar.settings import Settings
from tests import scene
from tests.servers import Server, free_port
from tests.serving import serving
from tests.support import wait_until

LINE, OTHER = scene.number(100), scene.number(101)
Start = Callable[..., httpx.Client]


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    with SendGuard(valkey.url, pool=pool, timeout=5.0) as guard:
        yield guard


@pytest.fixture
def start(valkey: Server, pool: str) -> Iterator[Start]:
    """Starts a sidecar and returns a client of it; the app is the client's `app`."""
    with ExitStack() as stack:

        def start(**options: Any) -> httpx.Client:
            app = create_app(
                Settings(**{"store": valkey.url, "pool": pool, "timeout": 5.0, "poll_interval": 0, **options})
            )
            server = stack.enter_context(serving(app))
            client = stack.enter_context(httpx.Client(base_url=server.url, timeout=30))
            client.app = app  # type: ignore[attr-defined]
            return client

        yield start


def read(event: bytes) -> dict[str, Any]:
    name, data, *rest = event.decode().split("\n")
    assert (name, rest) == ("event: pool", ["", ""])
    frame: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return frame


Watching = Callable[[Feed, AsyncGenerator[bytes, None], AsyncSendGuard], Awaitable[None]]


def watch(store: str, pool: str, steps: Watching, policy: Policy | None = None) -> None:
    """Run some steps with a feed, one watcher of it, and the guard behind it."""

    async def run() -> None:
        async with AsyncSendGuard(store, pool=pool, timeout=5.0, policy=policy) as guard:
            feed = Feed(Service(guard, 0.0))
            async with aclosing(feed.watch()) as events:
                await steps(feed, events, guard)
                reader = feed._reader
            assert feed.watchers == 0
            assert reader is not None
            await asyncio.wait_for(asyncio.wait([reader]), 5)  # nobody watches, so nobody reads

    asyncio.run(asyncio.wait_for(run(), 30))


async def until(events: AsyncGenerator[bytes, None], condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    async for event in events:
        frame = read(event)
        if condition(frame):
            return frame
    raise AssertionError("the stream ended")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "EVERY", 0.02)
    monkeypatch.setattr(feeds, "_SHARE", 1)


# The stream ----------------------------------------------------------------------------------------------------------


def test_the_first_frame_is_all_and_the_next_only_what_changed(valkey: Server, pool: str, guard: SendGuard) -> None:
    scene.add_lines(guard, 3)
    guard.decide("+14155550123")

    async def steps(_: Feed, events: AsyncGenerator[bytes, None], guard: AsyncSendGuard) -> None:
        first = read(await anext(events))
        assert (first["full"], first["store"], first["pool"], first["mode"]) == (True, True, pool, "enforce")
        assert list(first["lines"]) == [scene.number(100 + i) for i in range(3)]
        assert len(first["transitions"]) == 6  # status and health
        assert [sum(counts) for counts in first["minutes"].values()] == [1]
        quiet = read(await anext(events))
        assert not quiet["full"]
        assert (quiet["lines"], quiet["minutes"], quiet["transitions"]) == ({}, {}, {})
        assert quiet["at"] > first["at"]
        await guard.observe(OTHER, status="FLAGGED")
        told = await until(events, lambda frame: frame["lines"])
        assert list(told["lines"]) == [OTHER]
        assert told["lines"][OTHER]["status"] == "FLAGGED"
        ((_, transition),) = told["transitions"].items()
        assert (transition["old"], transition["new"], transition["source"]) == ("ACTIVE", "FLAGGED", "operator")

    watch(valkey.url, pool, steps)


def test_a_line_shows_its_limits_and_what_they_leave(valkey: Server, pool: str, guard: SendGuard) -> None:
    policy = Policy(
        at_risk=TokenBucket(6, per=60, burst=3),
        daily_volume=None,
        overrides={OTHER: {"new_conversations": Quota(7, per=3600)}},
    )
    guard.observe(OTHER, status="ACTIVE", health="AT_RISK")

    async def steps(_: Feed, events: AsyncGenerator[bytes, None], guard: AsyncSendGuard) -> None:
        await guard.decide("+14155550123")
        frame = await until(events, lambda frame: frame["lines"].get(OTHER, {}).get("sends"))
        line = frame["lines"][OTHER]
        assert line["bucket"] == {"tokens": 6, "per": 60, "burst": 3}
        assert line["tokens"] == 2
        assert line["daily_volume_quota"] is None
        assert line["new_conversations_quota"] == {"limit": 7, "per": 3600}
        assert (line["daily_volume"], line["new_conversations"], line["sends"]) == (1, 1, 1)

    watch(valkey.url, pool, steps, policy)


def test_a_line_that_left_the_pool_is_taken_away(valkey: Server, pool: str, guard: SendGuard) -> None:
    scene.add_lines(guard, 2)

    async def steps(_: Feed, events: AsyncGenerator[bytes, None], guard: AsyncSendGuard) -> None:
        await anext(events)
        await guard._drive(guard._flows.run(guard._flows.protocol.release([OTHER], None, None, "poll")))
        frame = await until(events, lambda frame: frame["lines"])
        assert frame["lines"] == {OTHER: None}

    watch(valkey.url, pool, steps)


def test_who_reads_slowly_gets_the_latest_and_nothing_is_kept_for_them(
    valkey: Server, pool: str, guard: SendGuard
) -> None:
    scene.add_lines(guard, 2)

    async def steps(feed: Feed, slow: AsyncGenerator[bytes, None], guard: AsyncSendGuard) -> None:
        await anext(slow)
        quick = feed.watch()
        for i in range(50):
            await guard.observe(OTHER, health=("AT_RISK", "CRITICAL")[i % 2], observed_at=time.time() + i)
            await until(quick, lambda frame: OTHER in frame["lines"])
        await quick.aclose()
        frame = read(await anext(slow))  # one for all that was missed
        assert frame["lines"][OTHER]["health"] == "CRITICAL"
        assert len(frame["transitions"]) == 50
        assert len(feed._view._frames) <= 2

    watch(valkey.url, pool, steps)


def test_many_watch_and_one_reads(valkey: Server, pool: str, guard: SendGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add_lines(guard, 2)
    reads = 0
    read_once = Feed._read

    async def counted(self: Feed) -> dict[str, Any]:
        nonlocal reads
        reads += 1
        return await read_once(self)

    async def steps(feed: Feed, events: AsyncGenerator[bytes, None], _: AsyncSendGuard) -> None:
        others = [feed.watch() for _ in range(20)]
        frames = await asyncio.gather(anext(events), *map(anext, others))
        assert len(set(frames)) == 1
        assert feed.watchers == 21
        assert reads == feed._view.version
        await asyncio.gather(*(other.aclose() for other in others))

    monkeypatch.setattr(Feed, "_read", counted)
    watch(valkey.url, pool, steps)


def test_a_large_pool_is_read_less_often(valkey: Server, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_SHARE", 20)

    async def slow(_: Feed) -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"store": True}

    async def steps(_: Feed, events: AsyncGenerator[bytes, None], __: AsyncSendGuard) -> None:
        assert read(await anext(events))["every"] >= 0.6

    monkeypatch.setattr(Feed, "_read", slow)
    watch(valkey.url, pool, steps)


def test_a_stream_without_news_is_heard_of(valkey: Server, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_HEARTBEAT", 0.01)

    async def hangs(_: Feed) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def steps(_: Feed, events: AsyncGenerator[bytes, None], __: AsyncSendGuard) -> None:
        assert await anext(events) == b": here\n\n"

    monkeypatch.setattr(Feed, "_read", hangs)
    watch(valkey.url, pool, steps)


def test_a_store_out_of_reach_and_an_error_of_our_own_are_told_apart(
    pool: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(_: Feed, events: AsyncGenerator[bytes, None], __: AsyncSendGuard) -> None:
        frame = read(await anext(events))
        assert frame["store"] is False
        assert "at" not in frame
        monkeypatch.setattr(Feed, "_read", broken)
        await until(events, lambda _: "the page's reader failed: KeyError" in caplog.text)

    async def broken(_: Feed) -> dict[str, Any]:
        raise KeyError("+14155550123")

    watch("redis://127.0.0.1:1/0", pool, steps)
    assert "+14155550123" not in caplog.text


def test_a_client_that_leaves_without_a_word_ends_the_reading(start: Start, guard: SendGuard) -> None:
    scene.add_lines(guard, 1)
    client = start()
    feed: Feed = client.app.state.feed  # type: ignore[attr-defined]
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw:
        raw.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: feed.watchers == 1)
    wait_until(lambda: feed.watchers == 0)
    assert feed._reader is None


def test_a_client_that_stops_reading_holds_one_frame(start: Start, guard: SendGuard) -> None:
    """Its connection takes what the system's buffers hold; then nothing more is made for it, and it can still leave."""
    scene.add_lines(guard, 300)
    client = start()
    feed: Feed = client.app.state.feed  # type: ignore[attr-defined]
    made: list[int] = []
    frame_of = feeds.View.frame
    with pytest.MonkeyPatch.context() as patch, socket.socket() as raw:
        patch.setattr(feeds.View, "frame", lambda view, seen: made.append(seen) or frame_of(view, seen))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((client.base_url.host, client.base_url.port or 0))
        raw.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def stalled() -> bool:
            """Every line changes each time, so that each frame is a large one."""
            for i in range(300):
                guard.decide(f"+1415555{i:04d}")
            before, version = len(made), feed._view.version
            wait_until(lambda: feed._view.version > version + 3)
            return len(made) == before

        wait_until(stalled)
        assert feed.watchers == 1
    wait_until(lambda: feed.watchers == 0)


def test_so_many_may_watch_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_WATCHERS", 1)
    client = start()
    with client.stream("GET", "/v1/watch") as first:
        events = first.iter_raw()
        next(events)
        second = client.get("/v1/watch")
        assert second.status_code == 503
        assert second.headers["retry-after"] == "30"
        assert second.json()["detail"] == "1 clients watch already"


def test_sigterm_does_not_wait_for_who_watches(valkey: Server, pool: str) -> None:
    port = free_port()
    environment = {"SENDGUARD_STORE": valkey.url, "SENDGUARD_POOL": pool, "SENDGUARD_POLL_INTERVAL": "0"}
    command = [sys.executable, "-c", "from sendguard.cli import main; main()", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        wait_until(lambda: _answers(client))
        with client.stream("GET", "/v1/watch") as stream:
            events = stream.iter_raw()
            next(events)
            process.send_signal(signal.SIGTERM)
            for _ in events:
                pass
    assert process.wait(10) == 0


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


# Decisions by minute -------------------------------------------------------------------------------------------------

RECORD = DecisionRecord(
    "", "0" * 24, 0.0, True, LINE, Reason.STICKY, None, 0.0, None, None, False, None, "chat", None, "", None, ()
)


def entry(second: float, **fields: Any) -> DecisionRecord:
    return replace(RECORD, entry_id=f"{int(second * 1000)}-0", **fields)


def test_decisions_count_in_the_minute_of_their_entry_and_once() -> None:
    minutes, denied = Minutes(), {"allowed": False}
    minutes.add(
        [
            entry(60.0),
            entry(119.999, reason=Reason.FAILOVER),
            entry(120.0, **denied, reason=Reason.THROTTLED),
            entry(121.0, **denied, reason=Reason.FLAGGED),
            entry(122.0, **denied, reason=Reason.PAIR),
            entry(123.0, reason=Reason.THROTTLED),  # observe mode let it go
            entry(124.0, remembered="repeated"),
            entry(125.0, remembered="confirmed"),
        ]
    )
    assert minutes.counts == {1: [1, 1, 0, 0], 2: [1, 0, 1, 2]}


def test_the_hour_and_the_last_minute_of_sends_roll_on() -> None:
    minutes = Minutes()
    minutes.add([entry(60.0), entry(3599.0), entry(3600.0, from_number=OTHER), entry(3600.5, allowed=False)])
    minutes.forget(3601.0)
    assert list(minutes.counts) == [1, 59, 60]
    assert minutes.sends() == {LINE: 1, OTHER: 1}
    minutes.forget(3659.5)
    assert minutes.sends() == {OTHER: 1}
    minutes.forget(3660.0)
    assert list(minutes.counts) == [59, 60]
    assert minutes.sends() == {}


def test_it_says_how_far_the_record_reaches_back(valkey: Server, pool: str, guard: SendGuard) -> None:
    scene.add_lines(guard, 2)
    scene.send(guard, recipients=5, sends=450)

    async def whole(_: Feed, events: AsyncGenerator[bytes, None], __: AsyncSendGuard) -> None:
        frame = read(await anext(events))
        assert sum(map(sum, frame["minutes"].values())) in range(440, 450)  # the oldest are just beyond the hour
        assert "since" not in frame

    async def short(_: Feed, events: AsyncGenerator[bytes, None], __: AsyncSendGuard) -> None:
        frame = read(await anext(events))
        assert sum(map(sum, frame["minutes"].values())) == 200
        assert min(frame["minutes"]) == str(int(frame["since"]) // 60)

    with redis.Redis.from_url(valkey.url) as client:
        key = f"sendguard:{{{pool}}}:decisions"
        scene.spread_over_the_hour(client, pool)
        client.xadd(key, client.xrange(key, count=1)[0][1], id="*")
        oldest = client.xrange(key, count=1)[0][1]
        entries = client.xrange(key)
        client.delete(key)
        client.xadd(key, oldest, id=f"{int((time.time() - 4000) * 1000)}-0")
        for entry_id, fields in entries[6:]:
            client.xadd(key, fields, id=entry_id)
        watch(valkey.url, pool, whole)
        client.xtrim(key, maxlen=200, approximate=False)
    watch(valkey.url, pool, short)


# Who may ask for what ------------------------------------------------------------------------------------------------

FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://elsewhere.example"},
    {"origin": "null"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("tokens", [[], ["good"]], ids=["open", "token"])
def test_law_10_another_site_in_the_browser_changes_nothing(
    start: Start, guard: SendGuard, headers: dict[str, str], tokens: list[str]
) -> None:
    scene.add_lines(guard, 1)
    client = start(tokens=tokens)
    shown = {"authorization": "Bearer good", **headers}
    for path in (f"/v1/lines/{LINE}/pause", f"/v1/lines/{LINE}/resume"):
        answer = client.post(path, headers=shown)
        assert (answer.status_code, answer.json()["detail"]) == (403, "a request that another site makes is refused")
    body = json.dumps({"to": "+14155550123"})
    assert client.post("/v1/choose-from-number", content=body, headers=shown).status_code == 403
    (line,) = guard.lines()
    assert not line.paused
    assert line.daily_volume == 0


def test_the_page_itself_and_what_is_no_browser_may(start: Start, guard: SendGuard) -> None:
    scene.add_lines(guard, 1)
    client = start()
    origin = str(client.base_url).rstrip("/")
    for headers in ({"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": origin}, {}):
        assert client.post(f"/v1/lines/{LINE}/pause", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", "localhost.x"])
def test_law_10_a_name_that_leads_here_is_not_answered(start: Start, guard: SendGuard, host: str) -> None:
    """DNS rebinding: to the browser the other site is then the same as ours, and it says so."""
    scene.add_lines(guard, 1)
    client = start()
    headers = {"host": host, "sec-fetch-site": "same-origin", "origin": f"http://{host}"}
    for method, path in (("GET", "/v1/lines"), ("GET", "/v1/watch"), ("POST", f"/v1/lines/{LINE}/pause")):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert LINE not in answer.text
    assert not guard.lines()[0].paused
    assert start(tokens=["good"]).get("/v1/lines", headers={"host": host, "authorization": "Bearer good"}).is_success


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "10.1.2.3", "[::1]:80", "a.localhost"])
def test_an_address_and_localhost_are_answered(start: Start, host: str) -> None:
    assert start().get("/v1/lines", headers={"host": host}).status_code == 200


def test_without_a_token_the_page_comes_without_data_and_the_stream_not_at_all(start: Start, guard: SendGuard) -> None:
    scene.add_lines(guard, 1)
    client = start(tokens=["good"])
    assert client.get("/").status_code == 200
    assert LINE not in client.get("/").text
    for headers in ({}, {"authorization": "Bearer bad"}):
        assert client.get("/v1/watch", headers=headers).status_code == 401
        assert client.get("/v1/watch?token=good", headers=headers).status_code == 401
    assert client.post(f"/v1/lines/{LINE}/pause").status_code == 401
    assert client.get("/page/../v1/lines").status_code == 401
    assert client.get("/page/nothing.js").status_code == 404
    assert client.get("/page/__init__.py").status_code == 404
    with client.stream("GET", "/v1/watch", headers={"authorization": "Bearer good"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert LINE in next(stream.iter_raw()).decode()


def test_the_files_of_the_page_are_guarded_by_their_headers(start: Start) -> None:
    client = start()
    for path in ("/", *(f"/page/{name}" for name in page._ASSETS)):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["etag"] == answer.headers["etag"]
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
