"""`guard.sending`: decides when the block is entered, settles when it is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import linq
import pytest
from linq import AsyncLinqAPIV3, LinqAPIV3

from sendguard import AsyncSendGuard, Outcome, Reason, SendBlocked, SendGuard
from sendguard.middleware.outcome import outcome_of
from sendguard.simulator import Simulator

A, B = "+12025550101", "+12025550102"
ANN, BOB = "+14155550101", "+14155550102"
HELLO: Any = {"parts": [{"type": "text", "value": "Hello"}]}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator([A, B], seed=3) as simulator:
        yield simulator


@pytest.fixture
def client(simulator: Simulator) -> Iterator[LinqAPIV3]:
    with LinqAPIV3(api_key=simulator.api_key, base_url=simulator.base_url, max_retries=0) as client:
        yield client


def volume(guard: SendGuard) -> int:
    return sum(line.daily_volume for line in guard.lines())


def test_a_block_sends_from_the_line_that_was_chosen(guard: SendGuard, simulator: Simulator, client: LinqAPIV3) -> None:
    guard.observe(A, status="FLAGGED")
    guard.observe(B, status="ACTIVE")
    with guard.sending(ANN) as send:
        client.chats.create(from_=send.from_number, to=[ANN], message=HELLO)
    assert send.decision.reason is Reason.NEW_CONVERSATION
    assert [record.line for record in simulator.sends] == [B]
    assert volume(guard) == 1


def test_an_async_block(guard: SendGuard, simulator: Simulator, pool: str, store_url: str) -> None:
    guard.observe(A, status="ACTIVE")
    store = f"memory://{pool}" if store_url == "memory://" else store_url

    async def run() -> None:
        async with (
            AsyncSendGuard(store, pool=pool, timeout=5, clock=lambda: 1_771_000_000.0) as twin,
            AsyncLinqAPIV3(api_key=simulator.api_key, base_url=simulator.base_url, max_retries=0) as client,
        ):
            async with twin.sending(ANN) as send:
                await client.chats.create(from_=send.from_number, to=[ANN], message=HELLO)
            with pytest.raises(ZeroDivisionError):
                async with twin.sending(ANN):
                    raise ZeroDivisionError
            with pytest.raises(httpx.ConnectError):
                async with twin.sending(ANN):
                    raise httpx.ConnectError("refused")

    asyncio.run(run())
    assert [record.line for record in simulator.sends] == [A]
    assert volume(guard) == 2, "the refused one came back"


def test_a_denial_raises_before_the_block_runs(guard: SendGuard) -> None:
    guard.observe(A, status="FLAGGED")
    ran = False
    with pytest.raises(SendBlocked) as blocked, guard.sending(ANN):
        ran = True
    assert blocked.value.reason is Reason.FLAGGED
    assert not ran


def test_wrong_arguments_are_told_at_once(guard: SendGuard) -> None:
    with pytest.raises(ValueError, match=r"^to "):
        guard.sending("nobody")
    with pytest.raises(ValueError, match=r"^max_wait "), guard.sending(ANN, max_wait=-1):
        pass


REQUEST = httpx.Request("POST", "https://example.com/v3/chats")
RETRIED = httpx.Request("POST", "https://example.com/v3/chats", headers={"x-stainless-retry-count": "2"})


def _answer(status: int, code: int | None = None, request: httpx.Request = REQUEST) -> httpx.HTTPStatusError:
    body = {"success": False, "error": {"code": code}} if code else {}
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, json=body, request=request))


def _sdk(cause: Exception, request: httpx.Request = REQUEST) -> linq.APIConnectionError:
    error = linq.APIConnectionError(request=request)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "given_back"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.PoolTimeout("busy"), True),
        (_sdk(httpx.ConnectError("refused")), True),
        (_answer(400, 1005), True),
        (_answer(403, 2008), True),
        (_answer(404), True),
        (_answer(429), True),
        (httpx.ReadTimeout("lost"), False),
        (httpx.WriteError("lost"), False),
        (httpx.RemoteProtocolError("lost"), False),
        (_sdk(httpx.ReadTimeout("lost")), False),
        (_sdk(httpx.ConnectError("refused"), RETRIED), False),
        (_answer(403, 2008, RETRIED), False),
        (_answer(408), False),
        (_answer(500, 3006), False),
        (_answer(503, 4004), False),
        (ValueError("of the block's own"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else f"{type(value).__name__}",
)
def test_only_what_certainly_never_left_is_given_back(guard: SendGuard, error: BaseException, given_back: bool) -> None:
    guard.observe(A, status="ACTIVE")
    with pytest.raises(type(error)), guard.sending(ANN):
        raise error
    assert volume(guard) == (0 if given_back else 1)


def test_a_replayed_decision_is_not_given_back(guard: SendGuard) -> None:
    """The first attempt may have left; that the second did not says nothing of it."""
    guard.observe(A, status="ACTIVE")
    for lost in (httpx.ReadTimeout("lost"), httpx.ConnectError("refused")):
        with pytest.raises(httpx.TransportError), guard.sending(ANN, idempotency_key="order-1"):
            raise lost
    assert volume(guard) == 1


@pytest.mark.parametrize("retried", [REQUEST, RETRIED])
@pytest.mark.parametrize(("code", "reason"), [(2027, Reason.COOLING_DOWN), (4002, Reason.COOLING_DOWN)])
def test_an_error_code_is_learnt_from(guard: SendGuard, code: int, reason: Reason, retried: httpx.Request) -> None:
    guard.observe(A, status="ACTIVE")
    with pytest.raises(httpx.HTTPStatusError), guard.sending(ANN):
        raise _answer(403 if code == 2027 else 500, code, retried)
    assert guard.decide(BOB).reason is reason


def test_a_refusal_of_the_real_sdk_is_learnt_from(guard: SendGuard, simulator: Simulator, client: LinqAPIV3) -> None:
    guard.observe(A, status="ACTIVE")
    simulator.make_ineligible(A, until=time.time() + 60)
    with pytest.raises(linq.PermissionDeniedError), guard.sending(ANN) as send:
        client.chats.create(from_=send.from_number, to=[ANN], message=HELLO)
    assert volume(guard) == 0
    assert guard.decide(ANN).reason is Reason.COOLING_DOWN


def test_the_block_may_say_better(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE")
    with guard.sending(ANN) as send:
        send.report("not_sent")
    with pytest.raises(ValueError, match=r"^outcome "), guard.sending(ANN) as send:
        send.report("nonsense")
    assert volume(guard) == 1


def test_a_block_waits_for_its_turn(store_url: str, pool: str) -> None:
    store = f"memory://{pool}" if store_url == "memory://" else store_url
    with SendGuard(store, pool=pool, timeout=5) as guard:
        guard.observe(A, health="HEALTHY")
        guard.pause(A, until=time.time() + 0.3)
        with guard.sending(ANN, max_wait=5) as send:
            assert send.from_number == A


@pytest.mark.parametrize("broken", [False, True])
def test_a_store_that_fails_afterwards_hides_nothing(guard: SendGuard, broken: bool, caplog: Any) -> None:
    guard.observe(A, status="ACTIVE")
    unavailable = _Unavailable(guard)
    with pytest.raises(httpx.ConnectError) if broken else _nothing(), guard.sending(ANN):
        unavailable.now()
        if broken:
            raise httpx.ConnectError("refused")
    assert ("was not stored" in caplog.text) is broken


class _Unavailable:
    """Makes the store of a guard fail from then on."""

    def __init__(self, guard: SendGuard) -> None:
        self.guard = guard

    def now(self) -> None:
        from sendguard import StoreUnavailable

        def fail(*_: object) -> Any:
            raise StoreUnavailable("the store failed: ConnectionError")

        self.guard._store.run = fail  # type: ignore[method-assign]


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_an_unread_answer_and_odd_errors_tell_little() -> None:
    stream = httpx.Response(403, stream=httpx.ByteStream(b"{}"), request=REQUEST)
    unread = httpx.HTTPStatusError("", request=REQUEST, response=stream)
    assert outcome_of(unread) == Outcome(None)
    for body in (b"[]", b"{", b'{"error": 7}', b'{"error": {"code": true, "retry_after": "x"}}', b"\xff" * 9):
        error = httpx.HTTPStatusError("", request=REQUEST, response=httpx.Response(403, content=body))
        assert outcome_of(error) == Outcome(False)
    limited = httpx.Response(429, json={"error": {"code": 1007, "retry_after": 1e300}}, request=REQUEST)
    assert outcome_of(httpx.HTTPStatusError("", request=REQUEST, response=limited)).retry_after == 86_400
