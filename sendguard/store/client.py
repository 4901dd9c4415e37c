"""Two thin clients of the store, sync and async, that differ in one `await`."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from sendguard.errors import SendGuardError, StoreUnavailable
from sendguard.store.scripts import Call, Command, Reply
from sendguard.store.wire import evalsha, words

SCHEMES = ("memory", "redis", "rediss", "unix")
_REFUSALS = ("NOOVERRIDES", "UNKNOWNLINE", "NOGROUP", "BUSYGROUP")


class ScriptRefused(SendGuardError):
    """A script, or the server, answered with an error that a caller expects. code: its first word; detail: the next."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(code)


def _failure(error: Exception) -> SendGuardError:
    words = str(error).split()
    if isinstance(error, ResponseError) and words and words[0] in _REFUSALS:
        return ScriptRefused(words[0], words[1] if len(words) > 1 else "")
    # The kind alone: a server's message can hold the arguments of a command.
    return StoreUnavailable(f"the store failed: {type(error).__name__}")


_FAILURES = (RedisError, OSError, EOFError)

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


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        scheme, _ = parts.scheme, parts.port  # which it reads only now
    except (ValueError, UnicodeError):
        raise ValueError("store must be a URL; special characters of its password are written as %XX") from None
    if scheme not in SCHEMES:
        raise ValueError(f"store must be a URL with one of the schemes {', '.join(SCHEMES)}, or a Redis client")
    return scheme


def _client_of(kind: Any, url: str, timeout: float, retry: Any) -> Any:
    try:
        client = kind.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError):
        raise ValueError("store must be a URL as redis-py reads it; something behind its address is wrong") from None
    return client


class Store:
    """The state of pools in Redis, Valkey or memory.

    store: `memory://` (this guard alone), `memory://NAME` (shared under that name within the process), `redis://`,
    `rediss://`, `unix://`, or a ready `redis.Redis` with timeouts of its own. timeout: seconds for connecting and for
    each reply, of a client made from a URL. Safe to share between threads.

    Raises ValueError naming `store` if it is neither.
    """

    def __init__(self, store: str | redis.Redis, *, timeout: float) -> None:
        self._owned = isinstance(store, str)
        if not isinstance(store, str):
            if not isinstance(store, redis.Redis):
                raise ValueError(f"store must be a URL or a redis.Redis, not {type(store).__name__}")
            self._client: Any = store
        elif _check_url(store) == "memory":
            self._client = _memory_client("FakeRedis", urlsplit(store).netloc)
        else:
            self._client = _client_of(redis.Redis, store, timeout, Retry(NoBackoff(), 0))
        self._direct = type(self._client) is redis.Redis
        self._idle: deque[Any] = deque()
        self._process = os.getpid()

    def run(self, call: Call | Command) -> Reply:
        """Run a script, or a command, and return the server's reply. Raises StoreUnavailable, or ScriptRefused."""
        try:
            if isinstance(call, Command):
                return self._client.execute_command(*call.args)
            try:
                return self._evalsha(call)
            except NoScriptError:
                return self._client.execute_command(*words("EVAL", call.script.source, call))
        except _FAILURES as error:
            raise _failure(error) from None

    def _evalsha(self, call: Call) -> Reply:
        if not self._direct:
            return self._client.execute_command(*words("EVALSHA", call.script.sha, call))
        # What execute_command adds (retries, routing, events) is not wanted here, and would double the time it takes.
        connection = self._borrow()
        try:
            connection.send_packed_command(evalsha(call))
            reply = connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._give_back(connection)
        return reply

    def _borrow(self) -> Any:
        """A connection that nobody uses. The client's pool takes longer, so a client of our own keeps those it gave."""
        if self._process != os.getpid():
            self._idle, self._process = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._client.connection_pool.get_connection()
        try:
            stale = connection.can_read()
        except (RedisError, OSError):
            stale = True
        if stale:
            connection.disconnect()
        return connection

    def _give_back(self, connection: Any) -> None:
        if self._owned:
            self._idle.append(connection)
        else:
            self._client.connection_pool.release(connection)

    def close(self) -> None:
        """Close the connections of a client made from a URL; a client that was handed in stays open."""
        if self._owned:
            self._client.close()


class AsyncStore:
    """As `Store`, for `redis.asyncio`. Not to be shared between event loops."""

    def __init__(self, store: str | redis.asyncio.Redis, *, timeout: float) -> None:
        self._owned = isinstance(store, str)
        if not isinstance(store, str):
            if not isinstance(store, redis.asyncio.Redis):
                raise ValueError(f"store must be a URL or a redis.asyncio.Redis, not {type(store).__name__}")
            self._client: Any = store
        elif _check_url(store) == "memory":
            self._client = _memory_client("FakeAsyncRedis", urlsplit(store).netloc)
        else:
            from redis.asyncio.retry import Retry as AsyncRetry

            self._client = _client_of(redis.asyncio.Redis, store, timeout, AsyncRetry(NoBackoff(), 0))
        self._direct = type(self._client) is redis.asyncio.Redis
        self._idle: deque[Any] = deque()

    async def run(self, call: Call | Command) -> Reply:
        """Run a script, or a command, and return the server's reply. Raises StoreUnavailable, or ScriptRefused."""
        try:
            if isinstance(call, Command):
                return await self._client.execute_command(*call.args)
            try:
                return await self._evalsha(call)
            except NoScriptError:
                return await self._client.execute_command(*words("EVAL", call.script.source, call))
        except _FAILURES as error:
            raise _failure(error) from None

    async def _evalsha(self, call: Call) -> Reply:
        if not self._direct:
            return await self._client.execute_command(*words("EVALSHA", call.script.sha, call))
        connection = await self._borrow()
        try:
            await connection.send_packed_command(evalsha(call))
            return await connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._give_back(connection)

    async def _borrow(self) -> Any:
        try:
            connection = self._idle.pop()
        except IndexError:
            return await self._client.connection_pool.get_connection()
        try:
            stale = await connection.can_read()
        except (RedisError, OSError):
            stale = True
        if stale:
            await connection.disconnect(nowait=True)
        return connection

    async def _give_back(self, connection: Any) -> None:
        if self._owned:
            self._idle.append(connection)
        else:
            await self._client.connection_pool.release(connection)

    async def close(self) -> None:
        """Close the connections of a client made from a URL; a client that was handed in stays open."""
        if self._owned:
            await self._client.aclose()
