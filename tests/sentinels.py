"""Three real Sentinels that watch a primary with two replicas, any of which can be killed, paused or cut off.

with Sentinels(redis_binary(), folder) as sentinels:
    old = sentinels.primary()
    old.kill()
    new = sentinels.wait_for_failover(old)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.replication import REPLICATION, allow_replication, in_step, wait_for
from tests.servers import Server, free_port, revive, start_all

SERVICE = "mymaster"


def _replica_of(primary: Server) -> str:
    return f"replicaof 127.0.0.1 {primary.port}\n"


class Sentinels:
    """What runs; a context manager that stops it. `nodes`: the primary and its replicas; `sentinels`: who watches them;
    `url`: as `redis+sentinel://`, with the service's name.

    binary: of Redis or Valkey. folder: for the servers' own; exists. options: of the nodes' command lines. timeout:
    seconds of silence after which a server counts as down; a Sentinel may take one to connect again to a server that
    is well, so that less makes them fail over from a living one.
    """

    def __init__(self, binary: str, folder: Path, *options: str, timeout: float = 1.2) -> None:
        self.nodes = [Server(binary, folder / "node0", *options, config=REPLICATION)]
        self.sentinels: list[Server] = []
        try:
            config = REPLICATION + _replica_of(self.nodes[0])
            replicas = [partial(Server, binary, folder / f"node{number}", *options, config=config) for number in (1, 2)]
            self.nodes += start_all(replicas)
            self.sentinels += self._watch(binary, folder, timeout)
            wait_for(self.healthy)
        except BaseException:
            self.stop()
            raise
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels) + f"/{SERVICE}"

    def _watch(self, binary: str, folder: Path, timeout: float) -> list[Server]:
        # They are told of each other and of the replicas, which they would take seconds to find by themselves.
        primary, *replicas = self.nodes
        ports = [free_port() for _ in range(3)]
        config = f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
        config += f"sentinel down-after-milliseconds {SERVICE} {round(timeout * 1000)}\n"
        config += f"sentinel failover-timeout {SERVICE} 3000\nsentinel parallel-syncs {SERVICE} 2\n"
        config += "".join(f"sentinel known-replica {SERVICE} 127.0.0.1 {replica.port}\n" for replica in replicas)

        def start(number: int, port: int) -> Server:
            own = f"sentinel myid {number:040x}\n{config}" + "".join(
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other} {each:040x}\n"
                for each, other in enumerate(ports, 1)
                if each != number
            )
            return Server(binary, folder / f"sentinel{number}", "--sentinel", port=port, config=own)

        return start_all([partial(start, *at) for at in enumerate(ports, 1)])

    def __enter__(self) -> Sentinels:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.nodes):
            server.stop()

    def primary(self) -> Server:
        """The primary as the first live Sentinel names it; it may be dead."""
        return self._named_by(next(each for each in self.sentinels if each.alive))

    def replicas(self) -> list[Server]:
        primary = self.primary()
        return [node for node in self.nodes if node is not primary]

    def _named_by(self, sentinel: Server) -> Server:
        _, port = sentinel.client.sentinel_get_master_addr_by_name(SERVICE)
        return next(node for node in self.nodes if node.port == int(port))

    def _agreed(self) -> Server | None:
        """The primary, if all live Sentinels name the same and it knows itself to be one."""
        named = {self._named_by(each) for each in self.sentinels if each.alive}
        primary = named.pop()
        return primary if not named and primary.alive and primary.info("replication")["role"] == "master" else None

    def healthy(self) -> bool:
        """Whether all live, the primary feeds both replicas, and every Sentinel sees all of them."""
        if not all(each.alive for each in (*self.nodes, *self.sentinels)) or self._agreed() is None:
            return False
        fed = self.primary().info("replication")["connected_slaves"] == len(self.nodes) - 1
        return fed and all(map(in_step, self.nodes)) and all(map(self._sees_all, self.sentinels))

    def _sees_all(self, sentinel: Server) -> bool:
        client = sentinel.client
        replicas = client.sentinel_slaves(SERVICE)
        states = [client.sentinel_master(SERVICE), *replicas, *client.sentinel_sentinels(SERVICE)]
        bad = ("is_sdown", "is_odown", "is_disconnected")
        done = "failover_in_progress" not in states[0]["flags"]  # else it would not start the next one
        return done and len(states) == 5 and not any(state[each] for state in states for each in bad)

    def wait_for_failover(self, old: Server, timeout: float = 20.0) -> Server:
        """Return the new primary, once every live Sentinel names it and it is one."""
        wait_for(lambda: self._agreed() not in (None, old), timeout)
        return self.primary()

    def heal(self) -> None:
        """Bring every server back, as replicas of whoever is the primary now; return once all is well."""
        revive((*self.nodes, *self.sentinels))
        wait_for(lambda: self._agreed() is not None)
        primary = self.primary()
        for node in self.nodes:
            allow_replication(node)
            if node is not primary:
                node.client.replicaof("127.0.0.1", primary.port)
        wait_for(self.healthy)

    def flush(self) -> None:
        """FLUSHALL on the primary."""
        self.primary().client.flushall()

    def functions_flush(self) -> None:
        """FUNCTION FLUSH on the primary."""
        self.primary().client.function_flush()
