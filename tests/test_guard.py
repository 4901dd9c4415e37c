"""The public surface: arguments, stores, the twin for asyncio, and one round trip a decision."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

import sendguard
from sendguard import (
    AsyncSendGuard,
    Decision,
    Outcome,
    Policy,
    Quota,
    Reason,
    SendBlocked,
    SendGuard,
    StoreUnavailable,
    TokenBucket,
)
from tests.support import SECRET, ManualClock, wait_until

A, B = "+12025550101", "+12025550102"
ANN = "+14155550123"


@pytest.mark.parametrize(
    ("to", "options", "name"),
    [
        ("4155550123", {}, "to"),
        ("+1415", {}, "to"),
        ("", {}, "to"),
        ([], {}, "to"),
        (None, {}, "to"),
        (7, {}, "to"),
        (b"+14155550123", {}, "to"),
        ([ANN, None], {}, "to"),
        ("a,b@example.com", {}, "to"),
        ("é@example.com", {}, "to"),
        ("\ud800@example.com", {}, "to"),
        ([f"+1415555{i:04d}" for i in range(32)], {}, "to"),
        ([f"+1415555{i:04d}" for i in range(1000)], {}, "to"),
        (ANN, {"kind": "fax"}, "kind"),
        (ANN, {"from_number": "2025550101"}, "from_number"),
        (ANN, {"from_number": "+1202|5550101"}, "from_number"),
        (ANN, {"exclude": A}, "exclude"),
        (ANN, {"exclude": ["x"]}, "exclude"),
        (ANN, {"exclude": 7}, "exclude"),
        (ANN, {"line_type": "SMS"}, "line_type"),
        (ANN, {"idempotency_key": ""}, "idempotency_key"),
        (ANN, {"idempotency_key": "x" * 256}, "idempotency_key"),
        (ANN, {"idempotency_key": 7}, "idempotency_key"),
    ],
)
def test_a_bad_argument_is_named_and_changes_nothing(to: Any, options: dict[str, Any], name: str) -> None:
    guard = SendGuard()
    guard.observe(A, status="ACTIVE")
    before = guard.lines()
    for ask in (guard.decide, guard.choose_from_number):
        with pytest.raises(ValueError, match=f"^{name} "):
            ask(to, **options)
    assert guard.lines() == before


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda g: g.observe("x", status="ACTIVE"), "number"),
        (lambda g: g.observe(A), "status"),
        (lambda g: g.observe(A, status="A|B"), "status"),
        (lambda g: g.observe(A, health=""), "health"),
        (lambda g: g.observe(A, health="HEALTHY", observed_at=-1), "observed_at"),
        (lambda g: g.observe(A, health="HEALTHY", observed_at=float("nan")), "observed_at"),
        (lambda g: g.pause("x"), "number"),
        (lambda g: g.pause(A, until="soon"), "until"),
        (lambda g: g.resume(None), "number"),
        (lambda g: g.report(Decision(True, Reason.STICKY, A), "lost"), "outcome"),
    ],
)
def test_a_bad_observation_is_named(call: Callable[[SendGuard], object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        call(SendGuard())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SendGuard("http://localhost"), "store"),
        (lambda: SendGuard(7), "store"),  # type: ignore[arg-type]
        (lambda: SendGuard(redis.asyncio.Redis()), "store"),  # type: ignore[arg-type]
        (lambda: AsyncSendGuard(redis.Redis()), "store"),  # type: ignore[arg-type]
        (lambda: SendGuard(pool="a b"), "pool"),
        (lambda: SendGuard(pool="{x}"), "pool"),
        (lambda: SendGuard(timeout=0), "timeout"),
        (lambda: SendGuard(policy={}), "policy"),  # type: ignore[arg-type]
        (lambda: SendGuard(webhook_secret=[""]), "webhook_secret"),
        (lambda: TokenBucket(tokens=-1, per=60), "tokens"),
        (lambda: TokenBucket(tokens=1, per=0), "per"),
        (lambda: TokenBucket(tokens=1, per=60, burst=1.5), "burst"),  # type: ignore[arg-type]
        (lambda: Quota(limit=-1, per=60), "limit"),
        (lambda: Quota(limit=1, per=float("inf")), "per"),
        (lambda: Policy(at_risk=Quota(1, per=1)), "at_risk"),  # type: ignore[arg-type]
        (lambda: Policy(mode="shadow"), "mode"),  # type: ignore[arg-type]
        (lambda: Policy(on_flagged="drop"), "on_flagged"),  # type: ignore[arg-type]
        (lambda: Policy(on_store_error="open"), "on_store_error"),  # type: ignore[arg-type]
        (lambda: Policy(new_conversations_on=("GOOD",)), "new_conversations_on"),  # type: ignore[arg-type]
        (lambda: Policy(overrides={A: {"speed": Quota(1, per=1)}}), "overrides"),
        (lambda: SendGuard(policy=Policy(overrides={"x": {"pair": Quota(1, per=1)}})), "overrides"),
    ],
)
def test_a_bad_setting_is_named(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        make()


def test_both_guards_have_the_same_methods_and_arguments() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        found = {"__init__": list(inspect.signature(kind).parameters)}
        for name, member in inspect.getmembers(kind, callable):
            if not name.startswith("_"):
                found[name] = list(inspect.signature(member).parameters)
        return found

    assert surface(SendGuard) == surface(AsyncSendGuard)
    assert all(inspect.getdoc(member) for kind in (SendGuard, AsyncSendGuard) for _, member in _methods(kind))


def _methods(kind: type) -> list[tuple[str, Any]]:
    return [(name, member) for name, member in inspect.getmembers(kind, callable) if not name.startswith("_")]


def test_the_package_face_names_all_that_is_public() -> None:
    assert all(hasattr(sendguard, name) for name in sendguard.__all__)
    assert sendguard.__all__ == sorted(sendguard.__all__)


def test_the_async_guard_decides_alike(store_url: str, pool: str, clock: ManualClock) -> None:
    url = f"memory://{pool}" if store_url == "memory://" else store_url

    async def run() -> None:
        async with AsyncSendGuard(url, pool=pool, clock=clock, timeout=5) as guard:
            assert (await guard.decide(ANN)).reason is Reason.NO_LINES
            await guard.observe(A, status="ACTIVE", health="AT_RISK")
            for _ in range(5):
                assert await guard.choose_from_number(ANN) == A
            with pytest.raises(SendBlocked) as blocked:
                await guard.choose_from_number(ANN)
            assert blocked.value.retry_after == 6.0
            assert (await guard.pause(A)).paused
            assert not (await guard.resume(A)).paused
            await guard.report(blocked.value.decision, "not_sent")
            assert [line.daily_volume for line in await guard.lines()] == [5]

    asyncio.run(run())


def test_law_7_a_decision_is_one_round_trip(valkey: Any, pool: str) -> None:
    policy = Policy(healthy=TokenBucket(10_000, per=1), overrides={A: {"pair": Quota(1000, per=60)}})
    with (
        redis.Redis.from_url(valkey.url) as client,
        SendGuard(valkey.url, pool=pool, policy=policy, timeout=5) as guard,
    ):
        for number in (A, B):
            guard.observe(number, status="ACTIVE", health="HEALTHY")
        guard.decide(ANN)
        for connection in guard._store._idle.drain():
            connection.disconnect()
        guard.decide(ANN)
        client.config_resetstat()
        for i in range(100):
            assert guard.decide(ANN, idempotency_key=f"k{i}").allowed
            assert guard.decide(f"+1415{i % 20:07d}").allowed
        stats = client.info("commandstats")
    assert stats["cmdstat_fcall"]["calls"] == 200
    for name in ("eval", "evalsha", "function|load", "ping", "multi"):
        assert f"cmdstat_{name}" not in stats


def test_law_7_the_commands_of_a_decision_do_not_grow_with_the_lines(valkey: Any, pool: str) -> None:
    def commands(lines: int) -> int:
        name = f"{pool}-{lines}"
        with redis.Redis.from_url(valkey.url) as client, SendGuard(valkey.url, pool=name, timeout=5) as guard:
            for i in range(lines):
                guard.observe(f"+1202{i:07d}", status="ACTIVE", health="HEALTHY")
            client.config_resetstat()
            for i in range(20):
                assert guard.decide(f"+1415{i:07d}").allowed
            stats = client.info("commandstats")
        return sum(stats[name]["calls"] for name in stats if name not in ("cmdstat_info", "cmdstat_config|resetstat"))

    assert commands(500) == commands(10)


def test_scripts_are_loaded_again_after_the_server_forgot_them(valkey: Any, pool: str) -> None:
    with redis.Redis.from_url(valkey.url) as client, SendGuard(valkey.url, pool=pool, timeout=5) as guard:
        guard.observe(A, status="ACTIVE")
        assert guard.choose_from_number(ANN) == A
        client.function_flush()
        assert guard.choose_from_number(ANN) == A


def test_a_store_out_of_reach_denies_and_says_so(pool: str, caplog: pytest.LogCaptureFixture) -> None:
    guard = SendGuard("redis://:hunter2@127.0.0.1:1/0", pool=pool)
    decision = guard.decide(ANN)
    assert (decision.allowed, decision.reason, decision.retry_after) == (False, Reason.STORE_UNAVAILABLE, None)
    with pytest.raises(SendBlocked):
        guard.choose_from_number(ANN, max_wait=1)
    with pytest.raises(StoreUnavailable) as failure:
        guard.lines()
    for text in (caplog.text, str(failure.value), repr(guard)):
        assert "hunter2" not in text
        assert ANN not in text


@pytest.mark.parametrize("decode", [False, True])
def test_a_ready_client_is_taken_and_left_open(valkey: Any, pool: str, decode: bool) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=decode) as client:
        with SendGuard(client, pool=pool) as guard:
            guard.observe(A, status="ACTIVE")
            assert guard.choose_from_number(ANN) == A
            assert [line.number for line in guard.lines()] == [A]
        assert client.ping()


def test_unix_sockets(redis_server: Any, pool: str) -> None:
    with SendGuard(f"unix://{redis_server.socket_path}", pool=pool, timeout=5) as guard:
        guard.observe(A, status="ACTIVE")
        assert guard.choose_from_number(ANN) == A


def test_memory_is_private_or_shared_by_name() -> None:
    SendGuard("memory://shared-name").observe(A, status="ACTIVE")
    one, two = SendGuard("memory://shared-name-2"), SendGuard("memory://shared-name-2")
    one.observe(A, status="ACTIVE")
    assert two.choose_from_number(ANN) == A
    assert SendGuard().lines() == SendGuard("memory://").lines() == ()


def test_pools_of_one_store_know_nothing_of_each_other(new_guard: Callable[..., SendGuard], pool: str) -> None:
    one, other = new_guard(), new_guard(pool=f"{pool}-other")
    one.observe(A, status="ACTIVE")
    assert other.lines() == ()


def test_a_change_of_policy_takes_effect_at_once(new_guard: Callable[..., SendGuard]) -> None:
    """The index was written under the older, stricter policy; the newer one is not held to it, nor the other way."""
    strict = new_guard(policy=Policy(new_conversations=Quota(1, per=86_400)))
    generous = new_guard(policy=Policy(new_conversations=Quota(3, per=86_400)))
    strict.observe(A, status="ACTIVE")
    assert strict.decide("+14155550001").allowed
    assert not strict.decide("+14155550002").allowed
    assert generous.decide("+14155550002").allowed
    assert generous.decide("+14155550003").allowed
    assert not generous.decide("+14155550004").allowed
    assert not strict.decide("+14155550004").allowed


def test_from_env(monkeypatch: pytest.MonkeyPatch, pool: str, valkey: Any) -> None:
    for name, value in {
        "SENDGUARD_STORE": valkey.url,
        "SENDGUARD_POOL": pool,
        "SENDGUARD_TIMEOUT": "5",
        "SENDGUARD_HASH_KEY": "pepper",
        "LINQ_WEBHOOK_SECRET": f"{SECRET}, whsec_b3RoZXI=",
        "LINQ_API_KEY": "key",
    }.items():
        monkeypatch.setenv(name, value)
    guard = SendGuard.from_env()
    guard.observe(A, status="ACTIVE")
    assert guard.choose_from_number(ANN) == A
    assert guard._flows._secrets == (SECRET, "whsec_b3RoZXI=")
    assert SendGuard(valkey.url, pool=pool, hash_key="pepper").decide(ANN).reason is Reason.STICKY
    assert SendGuard(valkey.url, pool=pool, hash_key="salt").decide(ANN).reason is Reason.NEW_CONVERSATION
    monkeypatch.setenv("SENDGUARD_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="SENDGUARD_TIMEOUT"):
        AsyncSendGuard.from_env()


def test_decisions_and_errors_can_cross_processes(guard: SendGuard) -> None:
    decision = guard.decide(ANN)
    error = pickle.loads(pickle.dumps(SendBlocked(decision)))
    assert error.decision == decision
    assert error.reason is Reason.NO_LINES


def test_waiting_helper_fails_when_nothing_happens() -> None:
    with pytest.raises(AssertionError, match="timed out"):
        wait_until(lambda: False, timeout=0.02)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"store": "redis://:se/cret@localhost"}, "store"),
        ({"store": "redis://localhost/0?foo=bar"}, "store"),
        ({"store": f"redis://{'x' * 70}:6379"}, "store"),
        ({"hash_key": 5}, "hash_key"),
        ({"hash_key": ""}, "hash_key"),
        ({"webhook_secret": 5}, "webhook_secret"),
    ],
)
@pytest.mark.parametrize("kind", [SendGuard, AsyncSendGuard])
def test_a_wrong_setting_is_named_and_not_shown(kind: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must ") as wrong:
        kind(**options)
    assert "se/cret" not in str(wrong.value)
    assert "se" not in str(wrong.value.__cause__)


def test_wrong_values_are_named(guard: SendGuard) -> None:
    decision: Any = None
    with pytest.raises(ValueError, match=r"^decision "):
        guard.report(decision, "sent")
    outcome: Any = []
    with pytest.raises(ValueError, match=r"^outcome "):
        guard.report(guard.decide("+14155550123"), outcome)
    seconds: Any = "3"
    with pytest.raises(ValueError, match=r"^retry_after "):
        Outcome(retry_after=seconds)
    with pytest.raises(ValueError, match=r"^interval "):
        guard.poller(interval=seconds)
    overrides: Any
    for overrides in ([1], {"+12025550101": [1]}):
        with pytest.raises(ValueError, match=r"^overrides"):
            Policy(overrides=overrides)


def test_without_fakeredis_the_embedded_store_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    for kind in (SendGuard, AsyncSendGuard):
        with pytest.raises(ValueError, match=r"sendguard\[memory\]"):
            kind()
