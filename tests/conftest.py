"""Real stores for the tests: the embedded one, Valkey and Redis, started on free ports and stopped after."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sendguard import SendGuard
from tests.clusters import Cluster
from tests.sentinels import Sentinels
from tests.servers import Server, redis_binary, valkey_binary
from tests.support import ManualClock

settings.register_profile("tests", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.load_profile("tests")


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Valkey of the test's own, to pause, kill and start again."""
    server = Server(valkey_binary(), tmp_path / "server")
    yield server
    if server.paused:
        server.resume()
    server.stop()


_BINARIES = {"valkey": valkey_binary, "redis_server": redis_binary}


@pytest.fixture(scope="session", params=_BINARIES)
def _running_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(_BINARIES[request.param](), tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def cluster(_running_cluster: Cluster) -> Cluster:
    """A cluster, of Valkey and of Redis in turn, whole and empty again before each test."""
    _running_cluster.heal()
    _running_cluster.flush()
    return _running_cluster


@pytest.fixture(scope="session", params=_BINARIES)
def _running_sentinels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with Sentinels(_BINARIES[request.param](), tmp_path_factory.mktemp("sentinels")) as running:
        yield running


@pytest.fixture
def sentinels(_running_sentinels: Sentinels) -> Sentinels:
    """A primary, its replicas and its Sentinels, of Valkey and of Redis in turn, whole and empty before each test."""
    _running_sentinels.heal()
    _running_sentinels.flush()
    return _running_sentinels


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
        guards.append(SendGuard(url, **{"pool": pool, "clock": clock, "timeout": 5.0, "refresh": None, **options}))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


@pytest.fixture
def guard(new_guard: Callable[..., SendGuard]) -> SendGuard:
    return new_guard()
