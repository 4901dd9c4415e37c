"""A real cluster, three primaries with a replica each, whose servers can be killed, paused, cut off and moved about.

    with Cluster(valkey_binary(), folder) as cluster:
        old = cluster.primary_of("some-key")
        old.kill()
        new = cluster.wait_for_failover("some-key", old)

Every server is a `tests.servers.Server`. They keep nothing on disk but what they know of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.replication import REPLICATION, allow_replication, in_step, wait_for
from tests.servers import Server, free_port, revive, start_all

SLOTS = 16_384
_UNUSABLE = {"handshake", "noaddr", "fail", "fail?"}

View = dict[str, dict[str, Any]]
"""What one server believes of all, by their ids, as redis-py reads CLUSTER NODES."""


def _owner(view: View, slot: int) -> tuple[int, str]:
    """The owner of a slot, by the newest claim, with that claim's epoch."""
    claims = [
        (int(node["epoch"]), each)
        for each, node in view.items()
        if any(int(owned[0]) <= slot <= int(owned[-1]) for owned in node["slots"])
    ]
    return max(claims, default=(0, ""))


class Cluster:
    """A running cluster; a context manager that stops it. `nodes`: its servers; `url`: all of them; `live`: see there.

    binary: of Redis or Valkey. folder: for the servers' own; exists. options: of every server's command line. timeout:
    seconds of silence after which a server counts as failed. primaries: how many; each has one replica.
    """

    def __init__(self, binary: str, folder: Path, *options: str, timeout: float = 0.8, primaries: int = 3) -> None:
        config = f"cluster-enabled yes\ncluster-node-timeout {round(timeout * 1000)}\n{REPLICATION}"
        config += "cluster-replica-validity-factor 0\ncluster-config-file nodes.conf\n"
        self._buses = [free_port() for _ in range(2 * primaries)]

        def start(number: int) -> Server:
            bus = ("--cluster-port", str(self._buses[number]))
            return Server(binary, folder / f"node{number}", *bus, *options, config=config)

        self.nodes = start_all([partial(start, number) for number in range(2 * primaries)])
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        try:
            self._by_id = {str(node.client.execute_command("CLUSTER MYID")): node for node in self.nodes}
            self._form(self.nodes[:primaries], self.nodes[primaries:])
        except BaseException:
            self.stop()
            raise

    def _form(self, primaries: list[Server], replicas: list[Server]) -> None:
        share = SLOTS // len(primaries)
        for number, primary in enumerate(primaries):
            last = SLOTS - 1 if primary is primaries[-1] else (number + 1) * share - 1
            primary.client.execute_command("CLUSTER ADDSLOTSRANGE", number * share, last)
        for number, node in enumerate(self.nodes):
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            for other, bus in zip(self.nodes[:number], self._buses[:number], strict=True):
                node.client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        wait_for(lambda: all(self._acquainted(node) for node in self.nodes))
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.client.execute_command("CLUSTER REPLICATE", self._id(primary))
        wait_for(self.healthy)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    # What stands ----------------------------------------------------------------------------------------------------

    @property
    def live(self) -> list[Server]:
        """The servers that can answer: neither killed nor paused."""
        return [node for node in self.nodes if node.alive]

    def view(self, server: Server) -> View:
        """What one server believes of all."""
        said = server.client.execute_command("CLUSTER NODES")
        return {node["node_id"]: node for node in said.values() if node["node_id"] in self._by_id}

    def slot(self, where: int | str) -> int:
        """A slot itself, or the slot of a key."""
        return where if isinstance(where, int) else int(key_slot(where.encode()))

    def primary_of(self, where: int | str) -> Server:
        """The server that owns a slot or a key, by the newest that any live server knows; it may be dead itself."""
        return self._by_id[max(_owner(self.view(node), self.slot(where)) for node in self.live)[1]]

    def replicas_of(self, primary: Server) -> list[Server]:
        wanted, view = self._id(primary), self.view(self.live[0])
        return [self._by_id[each] for each, node in view.items() if node["master_id"] == wanted]

    def primaries(self) -> list[Server]:
        """The servers that own slots, as a live server believes."""
        return [self._by_id[each] for each, node in self.view(self.live[0]).items() if node["slots"]]

    def healthy(self) -> bool:
        """Whether all servers live and agree, all slots are served, and every primary feeds its replica."""
        if len(self.live) < len(self.nodes) or not all(self._acquainted(node) for node in self.nodes):
            return False
        return self._agreed(0) is not None and all(in_step(node) for node in self.nodes)

    def _id(self, server: Server) -> str:
        return next(each for each, node in self._by_id.items() if node is server)

    def _acquainted(self, server: Server) -> bool:
        view = self.view(server)
        return len(view) == len(self.nodes) and not any(
            _UNUSABLE & {*node["flags"].split(",")} for node in view.values()
        )

    def _agreed(self, slot: int) -> Server | None:
        """The owner of a slot, if every live server believes the same of all and serves."""
        views = [self.view(node) for node in self.live]
        beliefs = {
            str(sorted((each, node["master_id"], node["slots"]) for each, node in view.items())) for view in views
        }
        if len(beliefs) > 1 or any(node.client.cluster("INFO")["cluster_state"] != "ok" for node in self.live):
            return None
        return self._by_id.get(_owner(views[0], slot)[1])

    def wait_for_failover(self, where: int | str, old: Server, timeout: float = 20.0) -> Server:
        """Return the new owner of a slot or a key, once every live server knows it and serves again."""
        wait_for(lambda: self._agreed(self.slot(where)) not in (None, old), timeout)
        return self.primary_of(where)

    # What can be done to it -----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Bring every server back and close every open slot; return once it is healthy, whoever is a primary now."""
        revive(self.nodes)
        for node in self.nodes:
            allow_replication(node)
            said = node.client.execute_command("CLUSTER NODES").values()
            for opened in next(each["migrations"] for each in said if "myself" in each["flags"]):
                node.client.execute_command("CLUSTER SETSLOT", opened["slot"], "STABLE")
        wait_for(self.healthy)

    def migration(self, where: int | str, to: Server) -> Iterator[str]:
        """Move a slot, or a key's slot, to another primary, while it is used. What is not iterated is not done.

        Yields, each once the thing is done: "begun" (both know; every key is still at the source), "key" per key moved
        (a command on keys of both sides gets TRYAGAIN), "moved" (all keys: the source answers ASK), "owned" (the source
        answers MOVED), "known" (every server knows).
        """
        slot, source = self.slot(where), self.primary_of(where)
        assert to is not source, "the slot is there already"
        to.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self._id(source))
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self._id(to))
        yield "begun"
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            source.client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            yield "key"
        yield "moved"
        for server in (to, source):
            server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", self._id(to))
        yield "owned"
        wait_for(lambda: self._agreed(slot) is to)
        yield "known"

    def flush(self) -> None:
        """FLUSHALL on every live primary."""
        for server in self.primaries():
            if server.alive:
                server.client.flushall()

    def functions_flush(self) -> None:
        """FUNCTION FLUSH on every live primary."""
        for server in self.primaries():
            if server.alive:
                server.client.function_flush()
