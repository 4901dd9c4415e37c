"""Stores that have no functions, as Redis 6.2, or do not let a guard's user load them: scripts run there instead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from sendguard import AsyncSendGuard, Reason, SendGuard
from sendguard.loan_calls import LoanCalls
from sendguard.request import Request
from sendguard.store.scripts import LIBRARY
from sendguard.store.wire import words
from tests import faults, traffic
from tests.fault_proxy import FaultProxy
from tests.servers import Server, redis_binary, valkey_binary

A, ANN = "+12025550101", "+14155550101"
WITHOUT = [
    pytest.param(("--rename-command", "FCALL", ""), id="no FCALL"),
    pytest.param(("--rename-command", "FCALL", "", "--rename-command", "FUNCTION", ""), id="none at all"),
]


@pytest.fixture(params=[valkey_binary, redis_binary], ids=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> str:
    path: Callable[[], str] = request.param
    return path()


@pytest.fixture(params=WITHOUT)
def server(request: pytest.FixtureRequest, binary: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(binary, tmp_path / "server", *request.param)
    yield server
    server.stop()


@pytest.fixture
def server_plain(binary: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(binary, tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def barred(binary: str, tmp_path: Path) -> Iterator[Server]:
    """Lets its users call functions, and not load them."""
    server = Server(binary, tmp_path / "server")
    server.client.execute_command("ACL", "SETUSER", "default", "-function|load")
    yield server
    server.stop()


def calls(server: Server) -> dict[str, int]:
    """How often each command was called since this was last asked."""
    stats: dict[str, Any] = server.info("commandstats")
    server.client.config_resetstat()
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


def test_all_that_a_guard_does_works(server: Server, pool: str) -> None:
    with traffic.simulated() as api:
        traffic.run(server.url, pool, api)


def test_it_is_found_out_once(server: Server, pool: str) -> None:
    with SendGuard(server.url, pool=pool, timeout=5, refresh=None) as guard:
        guard.observe(A, status="ACTIVE")
        guard.decide(ANN)
        calls(server)
        for _ in range(10):
            assert guard.decide(ANN).reason is Reason.STICKY
        assert calls(server)["evalsha"] == 10
        server.client.script_flush()
        assert guard.decide(ANN).allowed


def test_an_async_guard_does_as_well(server: Server, pool: str) -> None:
    async def run() -> None:
        async with AsyncSendGuard(server.url, pool=pool, timeout=5, refresh=None) as guard:
            await guard.observe(A, status="ACTIVE")
            assert (await guard.decide(ANN)).allowed
            calls(server)
            assert (await guard.decide(ANN)).reason is Reason.STICKY
            assert calls(server)["evalsha"] == 1

    asyncio.run(run())


def test_many_threads_find_out_at_once(barred: Server, pool: str) -> None:
    """What one of them has found out already is no failure of another's call."""
    with SendGuard(barred.url, pool=pool, timeout=5, refresh=None) as guard, ThreadPoolExecutor(8) as threads:
        SendGuard(barred.url, pool=pool, timeout=5, refresh=None).observe(A, status="ACTIVE")
        for _ in range(20):
            guard._store._primary.functions = True
            ready = threading.Barrier(8)

            def decide(ready: threading.Barrier = ready) -> bool:
                ready.wait(5)
                return guard.decide(ANN).reason is not Reason.STORE_UNAVAILABLE

            assert all(threads.map(lambda _: decide(), range(8)))


def test_functions_that_somebody_else_loaded_are_called(barred: Server, pool: str) -> None:
    with SendGuard(barred.url, pool=pool, timeout=5, refresh=None) as guard:
        guard.observe(A, status="ACTIVE")
    assert "evalsha" in calls(barred)
    with redis.Redis(port=barred.port) as other:
        other.execute_command("ACL", "SETUSER", "other", "on", "nopass", "allcommands", "allkeys")
        other.execute_command("AUTH", "other", "any")
        other.function_load(LIBRARY.source)
    calls(barred)
    with SendGuard(barred.url, pool=pool, timeout=5, refresh=None) as guard:
        assert guard.decide(ANN).allowed
    found = calls(barred)
    assert found["fcall"] == 1
    assert "evalsha" not in found


def test_a_command_that_is_refused_inside_is_not_run_again(barred: Server, pool: str) -> None:
    """A user whom something else is forbidden is told so; no part of a decision is done twice."""
    barred.client.execute_command("ACL", "SETUSER", "default", "+function|load")
    with SendGuard(barred.url, pool=pool, timeout=5, refresh=None) as guard:
        guard.observe(A, status="ACTIVE")
        guard.decide(ANN)
        barred.client.execute_command("ACL", "SETUSER", "default", "-xadd")
        calls(barred)
        assert guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE
        found = calls(barred)
        assert found["fcall"] == 1
        assert not {"eval", "evalsha", "function|load"} & set(found)


def test_a_guard_that_runs_hears_of_functions_loaded_since(barred: Server, pool: str) -> None:
    """Its user may run no scripts either, so it can do nothing until then; and again after the functions are lost."""
    admin = redis.Redis(port=barred.port)
    admin.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "allcommands", "allkeys")
    admin.execute_command("AUTH", "admin", "any")
    admin.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
    with SendGuard(barred.url, pool=pool, timeout=5, refresh=None) as guard:
        for _ in range(2):
            guard._store.breaker.worked()
            assert guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE
            admin.function_load(LIBRARY.source)
            guard._store.breaker.worked()
            guard.observe(A, status="ACTIVE")
            assert guard.decide(ANN).allowed
            admin.function_flush()
    admin.close()


@pytest.mark.parametrize("reply", [b"-ERR no such thing here\r\n", b"-NOPERM nothing for you\r\n"])
def test_a_library_that_is_refused_leaves_the_scripts(server_plain: Server, pool: str, reply: bytes) -> None:
    """Whatever the server, or a proxy in front of it, has against it: nothing of the call has run by then."""
    with FaultProxy(("127.0.0.1", server_plain.port)) as proxy:
        proxy.set(faults.Inject(reply), only={"FUNCTION LOAD"})
        with SendGuard(proxy.url, pool=pool, timeout=5, refresh=None) as guard:
            guard.observe(A, status="ACTIVE")
            assert guard.decide(ANN).allowed
            assert guard.decide(ANN).reason is Reason.STICKY
    assert calls(server_plain)["evalsha"] >= 2


@pytest.mark.parametrize("form", ["script", "function"])
def test_an_error_of_the_server_keeps_its_code(server_plain: Server, pool: str, form: str) -> None:
    """A primary that became a replica says READONLY, by which a client knows to look for the new one."""
    with SendGuard(server_plain.url, pool=pool, timeout=5, refresh=None) as guard:
        guard.observe(A, status="ACTIVE")
        guard.decide(ANN)
        request = Request.of(ANN, "chat", None, (), None, None)
        call = guard._flows.protocol.decide(request, max_wait=0, waiter=False, now=None)
    with redis.Redis(port=server_plain.port) as client:
        client.execute_command(*words("EVAL", call.script.source, call))  # type: ignore[no-untyped-call]
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        asked = ("EVALSHA", call.script.sha) if form == "script" else ("FCALL", call.script.function)
        with pytest.raises(redis.ReadOnlyError):
            client.execute_command(*words(*asked, call))  # type: ignore[no-untyped-call]


def test_what_only_reads_is_answered_by_a_server_that_is_full(server_plain: Server, pool: str) -> None:
    with SendGuard(server_plain.url, pool=pool, timeout=5, refresh=None) as guard:
        guard.observe(A, status="ACTIVE")
        guard.lines()
        server_plain.client.config_set("maxmemory", 1)
        assert guard.decide(ANN).reason is Reason.STORE_UNAVAILABLE
        assert [line.number for line in guard.lines()] == [A]
        assert guard.dry_run(ANN).allowed
        assert guard._drive(guard._flows.run(LoanCalls(guard._flows.protocol).pending([A], None))) == 0
