"""A proxy between a client and a store server that misbehaves as told, command by command.

    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        client = redis.Redis.from_url(proxy.url)
        proxy.set(LostReply(), only={"FCALL"}, times=1)

It knows where a command ends and where its reply does. Commands of one connection pass one after the other, also those
of a pipeline.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from tests.fault_connection import Connection, Rule, close
from tests.faults import BlackHole, Command, Fault, HangUp, Pass, Refuse, Unreachable
from tests.servers import free_port
from tests.support import wait_until

T = TypeVar("T")


class FaultProxy:
    """A context manager; `url` and `port` are where a client finds it. server: the host and port behind it.

    It starts without a fault. Every method may be called from any thread, and holds from its return on.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.commands: list[Command] = []
        self.connections = 0
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._queue: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        try:
            self._run(self._listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._end()
        assert not self._failures, f"the proxy itself failed: {self._failures!r}"

    def set(self, fault: Fault, **conditions: Any) -> None:
        """Lift every fault, and put this one in force. The conditions, of which none is needed:

        only: names of commands that it meets, `GET`, or `CLIENT` and `CLIENT SETINFO`. but: names that it does not.
        after: how many of those pass first. times: how many it then meets at most. where: a function of the command
        that says whether it is met. connection: the number of the one connection, from 1, on which it is.
        `Refuse` and `Unreachable` are of the whole proxy and take none.
        """
        self._run(self._put(fault, conditions, lift=True))

    def add(self, fault: Fault, **conditions: Any) -> None:
        """Put one more fault in force, beneath those that are: the first that meets a command is applied."""
        self._run(self._put(fault, conditions, lift=False))

    def clear(self) -> None:
        """Lift every fault."""
        self.set(Pass())

    def forget(self) -> None:
        """Forget the commands seen until now; counts begin anew."""
        self.commands = []

    def seen(self, *names: str) -> int:
        """How many commands (of these names) reached the proxy."""
        return len(self._named(names))

    def executed(self, *names: str) -> int:
        """How many commands (of these names) the server has carried out."""
        return sum(command.executed for command in self._named(names))

    def answered(self, *names: str) -> int:
        """How many commands (of these names) were answered in full."""
        return sum(command.answered for command in self._named(names))

    def wait_seen(self, *names: str, count: int = 1) -> None:
        """Return once that many commands (of these names) have reached the proxy."""
        wait_until(lambda: self.seen(*names) >= count)

    def wait_executed(self, *names: str, count: int = 1) -> None:
        """Return once the server has carried out that many commands (of these names)."""
        wait_until(lambda: self.executed(*names) >= count)

    def _named(self, names: Collection[str]) -> list[Command]:
        return [command for command in self.commands if not names or command.among(names)]

    # What follows runs in the proxy's own thread.

    def record(self, command: Command) -> Command:
        self.commands.append(command)
        return command

    def rule_for(self, command: Command) -> Rule:
        return next((rule for rule in self._rules if rule.meets(command)), Rule(Pass()))

    async def hearing(self) -> None:
        """Wait while nothing is to be read from any client."""
        while rule := self._standing(BlackHole):
            await rule.lifted.wait()

    def _standing(self, kind: type[Fault]) -> Rule | None:
        return next((rule for rule in self._rules if isinstance(rule.fault, kind) and rule.unconditional), None)

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(20)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _put(self, fault: Fault, conditions: dict[str, Any], *, lift: bool) -> None:
        rule = Rule(fault, **conditions)
        assert rule.unconditional or not isinstance(fault, Refuse | Unreachable), "it takes no conditions"
        before, self._rules = (self._rules, [rule]) if lift else ([], [*self._rules, rule])
        for each in before:
            each.lifted.set()
        if isinstance(fault, Refuse) and fault.drop:
            await self._drop()
        if isinstance(fault, Refuse | Unreachable):
            await self._deafen()
        if isinstance(fault, Unreachable):
            await self._fill_queue()
        if self._accepting is None and not (self._standing(Refuse) or self._standing(Unreachable)):
            await self._deafen()
            await self._listen()

    async def _listen(self) -> None:
        self._listener = self._bound(100)
        self._accepting = asyncio.create_task(self._accept(self._listener))

    def _bound(self, backlog: int) -> socket.socket:
        listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(backlog)
        return listener

    async def _fill_queue(self) -> None:
        """Listen with a queue that is full, so that the system drops what comes to it."""
        self._listener = self._bound(0)
        for _ in range(4):
            self._queue.append(socket.socket())
            self._queue[-1].setblocking(False)
            self._queue[-1].connect_ex(("127.0.0.1", self.port))

    async def _deafen(self) -> None:
        """Listen no more."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        for each in (*self._queue, *([self._listener] if self._listener else [])):
            each.close()
        self._accepting, self._listener, self._queue = None, None, []

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            client.setblocking(False)
            self.connections += 1
            if rule := self._standing(HangUp):
                close(client, reset=rule.fault.reset)  # type: ignore[attr-defined]
                continue
            task = asyncio.create_task(Connection(self, client, self.connections).run())
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            self._failures.append(failure)

    async def _drop(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        await self._deafen()
        await self._drop()
