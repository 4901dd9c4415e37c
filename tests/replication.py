"""Replication between servers of the tests' own, which can be cut while all else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from tests.servers import Server
from tests.support import wait_until

# Replicas sign in as a user of their own: without it a primary's replicas learn nothing more, while its clients, the
# cluster's bus and Sentinels notice nothing.
_USER = "replicas"
REPLICATION = f"""
user {_USER} on >{_USER} +psync +replconf +ping
masteruser {_USER}
masterauth {_USER}
repl-diskless-sync-delay 0
rdb-del-sync-files yes
"""
"""What the configuration of every server must hold."""


@contextmanager
def replication_cut(primary: Server) -> Iterator[None]:
    """Let the replicas of a server miss what is written to it meanwhile. It may be killed before the end."""
    primary.client.acl_setuser(_USER, enabled=False, reset=False)
    primary.client.execute_command("CLIENT KILL", "TYPE", "replica")
    wait_for(lambda: primary.info("replication")["connected_slaves"] == 0)
    yield
    if primary.alive:
        allow_replication(primary)


def allow_replication(primary: Server) -> None:
    """Let replicas in again; they come within a second or so."""
    primary.client.acl_setuser(_USER, enabled=True, reset=False)


def in_step(server: Server) -> bool:
    """Whether a server is a primary, or a replica that its primary feeds."""
    state = server.info("replication")
    return state["role"] == "master" or (state["master_link_status"], state["master_sync_in_progress"]) == ("up", 0)


def wait_replicated(primary: Server, replicas: list[Server]) -> None:
    """Return once the replicas have all that was written to a server before this call."""
    offset = primary.info("replication")["master_repl_offset"]
    wait_for(lambda: all(replica.info("replication").get("slave_repl_offset", -1) >= offset for replica in replicas))


def wait_taken_in(primary: Server) -> None:
    """Return once every replica of a server has told it that it has all that was written before this call."""
    offset = primary.info("replication")["master_repl_offset"]

    def taken_in() -> bool:
        state = primary.info("replication")
        replicas = [state[f"slave{i}"] for i in range(state["connected_slaves"])]
        return bool(replicas) and all(each["state"] == "online" and each["offset"] >= offset for each in replicas)

    wait_for(taken_in)


def wait_for(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """As `wait_until`; a server that does not answer just now only means: not yet."""

    def holds() -> bool:
        try:
            return condition()
        except redis.RedisError:
            return False

    wait_until(holds, timeout)
