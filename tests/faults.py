"""How a store server can misbehave towards one command: what `tests.fault_proxy.FaultProxy` is told to do.

Each kind says whether the server carries the command out: `LostReply` is carried out, `Close` is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fault_connection import Exchange

HANDSHAKE = frozenset({"HELLO", "AUTH", "CLIENT", "SELECT", "PING"})
"""What a client says of itself before its first real command."""

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
NOSCRIPT = b"-NOSCRIPT No matching script.\r\n"
NO_FUNCTION = b"-ERR Function not found\r\n"
NOREPLICAS = b"-NOREPLICAS Not enough good replicas to write.\r\n"
MASTERDOWN = b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n"
CLUSTERDOWN = b"-CLUSTERDOWN The cluster is down\r\n"
TRYAGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
BUSY = b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"
NOAUTH = b"-NOAUTH Authentication required.\r\n"
MAX_CLIENTS = b"-ERR max number of clients reached\r\n"
GARBAGE = b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff\xfe"
ENDLESS_BULK = b"$999999999\r\nabc"
ENDLESS_ARRAY = b"*1000000\r\n:1\r\n"
DEEP_ARRAYS = b"*1\r\n" * 5_000 + b":1\r\n"

_CONTAINERS = {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "SCRIPT", "SENTINEL"}


def moved(slot: int, port: int) -> bytes:
    return f"-MOVED {slot} 127.0.0.1:{port}\r\n".encode()


def ask(slot: int, port: int) -> bytes:
    return f"-ASK {slot} 127.0.0.1:{port}\r\n".encode()


@dataclass
class Command:
    """One command that reached the proxy. request: as it came. connection: the number of its connection, from 1."""

    words: list[bytes]
    request: bytes
    connection: int
    executed: bool = False
    """Whether the server has answered it."""
    answered: bool = False
    """Whether the client was sent the whole of an answer, its own or an injected one."""

    @property
    def name(self) -> str:
        """`GET`, or with its subcommand `CLIENT SETINFO`."""
        name = self.words[0].decode("latin-1").upper()
        if name in _CONTAINERS and len(self.words) > 1:
            return f"{name} {self.words[1].decode('latin-1').upper()}"
        return name

    def among(self, names: Collection[str]) -> bool:
        return self.name in names or self.name.split(" ")[0] in names


@dataclass
class Fault:
    """What happens to a command. Each kind below is one; `Pass` is none."""

    async def apply(self, exchange: Exchange) -> None:
        await exchange.answer(await exchange.execute())


class Pass(Fault):
    """The command and its reply pass untouched."""


@dataclass
class Refuse(Fault):
    """Nothing listens: a new connection is refused. drop: whether those that are open are closed too."""

    drop: bool = True


class Unreachable(Fault):
    """A new connection is neither accepted nor refused: the client waits for it. Those that are open pass."""


@dataclass
class HangUp(Fault):
    """A new connection is closed as soon as it is accepted. reset: by RST. A command of an open one is as `Close`."""

    reset: bool = False

    async def apply(self, exchange: Exchange) -> None:
        exchange.hang_up(reset=self.reset)


class Silence(Fault):
    """The command is taken and never answered, nor carried out. When the fault is lifted the connection closes."""

    async def apply(self, exchange: Exchange) -> None:
        await exchange.lifted()
        exchange.hang_up()


class SilenceAfter(Fault):
    """The command is carried out and never answered. When the fault is lifted the connection closes."""

    async def apply(self, exchange: Exchange) -> None:
        await exchange.execute()
        await exchange.lifted()
        exchange.hang_up()


class Freeze(Fault):
    """As a server that is stopped: the command is held, and carried out and answered when the fault is lifted.

    It is carried out even if the client has gone meanwhile.
    """

    async def apply(self, exchange: Exchange) -> None:
        await exchange.lifted()
        await exchange.answer(await exchange.execute())


class BlackHole(Fault):
    """Nothing more is read from the client, so that its send buffer fills up. Lifted, all of it is read and passed.

    Without conditions that holds for every connection at once; with them, from the first command on that meets them.
    """

    async def apply(self, exchange: Exchange) -> None:
        exchange.stop_reading()
        await exchange.lifted()
        await exchange.answer(await exchange.execute())


@dataclass
class Delay(Fault):
    """The command is carried out at once; its whole reply comes some seconds later."""

    seconds: float

    async def apply(self, exchange: Exchange) -> None:
        reply = await exchange.execute()
        await asyncio.sleep(self.seconds)
        await exchange.answer(reply)


@dataclass
class Late(Fault):
    """The command reaches the server some seconds late, even if its client has given up by then."""

    seconds: float

    async def apply(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.seconds)
        await exchange.answer(await exchange.execute())


@dataclass
class Drip(Fault):
    """The reply comes in pieces, each some seconds after the one before: every single read makes progress."""

    seconds: float
    size: int = 1

    async def apply(self, exchange: Exchange) -> None:
        reply = await exchange.execute()
        for start in range(0, len(reply), self.size):
            await asyncio.sleep(self.seconds)
            await exchange.send(reply[start : start + self.size])
        exchange.command.answered = True


@dataclass
class Trickle(Fault):
    """A reply that never ends: its head, and then a byte every so many seconds. The command is not carried out."""

    seconds: float
    head: bytes = b"$999999999\r\n"
    piece: bytes = b"x"

    async def apply(self, exchange: Exchange) -> None:
        await exchange.send(self.head)
        while not exchange.is_lifted:
            await exchange.send(self.piece)
            await asyncio.sleep(self.seconds)
        exchange.hang_up()


class Half(Fault):
    """The first half of the reply comes; the rest when the fault is lifted."""

    async def apply(self, exchange: Exchange) -> None:
        reply = await exchange.execute()
        await exchange.send(reply[: len(reply) // 2])
        await exchange.lifted()
        await exchange.answer(reply[len(reply) // 2 :])


@dataclass
class CutReply(Fault):
    """The first half of the reply comes, and the connection closes. reset: by RST."""

    reset: bool = False

    async def apply(self, exchange: Exchange) -> None:
        reply = await exchange.execute()
        await exchange.send(reply[: len(reply) // 2])
        exchange.hang_up(reset=self.reset)


@dataclass
class LostReply(Fault):
    """The command is carried out, and the connection closes before any of its reply. reset: by RST."""

    reset: bool = False

    async def apply(self, exchange: Exchange) -> None:
        await exchange.execute()
        exchange.hang_up(reset=self.reset)


@dataclass
class Close(Fault):
    """The connection closes when the command has come; it is not carried out. reset: by RST."""

    reset: bool = False

    async def apply(self, exchange: Exchange) -> None:
        exchange.hang_up(reset=self.reset)


@dataclass
class Inject(Fault):
    """The client gets these bytes for its reply. executed: whether the server is sent the command at all."""

    reply: bytes
    executed: bool = False

    async def apply(self, exchange: Exchange) -> None:
        if self.executed:
            await exchange.execute()
        await exchange.answer(self.reply)
