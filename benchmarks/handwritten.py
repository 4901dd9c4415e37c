"""A guard as a careful user would write it by hand, to compare with. It knows neither conversations nor quotas."""

from __future__ import annotations

import random
import time
from typing import Any

import redis

from benchmarks.setup import line

BUCKET = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(burst, (tonumber(kept[1]) or burst) + (now - (tonumber(kept[2]) or now)) * rate)
if tokens < 1 then return 0 end
redis.call('HSET', KEYS[1], 'tokens', tokens - 1, 'at', now)
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
"""
RATE, BURST = 1_000_000, 1_000_000


class HandWritten:
    """Reads the record of every line in one pipeline, takes a random one that may send, and one token of its bucket."""

    def __init__(self, client: redis.Redis, lines: int) -> None:
        self._client = client
        self._prefix = f"handwritten:{lines}:"
        self._numbers = [line(i) for i in range(lines)]
        self._bucket = client.register_script(BUCKET)

    def add_lines(self) -> None:
        """Write the record of each line."""
        pipe: Any = self._client.pipeline(transaction=False)
        for number in self._numbers:
            pipe.hset(
                self._prefix + number,
                mapping={"status": "ACTIVE", "health": "HEALTHY", "type": "iMessage", "paused_until": "0"},
            )
        pipe.execute()

    def choose(self) -> str | None:
        """A line that may send now, or None. Two round trips, unless its bucket is empty."""
        pipe: Any = self._client.pipeline(transaction=False)
        for number in self._numbers:
            pipe.hgetall(self._prefix + number)
        now = time.time()
        able = [
            number
            for number, state in zip(self._numbers, pipe.execute(), strict=True)
            if state[b"status"] == b"ACTIVE" and state[b"health"] == b"HEALTHY" and float(state[b"paused_until"]) <= now
        ]
        while able:
            chosen = random.choice(able)
            if self._bucket(keys=[f"{self._prefix}bucket:{chosen}"], args=[RATE, BURST]):
                return chosen
            able.remove(chosen)
        return None
