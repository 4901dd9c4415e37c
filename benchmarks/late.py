"""How late a Router of LiteLLM learns that another cooled a deployment down, to compare `acknowledged` with."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import MESSAGES, router

SECONDS = 1.3


@dataclass(frozen=True)
class Late:
    """One deployment that was cooled down. asked: when its last choice was asked for, in seconds after the cooldown was
    stored; after: choices asked for after that, and how many of them were this deployment."""

    asked: float
    after: int
    chosen_after: int


def _choose(asks: Any, wanted: str, seconds: float) -> list[tuple[float, bool]]:
    """Choose again and again: when each was asked for, and whether it was the wanted one."""
    found, until = [], time.monotonic() + seconds
    while (asked := time.monotonic()) < until:
        chosen = asks.get_available_deployment(model="line", messages=MESSAGES)
        found.append((asked, chosen["model_info"]["id"] == wanted))
    return found


def measure(url: str, *, times: int) -> list[Late]:
    """Two Routers with caches of their own: one cools a deployment down, and the other is asked before and after."""
    dice, found = random.Random(1), []
    tells, asks = router(url, "late", 2 * times), router(url, "late", 2 * times)
    for i in range(times):
        name = f"late-{2 * times}-{i}"
        before = _choose(asks, name, 0.3 + dice.random())
        tells.health().cooldowns.add_deployment_to_cooldown(name, RuntimeError("429"), 429, 600.0)
        stored = time.monotonic()
        after = _choose(asks, name, SECONDS)
        chosen = [asked - stored for asked, wanted in [*before, *after] if wanted]
        found.append(Late(max(chosen), len(after), sum(wanted for _, wanted in after)))
    return found
