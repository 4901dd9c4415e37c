"""Two thin clients of the store, sync and async. The rules they carry out stand in `route`, `connect` and `breaker`."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sendguard.background import after_fork
from sendguard.errors import SendGuardError, StoreUnavailable
from sendguard.store.address import Address, read_url
from sendguard.store.breaker import Breaker
from sendguard.store.connect import CLUSTER_SLOTS, Connector
from sendguard.store.link import AsyncLink, Link, until
from sendguard.store.route import Hop, NotSent, Pause, Renewed, first_hop, route
from sendguard.store.scripts import Call, Command, Reply
from sendguard.store.wire import words

L = TypeVar("L", Link, AsyncLink)
_REFUSALS = ("NOOVERRIDES", "UNKNOWNLINE", "NOGROUP", "BUSYGROUP")


class ScriptRefused(SendGuardError):
    """A script, or the server, answered with an error that a caller expects. code: its first word; detail: the next."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(code)


class StoreRenewed(StoreUnavailable):
    """The store may have been restarted or replaced since this process last asked it; a decision was not sent to it."""


def _failure(error: BaseException) -> SendGuardError:
    if isinstance(error, Renewed):
        return StoreRenewed("the store was lost and found again")
    words = str(error).split()
    if isinstance(error, ResponseError) and words and words[0] in _REFUSALS:
        return ScriptRefused(words[0], words[1] if len(words) > 1 else "")
    # The kind alone: a server's message can hold the arguments of a command.
    return StoreUnavailable(f"the store failed: {error.kind if isinstance(error, NotSent) else type(error).__name__}")


_OPEN = "the store failed just now; it is asked again shortly"
_shared_memory: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_shared_memory_lock = threading.Lock()


def _memory_client(kind: str, name: str) -> Any:
    try:
        import fakeredis
    except ImportError:
        raise ValueError("store 'memory://' needs the extra: pip install 'sendguard[memory]'") from None
    return getattr(fakeredis, kind)(server=_memory_server(fakeredis, name))


def _memory_server(fakeredis: Any, name: str) -> Any:
    if not name:
        return fakeredis.FakeServer()
    with _shared_memory_lock:
        server = _shared_memory.get(name)
        if server is None:
            server = _shared_memory[name] = fakeredis.FakeServer()
        return server


def _opened(store: Any, kinds: tuple[type, str], key: str, timeout: float) -> tuple[Any, Connector | None]:
    """What a store is reached by: a client that does all by itself, or a connector. kinds: the client's, fakeredis'."""
    ready, memory = kinds
    if not isinstance(store, str):
        if not isinstance(store, ready):
            name = f"{ready.__module__.removesuffix('.client')}.Redis"
            raise ValueError(f"store must be a URL or a {name}, not {type(store).__name__}")
        if type(store) is not ready:
            return store, None
        return None, Connector(store, key, timeout, is_async=ready is redis.asyncio.Redis)
    target = read_url(store)
    if target.kind == "memory":
        return _memory_client(memory, target.name), None
    return None, Connector(target, key, timeout, is_async=ready is redis.asyncio.Redis)


class _Idle(Generic[L]):
    """Links that nobody uses, by the server that they lead to. A forked process starts with none."""

    def __init__(self) -> None:
        self._by_address: defaultdict[Address | None, deque[L]] = defaultdict(deque)
        after_fork(self, _Idle._forget)

    def _forget(self) -> None:
        self._by_address = defaultdict(deque)

    def pop(self, address: Address | None) -> L | None:
        try:
            return self._by_address[address].pop()
        except IndexError:
            return None

    def add(self, link: L) -> None:
        self._by_address[link.address].append(link)

    def drain(self) -> list[L]:
        kept, self._by_address = self._by_address, defaultdict(deque)
        return [link for some in kept.values() for link in some]


class Store:
    """The state of a pool in Redis, Valkey or memory.

    store: a URL (docs/store.md), or a ready `redis.Redis`, which gives its address, credentials and TLS settings. key:
    any key of the pool. timeout: seconds for a call, whatever the store does. Safe to share between threads.

    Raises ValueError naming `store` if it is neither.
    """

    def __init__(self, store: str | redis.Redis, *, key: str, timeout: float) -> None:
        self._owned, self._timeout, self._closed = isinstance(store, str), timeout, False
        self._client, connector = _opened(store, (redis.Redis, "FakeRedis"), key, timeout)
        if connector is not None:
            self._connector, self._primary = connector, connector.primary
        self._idle: _Idle[Link] = _Idle()
        self.breaker = Breaker()

    @property
    def is_server(self) -> bool:
        """Whether it is a server that this asks over connections of its own: neither embedded nor a client's."""
        return self._client is None

    def watch(self) -> None:
        """Have decisions raise StoreRenewed where the store, a server, may have changed."""
        self._primary.watched = True

    def run(self, call: Call | Command, expires: float | None = None) -> Reply:
        """Run a script, or a command, and return the server's reply. Raises StoreUnavailable, or ScriptRefused.

        expires: when to give up, in `time.monotonic()`'s seconds; None for the store's timeout from now.
        """
        now = time.monotonic()
        if self.breaker.failures and not self.breaker.allows(now):
            raise StoreUnavailable(_OPEN)
        if expires is None:
            expires = now + self._timeout
        if isinstance(call, Command):
            expires += call.blocks
        try:
            reply = self._routed(call, expires)
        except Exception as error:
            failure = _failure(error)
            if type(failure) is StoreUnavailable:
                self.breaker.failed(time.monotonic())
            raise failure from None
        if self.breaker.failures:
            self.breaker.worked()
        return reply

    def _routed(self, call: Call | Command, expires: float) -> Reply:
        if self._client is not None:
            return _by_client(self._client, call)
        hop = first_hop(call, self._primary)
        try:
            reply = self._take(hop, expires)
        except Exception as error:
            reply = self._mended(call, error, expires)
        return reply if isinstance(call, Call) else self._connector.read(call, reply)

    def _mended(self, call: Call | Command, error: Exception, expires: float) -> Reply:
        hops = route(call, self._primary)
        next(hops)  # which has failed
        step = hops.throw(error)
        try:
            while True:
                try:
                    reply = self._take(step, expires)
                except Exception as error:
                    step = hops.throw(error)
                else:
                    step = hops.send(reply)
        except StopIteration as done:
            return done.value

    def _take(self, step: Hop | Pause, expires: float) -> Reply:
        if isinstance(step, Pause):
            if time.monotonic() + step.seconds >= expires:
                raise TimeoutError
            return time.sleep(step.seconds)
        link = self._borrow(step, expires)
        try:
            reply = link.ask(step, expires)
        except ResponseError:
            self._give_back(link)
            raise
        except BaseException:
            link.disconnect()
            raise
        self._give_back(link)
        return reply

    def _borrow(self, hop: Hop, expires: float) -> Link:
        """A connection that nobody uses, or a new one. Raises NotSent, or Renewed."""
        while (link := self._idle.pop(hop.address)) is not None:
            try:
                if link.is_quiet():
                    return link
            except (RedisError, OSError):
                pass
            for lost in (link, *self._idle.drain()):
                lost.disconnect()
            if hop.wary:
                raise Renewed
        opening = _Opening(lambda: self._open(hop.address), self._give_back)
        return opening.wait(expires - time.monotonic())

    def _open(self, address: Address | None) -> Link:
        if address is None and self._primary.moves:
            address = self._discover()
        connection = self._connector.connection(address)
        connection.connect()
        self._primary.functions = True
        return Link(connection, address)

    def _discover(self) -> Address:
        connector = self._connector
        if connector.kind == "sentinel":
            self._primary.address = connector.sentinel().discover_master(connector.service)
            return self._primary.address
        for seed in connector.seeds:
            node = connector.connection(seed)
            try:
                node.send_command(*CLUSTER_SLOTS)
                return connector.found(node.read_response(), seed)
            except (RedisError, OSError):
                connector.silent(seed)
            finally:
                node.disconnect()
        raise NotSent("ClusterDownError")

    def _give_back(self, link: Link) -> None:
        if self._closed:
            link.disconnect()
        else:
            self._idle.add(link)

    def close(self) -> None:
        """Close the connections that were made here; a client that was handed in stays open."""
        self._closed = True
        for link in self._idle.drain():
            link.disconnect()
        if self._owned and self._client is not None:
            self._client.close()


def _by_client(client: Any, call: Call | Command) -> Reply:
    if isinstance(call, Command):
        return client.execute_command(*call.args)
    try:
        return client.execute_command(*words("EVALSHA", call.script.sha, call))
    except NoScriptError:
        return client.execute_command(*words("EVAL", call.script.source, call))


class _Opening:
    """A connection being made in a thread of its own: looking up a name, or TLS, cannot be timed out otherwise."""

    def __init__(self, make: Callable[[], Link], too_late: Callable[[Link], None]) -> None:
        self._make, self._too_late = make, too_late
        self._lock, self._done = threading.Lock(), threading.Event()
        self._left = False
        self._link: Link | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="sendguard-connect", daemon=True).start()

    def _run(self) -> None:
        try:
            self._link = self._make()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._done.set()
            if self._left and self._link is not None:
                self._too_late(self._link)

    def wait(self, seconds: float) -> Link:
        """The connection. Raises NotSent if it cannot be made, or not in time."""
        self._done.wait(max(0.0, seconds))
        with self._lock:
            if not self._done.is_set():
                self._left = True
                raise NotSent("TimeoutError")
        if self._link is None:
            raise self._error if isinstance(self._error, NotSent) else NotSent(type(self._error).__name__)
        return self._link


class AsyncStore:
    """As `Store`, for `redis.asyncio`. Not to be shared between event loops."""

    def __init__(self, store: str | redis.asyncio.Redis, *, key: str, timeout: float) -> None:
        self._owned, self._timeout, self._closed = isinstance(store, str), timeout, False
        self._client, connector = _opened(store, (redis.asyncio.Redis, "FakeAsyncRedis"), key, timeout)
        if connector is not None:
            self._connector, self._primary = connector, connector.primary
        self._idle: _Idle[AsyncLink] = _Idle()
        self.breaker = Breaker()

    @property
    def is_server(self) -> bool:
        """Whether it is a server that this asks over connections of its own: neither embedded nor a client's."""
        return self._client is None

    def watch(self) -> None:
        """Have decisions raise StoreRenewed where the store, a server, may have changed."""
        self._primary.watched = True

    async def run(self, call: Call | Command, expires: float | None = None) -> Reply:
        """As `Store.run`."""
        now = time.monotonic()
        if self.breaker.failures and not self.breaker.allows(now):
            raise StoreUnavailable(_OPEN)
        if expires is None:
            expires = now + self._timeout
        if isinstance(call, Command):
            expires += call.blocks
        try:
            reply = await self._routed(call, expires)
        except Exception as error:
            failure = _failure(error)
            if type(failure) is StoreUnavailable:
                self.breaker.failed(time.monotonic())
            raise failure from None
        if self.breaker.failures:
            self.breaker.worked()
        return reply

    async def _routed(self, call: Call | Command, expires: float) -> Reply:
        if self._client is not None:
            async with until(expires):
                return await _by_async_client(self._client, call)
        hop = first_hop(call, self._primary)
        try:
            reply = await self._take(hop, expires)
        except Exception as error:
            reply = await self._mended(call, error, expires)
        return reply if isinstance(call, Call) else self._connector.read(call, reply)

    async def _mended(self, call: Call | Command, error: Exception, expires: float) -> Reply:
        hops = route(call, self._primary)
        next(hops)  # which has failed
        step = hops.throw(error)
        try:
            while True:
                try:
                    reply = await self._take(step, expires)
                except Exception as error:
                    step = hops.throw(error)
                else:
                    step = hops.send(reply)
        except StopIteration as done:
            return done.value

    async def _take(self, step: Hop | Pause, expires: float) -> Reply:
        if isinstance(step, Pause):
            async with until(expires):
                return await asyncio.sleep(step.seconds)
        link = await self._borrow(step, expires)
        try:
            reply = await link.ask(step, expires)
        except ResponseError:
            await self._give_back(link)
            raise
        except BaseException:
            await link.disconnect()
            raise
        await self._give_back(link)
        return reply

    async def _borrow(self, hop: Hop, expires: float) -> AsyncLink:
        while (link := self._idle.pop(hop.address)) is not None:
            try:
                if await link.is_quiet():
                    return link
            except (RedisError, OSError):
                pass
            for lost in (link, *self._idle.drain()):
                await lost.disconnect()
            if hop.wary:
                raise Renewed
        async with until(expires):
            try:
                return await self._open(hop.address)
            except (RedisError, OSError) as error:
                raise NotSent(type(error).__name__) from None

    async def _open(self, address: Address | None) -> AsyncLink:
        if address is None and self._primary.moves:
            address = await self._discover()
        connection = self._connector.connection(address)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._primary.functions = True
        return AsyncLink(connection, address)

    async def _discover(self) -> Address:
        connector = self._connector
        if connector.kind == "sentinel":
            self._primary.address = await _ask_sentinels(connector)
            return self._primary.address
        for seed in connector.seeds:
            node = connector.connection(seed)
            connector.silent(seed)  # said first: a deadline may end the wait for it
            try:
                await node.send_command(*CLUSTER_SLOTS)
                return connector.found(await node.read_response(), seed)
            except (RedisError, OSError):
                continue
            finally:
                await node.disconnect(nowait=True)
        raise NotSent("ClusterDownError")

    async def _give_back(self, link: AsyncLink) -> None:
        if self._closed:
            await link.disconnect()
        else:
            self._idle.add(link)

    async def close(self) -> None:
        """As `Store.close`."""
        self._closed = True
        for link in self._idle.drain():
            await link.disconnect()
        if self._owned and self._client is not None:
            await self._client.aclose()


async def _by_async_client(client: Any, call: Call | Command) -> Reply:
    if isinstance(call, Command):
        return await client.execute_command(*call.args)
    try:
        return await client.execute_command(*words("EVALSHA", call.script.sha, call))
    except NoScriptError:
        return await client.execute_command(*words("EVAL", call.script.source, call))


async def _ask_sentinels(connector: Connector) -> Address:
    connector.silent(connector.seeds[0])  # said first: a deadline may end the wait for it
    sentinel = connector.sentinel()
    try:
        address: Address = await sentinel.discover_master(connector.service)
    finally:
        for each in sentinel.sentinels:
            await each.aclose()
    return address
