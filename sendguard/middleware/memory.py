"""What a transport keeps in its process: which line a chat lives on, and which sends of the SDK may be tried again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A bounded map that forgets. size: entries; ttl: seconds. Safe to share between threads."""

    def __init__(self, size: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._ttl, self._clock = size, ttl, clock
        self._found: OrderedDict[Hashable, tuple[float, V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, if it was put less than `ttl` ago."""
        with self._lock:
            entry = self._found.get(key)
        return None if entry is None or entry[0] <= self._clock() else entry[1]

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value; the one put first goes when there are too many."""
        with self._lock:
            self._found.pop(key, None)
            self._found[key] = (self._clock() + self._ttl, value)
            while len(self._found) > self._size:
                self._found.popitem(last=False)

    def pop(self, key: Hashable) -> V | None:
        """The value, no longer kept."""
        value = self.get(key)
        with self._lock:
            self._found.pop(key, None)
        return value
