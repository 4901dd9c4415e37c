"""One connection through a `FaultProxy`: its commands, one by one, each under the rule that meets it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from tests.faults import Command, Fault
from tests.resp import Framer, words


@dataclass
class Rule:
    """A fault, and which commands it meets."""

    fault: Fault
    only: Collection[str] | None = None
    but: Collection[str] = ()
    after: int = 0
    times: int | None = None
    where: Callable[[Command], bool] | None = None
    connection: int | None = None
    met: int = 0
    lifted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def unconditional(self) -> bool:
        filtered = self.but or self.after or self.where
        return not filtered and self.only is None and self.times is None and self.connection is None

    def meets(self, command: Command) -> bool:
        """Whether it applies to this command; counts it."""
        if (self.only is not None and not command.among(self.only)) or command.among(self.but):
            return False
        if self.connection not in (None, command.connection) or (self.where and not self.where(command)):
            return False
        self.met += 1
        return self.after < self.met and (self.times is None or self.met <= self.after + self.times)


class _HungUp(ConnectionError):
    """A fault ends the connection. reset: by RST."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Proxy(Protocol):
    """What a connection asks of its proxy."""

    server: tuple[str, int]

    def record(self, command: Command) -> Command: ...

    def rule_for(self, command: Command) -> Rule: ...

    async def hearing(self) -> None: ...


class Exchange:
    """One command on its way: what a fault can do with it."""

    def __init__(self, connection: Connection, command: Command, rule: Rule) -> None:
        self._connection, self._rule, self.command = connection, rule, command

    async def execute(self) -> bytes:
        """Have the server carry the command out. Returns its whole reply."""
        reply = await self._connection.execute(self.command)
        self.command.executed = True
        return reply

    async def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        await self._connection.send(data)

    async def answer(self, data: bytes) -> None:
        """Send the client the last bytes of an answer."""
        await self.send(data)
        self.command.answered = True

    async def lifted(self) -> None:
        """Wait until the fault is taken away."""
        await self._rule.lifted.wait()

    @property
    def is_lifted(self) -> bool:
        return self._rule.lifted.is_set()

    def stop_reading(self) -> None:
        """Read nothing more from the client until the fault is taken away."""
        self._connection.deaf = self._rule.lifted

    def hang_up(self, *, reset: bool = False) -> NoReturn:
        raise _HungUp(reset)


class Connection:
    """One client's connection, and the one to the server behind it."""

    def __init__(self, proxy: Proxy, client: socket.socket, number: int) -> None:
        self._proxy, self._client, self._number = proxy, client, number
        self._server: socket.socket | None = None
        self._server_gone = False
        self._loop = asyncio.get_running_loop()
        self._commands: asyncio.Queue[Command | None] = asyncio.Queue()
        self._reply: asyncio.Future[bytes] | None = None
        self._pushed = False  # whether the reply that is waited for comes as a push
        self._readers: list[asyncio.Task[None]] = []
        self.deaf: asyncio.Event | None = None

    async def run(self) -> None:
        reset = False
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readers.append(asyncio.create_task(self._read_client()))
        try:
            while (command := await self._commands.get()) is not None:
                rule = self._proxy.rule_for(command)
                await rule.fault.apply(Exchange(self, command, rule))
        except _HungUp as end:
            reset = end.reset
        except OSError:
            pass
        finally:
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            close(self._client, reset=reset)
            if self._server is not None:
                self._server.close()

    async def _read_client(self) -> None:
        requests = Framer()
        try:
            while data := await self._heard():
                for request in requests.feed(data):
                    self._commands.put_nowait(self._proxy.record(Command(words(request), request, self._number)))
        except (OSError, ValueError):
            pass
        self._commands.put_nowait(None)

    async def _heard(self) -> bytes:
        data = await self._loop.sock_recv(self._client, 65_536)
        await self._proxy.hearing()
        if self.deaf is not None:
            await self.deaf.wait()
        return data

    async def execute(self, command: Command) -> bytes:
        if self._server is None:
            self._server = socket.socket()
            self._server.setblocking(False)
            await self._loop.sock_connect(self._server, self._proxy.server)
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._readers.append(asyncio.create_task(self._read_server(self._server)))
        if self._server_gone:
            raise ConnectionResetError("the server has gone")
        self._reply, self._pushed = self._loop.create_future(), command.name.endswith("SUBSCRIBE")
        await self._loop.sock_sendall(self._server, command.request)
        return await self._reply

    async def _read_server(self, server: socket.socket) -> None:
        replies = Framer()
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(server, 65_536):
                for reply in replies.feed(data):
                    await self._take(reply)
        self._server_gone = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the server has gone"))
        self._commands.put_nowait(None)

    async def _take(self, reply: bytes) -> None:
        if self._reply is None or self._reply.done() or (reply.startswith(b">") and not self._pushed):
            await self.send(reply)
        else:
            self._reply.set_result(reply)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._client, data)


def close(end: socket.socket, *, reset: bool) -> None:
    """Close a socket. reset: by RST."""
    if reset:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
