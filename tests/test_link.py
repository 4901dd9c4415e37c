"""A kept connection reads whatever a server may say, past redis-py's layers or through them, and in step."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
from redis._parsers import _AsyncRESP2Parser, _AsyncRESP3Parser, _RESP2Parser, _RESP3Parser

from sendguard import SendGuard, StoreUnavailable
from sendguard.store import AsyncStore, Store
from sendguard.store.scripts import Command

A, ANN = "+12025550101", "+14155550101"
LONG = "long " * 50_000
BUSY = "local n = 0; for i = 1, 1e8 do n = n + i end; return 'late'"
PARSERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hiredis-3": ({"protocol": 3}, {"protocol": 3}),
    "hiredis-2": ({"protocol": 2}, {"protocol": 2}),
    "python-3": ({"parser_class": _RESP3Parser, "protocol": 3}, {"parser_class": _AsyncRESP3Parser, "protocol": 3}),
    "python-2": ({"parser_class": _RESP2Parser, "protocol": 2}, {"parser_class": _AsyncRESP2Parser, "protocol": 2}),
}


class _Async:
    """An `AsyncStore` whose calls are made one by one, as a `Store`'s are. pushes: whether a server may push to it."""

    pushes = False

    def __init__(self, runner: asyncio.Runner, client: redis.asyncio.Redis) -> None:
        self.runner = runner
        self.store = AsyncStore(client, key="k", timeout=5)

    def run(self, *args: Any) -> Any:
        return self.runner.run(self.store.run(*args))

    def idle(self) -> int:
        """How many connections are kept, after the event loop has heard of what came over them."""
        self.runner.run(asyncio.sleep(0.05))
        return _count(self.store)


class _Sync:
    pushes = False

    def __init__(self, client: redis.Redis) -> None:
        self.store = Store(client, key="k", timeout=5)
        self.run = self.store.run

    def idle(self) -> int:
        return _count(self.store)


def _count(store: Any) -> int:
    return sum(map(len, store._idle._by_address.values()))


@pytest.fixture(params=[(parser, shell) for parser in PARSERS for shell in ("sync", "async")], ids="-".join)
def store(request: pytest.FixtureRequest, valkey: Any) -> Any:
    parser, shell = request.param
    options = PARSERS[parser][shell == "async"]
    if shell == "sync":
        made = _Sync(redis.Redis.from_url(valkey.url, **options))
        made.pushes = options["protocol"] == 3
        yield made
        made.store.close()
        return
    with asyncio.Runner() as runner:
        kept = _Async(runner, redis.asyncio.Redis.from_url(valkey.url, **options))
        kept.pushes = options["protocol"] == 3
        yield kept
        runner.run(kept.store.close())


def _text(reply: Any) -> Any:
    return reply.decode() if isinstance(reply, bytes) else reply


def test_every_kind_of_reply_is_read(store: Any, pool: str) -> None:
    for _ in range(2):
        assert store.run(Command(("GET", pool))) is None
        assert _text(store.run(Command(("ECHO", "")))) == ""
        assert _text(store.run(Command(("ECHO", "text")))) == "text"
        assert _text(store.run(Command(("ECHO", LONG)))) == LONG
        assert store.run(Command(("EXISTS", pool))) == 0
        assert len(store.run(Command(("TIME",)))) == 2
        assert [_text(item) for item in store.run(Command(("MGET", pool, pool)))] == [None, None]
        with pytest.raises(StoreUnavailable):
            store.run(Command(("NOSUCHCOMMAND",)))
    assert store.idle() == 1


def test_a_reply_that_comes_late_is_not_read_as_the_next_one(store: Any, valkey: Any) -> None:
    busy = Command(("EVAL", BUSY, "0"))
    assert _text(store.run(Command(("ECHO", "first")))) == "first"
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.run(busy, began + 0.02)
    assert time.monotonic() - began < 0.7
    assert store.idle() == 0
    valkey.client.ping()  # when it is done
    assert _text(store.run(Command(("ECHO", "second")))) == "second"


def test_more_than_the_kernel_takes_at_once_is_sent_whole_or_in_time(store: Any, valkey: Any) -> None:
    huge = "huge " * 2_400_000
    assert _text(store.run(Command(("ECHO", "text")))) == "text"
    assert _text(store.run(Command(("ECHO", huge)))) == huge
    with ThreadPoolExecutor(1) as other, redis.Redis.from_url(valkey.url) as client:
        busy = other.submit(client.eval, BUSY, 0)
        time.sleep(0.05)
        with pytest.raises(StoreUnavailable):
            store.run(Command(("ECHO", huge)), time.monotonic() + 0.1)
        assert not busy.done()
        busy.result()
    assert _text(store.run(Command(("ECHO", "text")))) == "text"


def test_a_call_whose_time_is_over_is_not_sent(store: Any, pool: str) -> None:
    store.run(Command(("GET", pool)))
    with pytest.raises(StoreUnavailable):
        store.run(Command(("SET", pool, "sent")), time.monotonic() - 0.01)
    assert store.run(Command(("GET", pool))) is None


def test_a_deadline_is_each_calls_own(store: Any) -> None:
    """A later one than the call before had, and an earlier one."""
    for seconds in (0.2, 4.0, 0.3):
        end = time.monotonic() + seconds
        assert _text(store.run(Command(("ECHO", "text")), end)) == "text"
        time.sleep(0.1)
        with pytest.raises(StoreUnavailable):
            store.run(Command(("BLPOP", "nothing", "3")), time.monotonic() + 0.1)
    assert time.monotonic() < end + 1


def test_what_nobody_asked_for_is_not_taken_for_an_answer(store: Any, valkey: Any, pool: str) -> None:
    """The server pushes a message over an idle connection, as it can in RESP3: that one is not used again."""
    for i in range(3):
        store.run(Command(("CLIENT TRACKING", "ON", "BCAST", "PREFIX", f"{pool}-{i}-")))
        before = store.run(Command(("CLIENT ID",)))
        valkey.client.set(f"{pool}-{i}-", "x")
        assert store.idle() == 1
        assert _text(store.run(Command(("ECHO", f"text {i}")))) == f"text {i}"
        assert (store.run(Command(("CLIENT ID",))) != before) == store.pushes


def test_a_push_that_comes_with_an_answer_is_read_past(store: Any, pool: str) -> None:
    store.run(Command(("CLIENT TRACKING", "ON", "BCAST", "PREFIX", pool)))
    for i in range(3):
        assert store.run(Command(("SET", f"{pool}-{i}", "x"))) in (True, "OK", b"OK")
        assert _text(store.run(Command(("GET", f"{pool}-{i}")))) == "x"


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("decode", [True, False])
def test_a_guard_keeps_its_connection_with_every_parser(valkey: Any, pool: str, parser: str, decode: bool) -> None:
    options = PARSERS[parser][0]
    with (
        redis.Redis.from_url(valkey.url, decode_responses=decode, **options) as client,
        SendGuard(client, pool=pool, timeout=2, refresh=None) as guard,
    ):
        guard.observe(A, status="ACTIVE")
        assert guard.decide(ANN).allowed
        before = valkey.client.info("stats")["total_connections_received"]
        began = time.monotonic()
        for _ in range(10):
            assert guard.decide(ANN).allowed
        assert time.monotonic() - began < 2  # it does not wait for its timeout
        assert valkey.client.info("stats")["total_connections_received"] == before
