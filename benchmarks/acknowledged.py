"""From a webhook's acknowledgement to the last send that another process lets through on that line.

One process hands signed webhooks that flag one line after the other to its guard, and notes when each call returned:
from then on it would answer 2xx. Others ask all the time whether they may send on that very line. All clocks are
CLOCK_MONOTONIC, one for all processes of a machine.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.setup import add_lines, line, recipient
from benchmarks.webhooks import guard_with_secret, status
from sendguard import Reason

POOL, BEFORE, AFTER = "acknowledged", 0.03, 0.03
_DONE = -1


@dataclass(frozen=True)
class Flag:
    """One line that was flagged. All in seconds after its webhook was acknowledged, so what is before is negative.

    asked: when the last decision was asked for that was allowed; told: when the last such answer came; denied: when the
    first was asked for that was denied as FLAGGED. took: how long the webhook took. after: decisions asked for after
    it, and how many of those were allowed.
    """

    asked: float
    told: float
    denied: float
    took: float
    after: int
    allowed_after: int


def _ask(url: str, pool: str, number: int, mode: str, current: Any, barrier: Any, results: Any) -> None:
    """One process: may it send on the current line? Again and again."""
    seen: dict[int, list[tuple[float, float, bool]]] = {}
    with guard_with_secret(url, pool, mode) as guard:
        guard.decide(recipient(1000 * number), from_number=line(0))
        barrier.wait()
        while (which := current.value) != _DONE:
            asked = time.monotonic()
            decision = guard.decide(recipient(1000 * number + which), from_number=line(which))
            told = time.monotonic()
            assert decision.allowed or decision.reason is Reason.FLAGGED, decision
            seen.setdefault(which, []).append((asked, told, decision.allowed))
    results.put(seen)


def _flag(answers: Sequence[tuple[float, float, bool]], acknowledged: float, took: float) -> Flag:
    allowed = [(asked, told) for asked, told, may in answers if may]
    after = [may for asked, _, may in answers if asked > acknowledged]
    return Flag(
        asked=max(asked for asked, _ in allowed) - acknowledged,
        told=max(told for _, told in allowed) - acknowledged,
        denied=min(asked for asked, _, may in answers if not may) - acknowledged,
        took=took,
        after=len(after),
        allowed_after=sum(after),
    )


def measure(url: str, *, flags: int, processes: int, mode: str = "direct", pool: str = POOL) -> list[Flag]:
    """Flag so many lines while so many processes ask for them. mode: of these processes, a key of `setup.MODES`."""
    context = multiprocessing.get_context("spawn")
    current, barrier, results = context.Value("i", 0), context.Barrier(processes + 1), context.Queue()
    acknowledged: list[tuple[float, float]] = []
    with guard_with_secret(url, pool, mode) as guard:
        add_lines(guard, flags, at=time.time() - 3600)
        workers = [
            context.Process(target=_ask, args=(url, pool, number, mode, current, barrier, results), daemon=True)
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        barrier.wait(60)
        for which in range(flags):
            current.value = which
            body, headers = status(line(which), "FLAGGED", time.time())
            time.sleep(BEFORE)
            begun = time.monotonic()
            guard.handle_webhook(body, headers)
            acknowledged.append((now := time.monotonic(), now - begun))
            time.sleep(AFTER)
        current.value = _DONE
        seen = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
    return [
        _flag([answer for one in seen for answer in one.get(which, ())], *acknowledged[which]) for which in range(flags)
    ]
