"""How connections to a store are made: from a URL or a ready client, to whichever server is the primary now. Pure."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from sendguard.store.address import Address, Target, split_slots
from sendguard.store.route import NotSent, Primary
from sendguard.store.scripts import Command
from sendguard.store.timed import timed

CLUSTER_SLOTS = ("CLUSTER", "SLOTS")


class Connector:
    """Makes connections to one pool's server. key: any key of the pool, which tells its slot in a cluster.

    The sync ones keep a deadline over their reads; an asyncio task is timed out from outside. timeout: seconds for
    connecting, and for what is asked of Sentinels and of a cluster's nodes.
    """

    def __init__(self, target: Target | Any, key: str, timeout: float, *, is_async: bool) -> None:
        """target: what a URL names, or a ready client. Raises ValueError naming `store`."""
        self._async, self._timeout = is_async, timeout
        self._slot = key_slot(key.encode())
        self.kind = target.kind if isinstance(target, Target) else "direct"
        self.primary = Primary(moves=self.kind != "direct")
        retry = (AsyncRetry if is_async else Retry)(NoBackoff(), 0)
        times = {"socket_timeout": None if is_async else timeout, "socket_connect_timeout": timeout, "retry": retry}
        if not self._takes(target, times):
            raise ValueError("store must be a URL as redis-py reads it; something behind its address is wrong")
        self.seeds: tuple[Address, ...] = ()
        if isinstance(target, Target) and self.kind != "direct":
            self.seeds, self.service = target.seeds, target.service
            plain = {name: self._kwargs[name] for name in self._kwargs if name.startswith("ssl")}
            if "SSL" in self._class.__name__:
                plain["ssl"] = True
            self._sentinel_kwargs = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": retry}
            self._sentinel_kwargs |= plain | target.sentinel_options

    def _takes(self, target: Target | Any, times: dict[str, Any]) -> bool:
        """Whether redis-py can connect as told. What fails there shows a URL, so it does not get out of here."""
        library: Any = redis.asyncio if self._async else redis
        try:
            client: Any = library.Redis.from_url(target.url) if isinstance(target, Target) else target
            pool, self._readers = client.connection_pool, client.response_callbacks
            self._kwargs = {**pool.connection_kwargs, **times}
            self._kwargs.pop("health_check_interval", None)
            self._class = pool.connection_class if self._async else timed(pool.connection_class)
            self._class(**self._kwargs)
        except (TypeError, ValueError, AttributeError):
            return False
        return True

    def connection(self, address: Address | None) -> Any:
        """A new connection to a server, not yet connected."""
        where = {} if address is None else {"host": address[0], "port": address[1]}
        return self._class(**{**self._kwargs, **where})

    def read(self, call: Command, reply: Any) -> Any:
        """A reply as redis-py's client gives it, which is the same in every version of the protocol."""
        reader = self._readers.get(call.args[0])
        return reply if reader is None else reader(reply)

    def sentinel(self) -> Any:
        """redis-py's client of the Sentinels."""
        kind = AsyncSentinel if self._async else Sentinel
        return kind(list(self.seeds), sentinel_kwargs=self._sentinel_kwargs)

    def found(self, reply: Any, asked: Address) -> Address:
        """Take in what a node of the cluster told: the primary of the pool's slot. Raises NotSent if it has none."""
        owner, nodes = split_slots(reply, self._slot, asked)
        self.seeds = tuple(dict.fromkeys((asked, *nodes, *self.seeds)))
        if owner is None:
            raise NotSent("ClusterDownError")
        self.primary.address = owner
        return owner

    def silent(self, asked: Address) -> None:
        """Note that a Sentinel or a node of the cluster did not answer: the others are asked before it."""
        self.seeds = (*(seed for seed in self.seeds if seed != asked), asked)
