"""Law 1 for a store that forgets at the worst moment: before anybody looked, or in the middle of a look."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sendguard import LineStatus, Policy, Reason, SendGuard, StoreUnavailable
from sendguard.steps import Flow
from tests.servers import Server, valkey_binary
from tests.support import SECRET, iso, payload, standard_headers, wait_until

A, B = "+12025550101", "+12025550102"
ANN = "+14155550101"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("lost")
    server = Server(valkey_binary(), folder / "server")
    yield server
    server.stop()


def new_guard(server: Server, pool: str, **options: Any) -> SendGuard:
    """A guard that looks when the test says so."""
    return SendGuard(server.url, pool=pool, **{"timeout": 2, "refresh": 60, "webhook_secret": SECRET, **options})


def look(guard: SendGuard) -> None:
    guard._drive(guard._flows.keep())


def flag(guard: SendGuard, number: str) -> None:
    content = payload("status_updated.reputation")
    content["data"].update(phone_number=number, new_status="FLAGGED", changed_at=iso(time.time()))
    body = json.dumps(content).encode()
    assert guard.handle_webhook(body, standard_headers(body, time.time()))


def flushing_after(guard: SendGuard, server: Server, calls: int) -> Any:
    """A way to run calls after some of which the store is flushed."""
    count = 0

    def run(call: Any) -> Flow[Any]:
        nonlocal count
        reply = yield from guard._flows.run(call)
        count += 1
        if count == calls:
            server.client.flushall()
        return reply

    return run


def test_law_1_a_webhook_that_was_lost_before_any_look_is_told_again(server: Server, pool: str) -> None:
    with new_guard(server, pool) as receiver, new_guard(server, pool) as other:
        receiver.observe(A, status="ACTIVE")
        receiver.observe(B, status="ACTIVE")
        look(receiver)
        look(other)
        flag(receiver, A)
        server.client.flushall()
        look(other)  # it never heard of the flag, and tells of an ACTIVE line
        look(receiver)
        assert other.decide(ANN, from_number=A).reason is Reason.FLAGGED
        assert {line.number: line.status for line in other.lines()} == {A: LineStatus.FLAGGED, B: LineStatus.ACTIVE}


@pytest.mark.parametrize("calls", range(1, 9))
@pytest.mark.parametrize("whole", [True, False])
def test_law_1_a_store_that_forgets_during_a_look_takes_no_knowledge_along(
    server: Server, pool: str, calls: int, whole: bool
) -> None:
    with new_guard(server, pool) as guard:
        guard.observe(A, status="FLAGGED")
        guard.observe(B, status="ACTIVE")
        look(guard)
        guard.observe(A, health="AT_RISK")
        keeper = guard._flows.keeper
        if whole:
            keeper._read_at = -1e9
        with contextlib.suppress(StoreUnavailable):
            guard._drive(keeper.look(flushing_after(guard, server, calls), patient=True))
        assert keeper.lines[A].status is LineStatus.FLAGGED
        server.client.flushall()
        look(guard)
        assert {line.number: line.status for line in guard.lines()} == {A: LineStatus.FLAGGED, B: LineStatus.ACTIVE}


def test_law_1_a_process_that_still_tells_what_it_sent_heeds_what_its_look_found(server: Server, pool: str) -> None:
    degraded = Policy(on_store_error="degraded")
    with new_guard(server, pool, timeout=0.25, policy=degraded) as guard, new_guard(server, pool) as other:
        guard.observe(A, status="ACTIVE")
        look(guard)
        server.pause()
        assert guard.decide(ANN, from_number=A).allowed
        server.resume()
        other.observe(A, status="FLAGGED")

        def looked() -> bool:
            with contextlib.suppress(StoreUnavailable):
                guard._drive(guard._flows.keeper.look(guard._flows.run, patient=True))
                return True
            return False

        wait_until(looked)
        assert guard.degraded_since is not None
        assert guard.decide(ANN, from_number=A).reason is Reason.FLAGGED


@pytest.mark.parametrize("loss", ["flush", "restart"])
def test_law_1_an_old_webhook_that_comes_again_after_the_loss_opens_nothing(tmp_path: Path, loss: str) -> None:
    """The store forgot that a line is FLAGGED; what was true before that is delivered again, and is all it knows."""
    server = Server(valkey_binary(), tmp_path / "old")

    def deliver(guard: SendGuard, status: str, at: float) -> None:
        content = payload("status_updated.reputation")
        content["event_id"] = f"event-{at}"
        content["data"].update(phone_number=A, new_status=status, changed_at=iso(at))
        body = json.dumps(content).encode()
        guard.handle_webhook(body, standard_headers(body, time.time()))

    with SendGuard(server.url, pool="p", timeout=2, refresh=60, webhook_secret=SECRET) as guard:
        now = time.time()
        deliver(guard, "ACTIVE", now - 10)
        deliver(guard, "FLAGGED", now - 5)
        guard._drive(guard._flows.keep())
        if loss == "flush":
            server.client.flushall()
        else:
            server.restart()
        deliver(guard, "ACTIVE", now - 10)
        assert not guard.decide("+14155550101", from_number=A).allowed
        assert not guard.decide("+14155550102").allowed
        guard._drive(guard._flows.keep())
        assert guard.decide("+14155550101", from_number=A).reason is Reason.FLAGGED
    server.stop()
