"""What is measured against each other: the floor under any store, sendguard, and what else one would use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio

from benchmarks.decisions import KEYED, NEW, STICKY, decisions
from benchmarks.handwritten import HandWritten
from benchmarks.setup import TIMEOUT, add_lines, guard_options
from sendguard import AsyncSendGuard, SendGuard

PING, EMPTY, ASYNC_PING = "PING", "empty EVALSHA", "PING, asyncio"
SCRIPT = ("evalsha",)
SYNC, ASYNC = "sendguard", "sendguard, asyncio"
KINDS = {"direct": (STICKY, NEW, STICKY + KEYED), "unrecorded": (STICKY,)}
"""What is decided, by mode; and what a row's name says of the mode."""
LABELS = {"direct": "", "unrecorded": ", not recorded"}
HANDWRITTEN = "hand-written guard"
LIMITS, THROTTLED = "limits: moving window, one key", "throttled-py: token bucket, one key"
ROUTER, ROUTER_CHECKED = "LiteLLM Router: choice", "LiteLLM Router: choice, pre-call check"
CHECKED_LINES = (10,)
ROUTER_LINES, ROUTER_SERVER = 1_000, "Valkey"
MESSAGES = [{"role": "user", "content": "Hello"}]
_MANY = 1_000_000


@dataclass(frozen=True)
class Contender:
    """One that is called for a decision. commands, loop: as `Series` has them."""

    name: str
    server: str
    lines: int
    call: Callable[[], Any]
    commands: tuple[str, ...] | None = ("fcall",)
    loop: asyncio.AbstractEventLoop | None = None


@dataclass(frozen=True)
class Place:
    """Where contenders are made: a server, its URL, so many lines, and the loop of those that are awaited."""

    server: str
    url: str
    lines: int
    loop: asyncio.AbstractEventLoop
    stack: ExitStack

    def client(self) -> redis.Redis:
        """A client of its own for one of them."""
        client: redis.Redis = redis.Redis.from_url(self.url, socket_timeout=TIMEOUT)
        self.stack.callback(client.close)
        return client

    def contender(self, name: str, call: Callable[[], Any], **more: Any) -> Contender:
        """One that is made here."""
        return Contender(name, self.server, self.lines, call, **more)


def floor(place: Place) -> Iterator[Contender]:
    """What any round trip takes, and any script."""
    yield place.contender(PING, place.client().ping, commands=("ping",))
    client = place.client()
    sha = client.script_load("return 1")
    yield place.contender(EMPTY, lambda: client.evalsha(sha, 0), commands=SCRIPT)


def guards(place: Place, mode: str = "direct") -> Iterator[Contender]:
    """sendguard. mode: a key of `setup.MODES`."""
    pool = f"lines-{place.lines}-{mode}"
    guard = place.stack.enter_context(SendGuard(place.url, pool=pool, refresh=None, **guard_options(mode)))
    add_lines(guard, place.lines)
    for what, call in decisions(guard):
        if what in KINDS[mode]:
            yield place.contender(f"{SYNC}: {what}{LABELS[mode]}", call)


def async_guards(place: Place, mode: str = "direct") -> Iterator[Contender]:
    """sendguard under asyncio, and the PING of asyncio's client."""
    client = redis.asyncio.Redis.from_url(place.url, socket_timeout=TIMEOUT)
    pool = f"async-lines-{place.lines}-{mode}"
    with SendGuard(place.url, pool=pool, refresh=None, **guard_options()) as guard:
        add_lines(guard, place.lines)
    guard_ = AsyncSendGuard(place.url, pool=pool, refresh=None, **guard_options(mode))
    place.stack.callback(lambda: place.loop.run_until_complete(client.aclose()))
    place.stack.callback(lambda: place.loop.run_until_complete(guard_.close()))
    if mode == "direct":
        yield place.contender(ASYNC_PING, client.ping, commands=("ping",), loop=place.loop)
    for what, call in decisions(guard_):
        if what in KINDS[mode]:
            yield place.contender(f"{ASYNC}: {what}{LABELS[mode]}", call, loop=place.loop)


def handwritten(place: Place) -> Iterator[Contender]:
    """A guard as a careful user would write it."""
    guard = HandWritten(place.client(), place.lines)
    guard.add_lines()
    yield place.contender(HANDWRITTEN, guard.choose, commands=("hgetall", "evalsha"))


def limiters(place: Place) -> Iterator[Contender]:
    """Rate limiters, asked about one key: they choose nothing."""
    from limits import RateLimitItemPerMinute
    from limits.storage import RedisStorage
    from limits.strategies import MovingWindowRateLimiter
    from throttled import RateLimiterType, Throttled, per_sec
    from throttled.store import RedisStore

    window, limit = MovingWindowRateLimiter(RedisStorage(place.url)), RateLimitItemPerMinute(_MANY)
    yield place.contender(LIMITS, lambda: window.hit(limit, f"line-{place.lines}"), commands=SCRIPT)
    bucket = Throttled(
        key=f"line-{place.lines}",
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=per_sec(_MANY, burst=_MANY),
        store=RedisStore(server=place.url),
    )
    yield place.contender(THROTTLED, bucket.limit, commands=SCRIPT)


def router(url: str, name: str, count: int) -> Any:
    """LiteLLM's Router over so many deployments, which share their state in a Redis."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it looks for a list of prices on the web
    os.environ["LITELLM_MODE"] = "PRODUCTION"  # else it reads .env
    from litellm import Router

    where = urlsplit(url)
    deployments = [
        {
            "model_name": "line",
            "litellm_params": {"model": "hosted_vllm/line", "api_base": "http://127.0.0.1:9", "rpm": 10**9},
            "model_info": {"id": f"{name}-{count}-{i}"},
        }
        for i in range(count)
    ]
    made: Any = Router(
        model_list=deployments,
        routing_strategy="usage-based-routing-v2",
        redis_host=where.hostname,
        redis_port=where.port,
    )
    _end_unused_loop()
    return made


def routers(place: Place) -> Iterator[Contender]:
    """LiteLLM's Router with as many deployments as there are lines, and the check by which it takes a slot.

    Ten thousand take it a minute to take in, so that it does so for one server alone.
    """
    if place.lines > ROUTER_LINES and place.server != ROUTER_SERVER:
        return
    made = router(place.url, place.server, place.lines)

    def choose() -> Any:
        return made.get_available_deployment(model="line", messages=MESSAGES)

    yield place.contender(ROUTER, choose, commands=None)
    if place.lines in CHECKED_LINES:
        # Its own: `Router.routing_strategy_pre_call_checks` asks the first Router's of all in a process.
        check = made.lowesttpm_logger_v2.pre_call_check
        yield place.contender(ROUTER_CHECKED, lambda: check(choose()), commands=None)


def _end_unused_loop() -> None:
    """A Router made outside of a loop leaves a task in a loop that nobody runs."""
    loop = asyncio.get_event_loop()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    asyncio.set_event_loop(None)


def contenders(place: Place, *, others: bool) -> Iterator[Contender]:
    """All of them, the PINGs next to what is compared with them. others: those of other libraries as well."""
    yield from floor(place)
    for mode in KINDS:
        yield from guards(place, mode)
        yield from async_guards(place, mode)
    yield from handwritten(place)
    if others:
        yield from limiters(place)
        yield from routers(place)
