"""The cluster and the Sentinels of the tests are real, and do what is done to them; seen by a plain client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from tests.clusters import Cluster
from tests.replication import replication_cut, wait_for, wait_replicated
from tests.sentinels import SERVICE, Sentinels
from tests.servers import Server, valkey_binary
from tests.support import wait_until

KEY, TWIN = "{pool}:a", "{pool}:b"


def test_a_replica_takes_over_from_a_killed_primary_without_what_it_missed(cluster: Cluster) -> None:
    old = cluster.primary_of(KEY)
    (replica,) = cluster.replicas_of(old)
    old.client.set(KEY, "kept")
    wait_replicated(old, [replica])
    with replication_cut(old):
        old.client.set(KEY, "lost")
        old.kill()
        assert cluster.wait_for_failover(KEY, old) is replica
    assert replica.client.get(KEY) == "kept"
    cluster.heal()
    assert cluster.primary_of(KEY) is replica
    assert cluster.replicas_of(replica) == [old]
    wait_for(lambda: old.info("replication")["role"] == "slave")


def test_a_paused_primary_is_replaced_and_comes_back_as_a_replica(cluster: Cluster) -> None:
    old = cluster.primary_of(KEY)
    old.pause()
    with pytest.raises(redis.TimeoutError), redis.Redis(port=old.port, socket_timeout=0.1, retry=None) as client:
        client.get(KEY)
    new = cluster.wait_for_failover(KEY, old)
    new.client.set(KEY, "1")
    cluster.heal()
    with pytest.raises(MovedError, match=str(new.port)):
        old.client.get(KEY)


def test_a_primary_restarted_at_once_comes_back_empty(cluster: Cluster) -> None:
    primary = cluster.primary_of(KEY)
    primary.client.set(KEY, "1")
    sha = primary.client.script_load("return 1")
    primary.restart()
    wait_for(cluster.healthy)
    assert cluster.primary_of(KEY) is primary
    assert primary.client.get(KEY) is None
    assert primary.client.script_exists(sha) == [False]
    # Nor does what a replica was once sent come back with it.
    assert not [file for node in cluster.nodes for file in node.log.parent.glob("*.rdb")]


def test_a_slots_migration_shows_ask_tryagain_and_moved(cluster: Cluster) -> None:
    source = cluster.primary_of(KEY)
    target = next(each for each in cluster.primaries() if each is not source)
    source.client.mset({KEY: "1", TWIN: "2"})
    seen = []
    for step in cluster.migration(KEY, target):
        seen.append(step)
        if step == "begun":
            assert source.client.get(KEY) == "1"
            with pytest.raises(AskError, match=str(target.port)):
                source.client.get("{pool}:none")
        if seen[1:] == ["key"]:
            with pytest.raises(TryAgainError):
                source.client.mget(KEY, TWIN)
        if step == "moved":
            with pytest.raises(AskError, match=str(target.port)):
                source.client.get(KEY)
            with pytest.raises(MovedError, match=str(source.port)):
                target.client.get(KEY)
        if step == "owned":
            with pytest.raises(MovedError, match=str(target.port)):
                source.client.get(KEY)
    assert seen == ["begun", "key", "key", "moved", "owned", "known"]
    assert cluster.primary_of(KEY) is target
    assert target.client.mget(KEY, TWIN) == ["1", "2"]


def test_a_migration_left_half_way_is_ended_by_healing(cluster: Cluster) -> None:
    source = cluster.primary_of(KEY)
    next(cluster.migration(KEY, next(each for each in cluster.primaries() if each is not source)))
    cluster.heal()
    assert source.client.get("{pool}:none") is None


def test_a_cluster_without_its_majority_says_it_is_down(cluster: Cluster) -> None:
    left, *others = cluster.primaries()
    slot = next(slot for slot in range(16_384) if cluster.primary_of(slot) is left)
    for other in others:
        other.pause()
    wait_for(lambda: left.client.cluster("INFO")["cluster_state"] == "fail")
    with pytest.raises(ClusterDownError):
        left.client.execute_command("GET", KEY)
    cluster.heal()
    assert cluster.primary_of(slot).client.ping()


def test_all_of_a_cluster_is_flushed(cluster: Cluster) -> None:
    for primary in cluster.primaries():
        primary.client.function_load("#!lua name=one\nredis.register_function('one', function() return 1 end)")
    cluster.primary_of(KEY).client.set(KEY, "1")
    cluster.flush()
    cluster.functions_flush()
    assert [primary.client.dbsize() for primary in cluster.primaries()] == [0, 0, 0]
    assert [primary.client.function_list() for primary in cluster.primaries()] == [[]] * 3


def test_sentinels_replace_a_killed_primary(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    old.client.set(KEY, "kept")
    wait_replicated(old, sentinels.replicas())
    with replication_cut(old):
        old.client.set(KEY, "lost")
        old.kill()
        new = sentinels.wait_for_failover(old)
    assert new is not old
    assert new.client.get(KEY) == "kept"
    addresses = [("127.0.0.1", each.port) for each in sentinels.sentinels]
    client = redis.Sentinel(addresses, socket_timeout=1.0).master_for(SERVICE, decode_responses=True)
    assert client.get(KEY) == "kept"
    client.close()
    sentinels.heal()
    assert sentinels.primary() is new
    wait_replicated(new, [old])
    assert old.client.get(KEY) == "kept"


def test_sentinels_replace_a_paused_primary_with_one_of_them_dead(sentinels: Sentinels) -> None:
    sentinels.sentinels[0].kill()
    old = sentinels.primary()
    old.pause()
    new = sentinels.wait_for_failover(old)
    new.client.set(KEY, "1")
    sentinels.heal()
    with pytest.raises(redis.ReadOnlyError):
        old.client.set(KEY, "2")


def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    start = (
        "import os, pathlib, sys; from tests.servers import *\n"
        "print(Server(valkey_binary(), pathlib.Path(sys.argv[1])).process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    started = subprocess.run([sys.executable, "-c", start, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    wait_until(lambda: not Path(f"/proc/{int(started.stdout)}").exists())


def test_a_server_that_cannot_start_says_so_and_leaves_nothing(valkey: Server, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the server ended at once"):
        Cluster(valkey_binary(), tmp_path, "--no-such-option", "1")
    with pytest.raises(AssertionError, match="the server ended at once"):
        Server(valkey_binary(), tmp_path / "one", port=valkey.port)
