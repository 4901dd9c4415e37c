"""What a fleet needs of its store: `python -m benchmarks.fleet`.

Decisions a second from 1, 2 and 4 processes and from a client written in C, the server's own time for each, what
persistence adds, bytes by kind of key, and how pools spread over a real cluster of three primaries. Starts all servers
itself, prints the figures as markdown and writes them to benchmarks/results/fleet.md. docs/fleet.md reasons with them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks import memory
from benchmarks.servers import BINARIES, info, serve, surroundings, version
from benchmarks.setup import TIMEOUT, add_lines, every_rule, line, recipient, run_piped
from benchmarks.throughput import BENCHMARK_CALLS, CONNECTIONS, KNOWN, LINES, SECONDS, Counters, Run, by_c, by_guards
from sendguard import SendGuard
from sendguard.linq.events import MessageSeen
from sendguard.request import Request
from tests.clusters import Cluster

RESULT = Path(__file__).parent / "results" / "fleet.md"
PROCESSES, POOLS = (1, 2, 4), (1, 2, 4, 8)
RECIPIENTS, KEYED, MESSAGES, TRANSITIONS, KEPT_LINES = 200_000, 50_000, 50_000, 12_000, 1000


def _one_server(url: str, say: Callable[[str], None]) -> tuple[list[Run], float]:
    """Runs on one server, and the bytes that a decision adds to its append-only file."""
    with redis.Redis.from_url(url) as client:
        with SendGuard(url, pool="fleet", policy=every_rule(), timeout=TIMEOUT) as guard:
            add_lines(guard, LINES)
        runs = []
        for processes in PROCESSES:
            say(f"{processes} processes")
            runs.append(by_guards(f"{processes} Python processes, known", url, ["fleet"], processes, [client]))
        say("redis-benchmark")
        runs.append(by_c("C client, known", url, client, KNOWN))
        runs.append(by_c("C client, new conversations", url, client, 10**9))
        client.config_set("appendonly", "yes")
        while info(client, "persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)
        written = info(client, "persistence")["aof_current_size"]
        runs.append(by_c("C client, known, appendfsync everysec", url, client, KNOWN))
        grown = info(client, "persistence")["aof_current_size"] - written
        client.config_set("appendfsync", "always")
        runs.append(by_c("C client, known, appendfsync always", url, client, KNOWN))
        return runs, grown / BENCHMARK_CALLS


# Memory --------------------------------------------------------------------------------------------------------------


def _keyed(url: str) -> float:
    """Bytes of an idempotency key's answer."""
    with SendGuard(url, pool="keyed", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
        add_lines(guard, LINES)
        people = [recipient(i) for i in range(KNOWN)]
        for person in people:
            guard.choose_from_number(person)
        guard._store.close()
        protocol = guard._flows.protocol
        asked = (Request.of(people[i % KNOWN], "chat", None, (), None, f"order-{i}") for i in range(KEYED))
        return _grown(url, (protocol.decide(each, max_wait=0, waiter=False, now=None) for each in asked), KEYED)


def _seen(url: str) -> float:
    """Bytes of a webhook of a message: its event and its chat, both new."""
    with SendGuard(url, pool="seen", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
        add_lines(guard, 1)
        protocol, now = guard._flows.protocol, time.time()
        number = guard.lines()[0].number
        news = (
            MessageSeen(
                line=number, at=now, inbound=False, sender=None, chat_id=f"chat-{i}", consent=None, history=False,
                is_group=False,
            )
            for i in range(MESSAGES)
        )  # fmt: skip
        guard._store.close()
        return _grown(url, (protocol.message(each, f"event-{i}", None) for i, each in enumerate(news)), MESSAGES)


def _grown(url: str, calls: Iterable[Any], count: int) -> float:
    """Bytes by which `used_memory` grows with each of so many calls."""
    with redis.Redis.from_url(url) as client:
        first, *rest = calls
        client.function_load(first.script.library.source, replace=True)
        run_piped(client, [first])
    before = memory._used_memory(url)
    with redis.Redis.from_url(url) as client:
        run_piped(client, rest)
    return (memory._used_memory(url) - before) / (count - 1)


def _stream(url: str) -> tuple[int, int]:
    """Length and bytes of the stream of transitions when it is full."""
    with SendGuard(url, pool="stream", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
        guard.observe(line(0), health="AT_RISK")
        observe, healths = guard._flows.protocol.observe_one, ("HEALTHY", "AT_RISK")
    told = (
        observe(line(0), observed_at=None, source="webhook", health=healths[i % 2], now=None)
        for i in range(TRANSITIONS)
    )
    with redis.Redis.from_url(url) as client:
        run_piped(client, told)
    with redis.Redis.from_url(url) as client:
        key = "sendguard:{stream}:transitions"
        return int(client.xlen(key)), int(client.memory_usage(key, samples=0) or 0)


def _look(url: str) -> float:
    """Microseconds of the server for each line that a process reads when it reads them all."""
    with SendGuard(url, pool="look", policy=every_rule(), timeout=TIMEOUT, refresh=None) as guard:
        add_lines(guard, KEPT_LINES)
        with redis.Redis.from_url(url) as client:
            before = Counters.of(client).script
            guard._drive(guard._flows.keeper.look(guard._flows.run, patient=True))
            return (Counters.of(client).script - before) / KEPT_LINES


def _memory(kind: str) -> dict[str, float]:
    with serve(kind) as url:
        fresh, _ = memory._fresh(url)
        each, _, denied = memory._recipients(url, RECIPIENTS)
        assert not denied
        keyed, seen, (length, stream), look = _keyed(url), _seen(url), _stream(url), _look(url)
    return {
        f"Bytes per fresh line ({memory.FRESH_LINES:,} lines)": fresh,
        f"Bytes per recipient at rest ({RECIPIENTS:,})": each,
        f"Bytes per answer of an idempotency key ({KEYED:,}; kept a day)": keyed,
        f"Bytes per message webhook in a new chat ({MESSAGES:,}; event two hours, chat 30 days)": seen,
        f"Entries in the stream of transitions after {TRANSITIONS:,}": length,
        "Bytes of the stream then, of each pool": stream,
        f"Server µs per line when a process reads them all ({KEPT_LINES:,} lines; every 30 s)": look,
    }


# A cluster -----------------------------------------------------------------------------------------------------------


def _cluster(kind: str, say: Callable[[str], None]) -> tuple[list[Run], list[tuple[int, ...]]]:
    """Runs over 1, 2, 4 and 8 pools, and how many of the pools each primary carries in each."""
    with tempfile.TemporaryDirectory() as folder, Cluster(BINARIES[kind](), Path(folder), timeout=5.0) as cluster:
        names = [f"team-{i}" for i in range(max(POOLS))]
        primaries = cluster.primaries()
        clients = [node.client for node in primaries]
        for name in names:
            with SendGuard(cluster.url, pool=name, policy=every_rule(), timeout=TIMEOUT) as guard:
                add_lines(guard, LINES)
        homes = [primaries.index(cluster.primary_of(f"sendguard:{{{name}}}:")) for name in names]
        runs = []
        for count in POOLS:
            say(f"a cluster, {count} pools")
            runs.append(by_guards(f"{count}", cluster.url, names[:count], max(PROCESSES), clients))
        return runs, [tuple(homes[:count].count(i) for i in range(len(primaries))) for count in POOLS]


# The report ----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    parts = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return [*(f"| {' | '.join(part)} |" for part in parts), ""]


def _run_rows(server: str, runs: Sequence[Run]) -> list[list[str]]:
    return [
        [
            f"{server}: {run.name}", f"{run.rate:,.0f}", f"{run.rate / runs[0].rate:.2f}", f"{run.script:.1f}",
            f"{run.server:.1f}", "" if run.client is None else f"{run.client:.0f}",
            f"{run.rate * run.server / 1e6:.0%}", f"{1e6 / run.server:,.0f}",
        ]
        for run in runs
    ]  # fmt: skip


def _cluster_rows(runs: Sequence[Run], spread: Sequence[tuple[int, ...]]) -> list[list[str]]:
    return [
        [
            run.name, " / ".join(map(str, pools)), f"{run.rate:,.0f}",
            " / ".join(f"{calls / sum(run.each):.0%}" for calls in run.each),
            f"{run.script:.1f}", f"{run.server:.1f}", f"{run.replicated:,.0f}", f"{1e6 / run.server:,.0f}",
        ]
        for run, pools in zip(runs, spread, strict=True)
    ]  # fmt: skip


def _report() -> str:
    def say(text: str) -> None:
        print(f"{text} ...", file=sys.stderr)

    begun = time.monotonic()
    by_server, found, versions = {}, {}, []
    for kind in BINARIES:
        with serve(kind) as url:
            versions.append(version(url))
            where = surroundings(versions)
            by_server[kind] = _one_server(url, lambda text, kind=kind: say(f"{kind}: {text}"))  # type: ignore[misc]
    runs, spread = _cluster("Valkey", say)
    for kind in BINARIES:
        say(f"{kind}: memory")
        found[kind] = _memory(kind)
    speed = ["Server CPU µs", "Client CPU µs", "Server's share of a core", "Decisions/s that fill a core like this one"]
    shards = ["Share of each primary", "Script µs", "Server CPU µs", "Replicated bytes", "Decisions/s that fill a core"]
    return "\n".join(
        [
            "# What a fleet needs of its store",
            "",
            *(f"- {item}" for item in where),
            f"- `python -m benchmarks.fleet` took {time.monotonic() - begun:.0f} s",
            "",
            "All processes, the servers too, share the machine's two cores, with whatever else runs there: trust the "
            "ratios and the CPU times per decision more than the rates.",
            "",
            "## One server",
            "",
            f"One pool of {LINES} lines, every rule on. Known: recipients already in a conversation. Python processes "
            f"call `guard.choose_from_number()`, one thread each, for {SECONDS:g} s; the C client is redis-benchmark "
            f"with the guard's own FCALL over {CONNECTIONS} connections, {BENCHMARK_CALLS:,} calls. Script: the "
            "server's own mean for FCALL, waiting for a core included. Server and client CPU: system and user time "
            "for each decision.",
            "",
            *_table(
                ["Run", "Decisions/s", "× 1 process", "Script µs", *speed],
                [row for kind, (each, _) in by_server.items() for row in _run_rows(kind, each)],
            ),
            *_table(
                ["Append-only file", *by_server],
                [["Bytes per decision", *(f"{grown:,.0f}" for _, grown in by_server.values())]],
            ),
            "## A cluster",
            "",
            f"Valkey, three primaries with a replica each, `redis+cluster://`; {max(PROCESSES)} Python processes "
            "call the pools in turn. A primary's CPU includes what it sends to its replica.",
            "",
            *_table(["Pools", "Pools of each primary", "Decisions/s", *shards], _cluster_rows(runs, spread)),
            "## Memory",
            "",
            "Growth of `used_memory`; the stream by MEMORY USAGE.",
            "",
            *_table(
                ["", *found],
                [[name, *(f"{found[kind][name]:,.0f}" for kind in found)] for name in next(iter(found.values()))],
            ),
        ]
    )


def main() -> None:
    """Measure, print, write."""
    text = _report()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
