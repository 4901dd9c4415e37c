"""Kept connections: one that the server closed is replaced, and none is read out of step."""

from __future__ import annotations

import asyncio
from typing import Any

import redis

from sendguard import AsyncSendGuard, SendGuard

A, ANN = "+12025550101", "+14155550101"


def _close_all(url: str) -> None:
    """Close every connection but our own."""
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_a_connection_that_the_server_closed_is_replaced(valkey: Any, pool: str) -> None:
    with SendGuard(valkey.url, pool=pool, timeout=5) as guard:
        guard.observe(A, status="ACTIVE")
        for _ in range(3):
            assert guard.decide(ANN).allowed
            _close_all(valkey.url)
        assert guard.decide(ANN).allowed


def test_an_async_connection_that_the_server_closed_is_replaced(valkey: Any, pool: str) -> None:
    async def run() -> None:
        async with AsyncSendGuard(valkey.url, pool=pool, timeout=5) as guard:
            await guard.observe(A, status="ACTIVE")
            for _ in range(3):
                assert (await guard.decide(ANN)).allowed
                await asyncio.to_thread(_close_all, valkey.url)
            assert (await guard.decide(ANN)).allowed

    asyncio.run(run())


def test_a_cancelled_decision_leaves_no_reply_behind(valkey: Any, pool: str) -> None:
    async def run() -> None:
        async with AsyncSendGuard(valkey.url, pool=pool, timeout=5) as guard:
            await guard.observe(A, status="ACTIVE")
            for i in range(50):
                task = asyncio.create_task(guard.decide(ANN, idempotency_key=f"cancelled-{i}"))
                for _ in range(i % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                one, two = await asyncio.gather(
                    guard.decide(ANN, from_number=A, idempotency_key=f"one-{i}"), guard.decide(f"+1415555{i:04d}")
                )
                again = await guard.decide(ANN, from_number=A, idempotency_key=f"one-{i}")
                assert (one.decision_id == again.decision_id) == one.allowed
                assert two.decision_id != one.decision_id

    asyncio.run(run())
