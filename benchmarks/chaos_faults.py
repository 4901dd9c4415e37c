"""Trouble for a store, drawn at random: what is done to it, when, and whether it lost its memory over it."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.fault_proxy import FaultProxy
from tests.faults import Close, Fault, Refuse, Silence, Unreachable
from tests.sentinels import Sentinels
from tests.servers import Server, valkey_binary

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_EMPTY_FOR = 3.0


@dataclass
class Trouble:
    """One fault. Times: Unix seconds. lost: just before and just after the store lost its memory, or its last writes.

    empty_until: when the pool was last seen empty after that.
    """

    kind: str
    began: float
    ended: float = 0.0
    lost: tuple[float, float] | None = None
    empty_until: float = 0.0


class Stage(ABC):
    """A store that is made trouble for. `url`: where the guards find it."""

    url: str

    def __init__(self, pool: str, dice: random.Random) -> None:
        self.dice, self._key = dice, f"sendguard:{{{pool}}}:lines"
        self._stack = ExitStack()

    def close(self) -> None:
        """Stop all that runs."""
        self._stack.close()

    @property
    @abstractmethod
    def server(self) -> Server:
        """The one that holds the pool now."""

    @abstractmethod
    def kinds(self) -> dict[str, Callable[[Trouble], None]]:
        """What may be done to it."""

    def trouble(self, kind: str) -> Trouble:
        """Do one of `kinds`, and return when all is well again but for what was forgotten."""
        trouble = Trouble(kind, time.time())
        self.kinds()[kind](trouble)
        trouble.ended = trouble.ended or time.time()
        return trouble

    def lasting(self, least: float, most: float) -> None:
        time.sleep(self.dice.uniform(least, most))

    def losing(self, trouble: Trouble, lose: Callable[[], Any]) -> None:
        before = time.time()
        lose()
        trouble.lost = (before, time.time())

    def watch_empty(self, trouble: Trouble) -> None:
        """Look at the pool until somebody has filled it again."""
        trouble.ended = time.time()
        deadline = time.monotonic() + _EMPTY_FOR
        while time.monotonic() < deadline:
            looked = time.time()
            if self.server.client.exists(self._key):
                return
            trouble.empty_until = looked
            time.sleep(0.003)

    def flush(self, trouble: Trouble) -> None:
        self.losing(trouble, self.server.client.flushall)
        self.watch_empty(trouble)

    def script_flush(self, _: Trouble) -> None:
        self.server.client.script_flush()


class Single(Stage):
    """One Valkey behind a proxy, in some rounds with an append-only file that forgets nothing, in others without."""

    def __init__(self, pool: str, dice: random.Random, folder: Path) -> None:
        super().__init__(pool, dice)
        self._folder, self._round = folder, 0
        self._server = self._next()
        self._stack.callback(lambda: self._server.stop())
        self.proxy = self._stack.enter_context(FaultProxy(("127.0.0.1", self._server.port)))
        self.url = self.proxy.url

    @property
    def server(self) -> Server:
        return self._server

    @property
    def durable(self) -> bool:
        return self._round % 2 == 1

    def _next(self) -> Server:
        self._round += 1
        return Server(valkey_binary(), self._folder / f"round{self._round}", *(DURABLE if self.durable else ()))

    def kinds(self) -> dict[str, Callable[[Trouble], None]]:
        return {
            "kill, with an append-only file" if self.durable else "kill, without persistence": self._kill,
            "pause": self._pause,
            "flush": self.flush,
            "script flush": self.script_flush,
            "refused": lambda _: self._partition(Refuse()),
            "unreachable": lambda _: self._partition(Unreachable()),
            "silent": lambda _: self._partition(Silence()),
            "closing": lambda _: self._partition(Close()),
            "replaced by an empty one": self._replace,
        }

    def _kill(self, trouble: Trouble) -> None:
        if self.durable:
            self._server.kill()
        else:
            self.losing(trouble, self._server.kill)
        self.lasting(0.05, 2.0)
        self._server.start()
        if not self.durable:
            self.watch_empty(trouble)

    def _pause(self, _: Trouble) -> None:
        self._server.pause()
        self.lasting(0.05, 3.0)
        self._server.resume()

    def _partition(self, fault: Fault) -> None:
        self.proxy.forget()
        self.proxy.set(fault)
        self.lasting(0.1, 3.0)
        self.proxy.clear()

    def _replace(self, trouble: Trouble) -> None:
        self.proxy.set(Refuse())
        self.losing(trouble, self._server.stop)
        self._server = self._next()
        self.proxy.server = ("127.0.0.1", self._server.port)
        self.proxy.clear()
        self.watch_empty(trouble)


class Watched(Stage):
    """Three servers under Sentinels. A primary that is killed takes with it what its replicas had not yet."""

    def __init__(self, pool: str, dice: random.Random, folder: Path) -> None:
        super().__init__(pool, dice)
        self.sentinels = self._stack.enter_context(Sentinels(valkey_binary(), folder))
        self.url = self.sentinels.url

    @property
    def server(self) -> Server:
        return self.sentinels.primary()

    def kinds(self) -> dict[str, Callable[[Trouble], None]]:
        return {
            "primary killed": self._kill,
            "primary paused, no failover": self._pause,
            "flush": self.flush,
            "script flush": self.script_flush,
        }

    def _kill(self, trouble: Trouble) -> None:
        old = self.server
        self.losing(trouble, old.kill)
        self.sentinels.wait_for_failover(old)
        trouble.ended = time.time()
        self.sentinels.heal()

    def _pause(self, _: Trouble) -> None:
        # Shorter than what Sentinels take for an end: a primary that wakes up after a failover decides for itself for
        # a while, and what it is told then is thrown away.
        server = self.server
        server.pause()
        self.lasting(0.05, 0.7)
        server.resume()


STAGES: dict[str, type[Single] | type[Watched]] = {"single": Single, "sentinel": Watched}
FAILURES = (redis.RedisError, AssertionError)
"""What a server or the harness raises where a fault could not be carried out."""
