"""Decisions a second from several processes, and from a client in C, and what each costs server and client."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.servers import info
from benchmarks.setup import guard_options, recipient
from sendguard import SendGuard
from sendguard.request import Request
from sendguard.store.wire import words

POOL = "fleet"
SECONDS, LINES, KNOWN = 2.0, 100, 500
BENCHMARK_CALLS, CONNECTIONS = 20_000, 16


@dataclass(frozen=True)
class Run:
    """One run. each: scripts by server; decided: decisions by the clients' count; seconds: how long it took. server,
    script, client: microseconds of the servers' CPU, of the scripts by the servers' own count, and of the clients' CPU,
    all for one decision; replicated: bytes of the replication stream for one."""

    name: str
    each: tuple[int, ...]
    decided: int
    seconds: float
    server: float
    script: float
    client: float | None = None
    replicated: float = 0.0

    @property
    def rate(self) -> float:
        """Decisions a second."""
        return self.decided / self.seconds


@dataclass(frozen=True)
class Counters:
    """What a server has counted so far: scripts, microseconds of their scripts, of its CPU, bytes to replicas."""

    calls: int
    script: float
    cpu: float
    replicated: int

    @classmethod
    def of(cls, client: redis.Redis) -> Counters:
        stats = info(client, "commandstats").get("cmdstat_fcall", {"calls": 0, "usec": 0})
        cpu = info(client, "cpu")
        used = (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6
        return cls(stats["calls"], stats["usec"], used, info(client, "replication")["master_repl_offset"])


Spent = tuple[float, float | None, int | None]
"""What somebody who asked for decisions tells: seconds, and, where known, CPU seconds and the number of decisions."""


def measured(name: str, clients: Sequence[redis.Redis], act: Callable[[], Spent]) -> Run:
    """What servers counted while something acted."""
    before = [Counters.of(client) for client in clients]
    seconds, own, told = act()
    after = [Counters.of(client) for client in clients]
    pairs = list(zip(before, after, strict=True))
    each = tuple(b.calls - a.calls for a, b in pairs)
    decided = sum(each) if told is None else told

    def per_call(total: Callable[[Counters], float]) -> float:
        return sum(total(b) - total(a) for a, b in pairs) / decided

    return Run(
        name=name,
        each=each,
        decided=decided,
        seconds=seconds,
        server=per_call(lambda c: c.cpu),
        script=per_call(lambda c: c.script),
        client=None if own is None else own * 1e6 / decided,
        replicated=per_call(lambda c: c.replicated),
    )


def _decide_for(url: str, pools: Sequence[str], mode: str, number: int, barrier: Any, results: Any) -> None:
    """One process: decisions of known conversations, over the pools in turn, for SECONDS."""
    with ExitStack() as stack:
        guards = [stack.enter_context(SendGuard(url, pool=pool, **guard_options(mode))) for pool in pools]
        people = [recipient(number * KNOWN + i) for i in range(KNOWN)]
        for guard in guards:
            for person in people:
                guard.choose_from_number(person)
        barrier.wait()
        barrier.wait()  # in between the counters are read
        begun, cpu, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < SECONDS:
            guards[done % len(guards)].choose_from_number(people[done // len(guards) % KNOWN])
            done += 1
        results.put((time.perf_counter() - begun, time.process_time() - cpu, done))
        barrier.wait()


def by_guards(
    name: str, url: str, pools: Sequence[str], processes: int, clients: Sequence[redis.Redis], mode: str = "direct"
) -> Run:
    """What so many processes get out of the servers. mode: a key of `setup.MODES`."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(target=_decide_for, args=(url, pools, mode, number, barrier, results), daemon=True)
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait(60)

    def act() -> Spent:
        barrier.wait(60)
        seconds, cpu, done = zip(*(results.get(timeout=60) for _ in workers), strict=True)
        return max(seconds), sum(cpu), sum(done)

    run = measured(name, clients, act)
    barrier.wait(60)
    for worker in workers:
        worker.join()
    return run


def by_c(name: str, url: str, client: redis.Redis, people: int) -> Run:
    """redis-benchmark with a guard's own command, for random recipients of so many."""
    binary = shutil.which("redis-benchmark")
    if binary is None:
        raise SystemExit("the benchmark needs redis-benchmark: apt-get install redis-tools")
    with SendGuard(url, pool=POOL, refresh=None, **guard_options()) as guard:
        assert guard.decide(recipient(0)).allowed
        protocol = guard._flows.protocol
        request = Request.of(recipient(0), "chat", None, (), None, None)
        call = protocol.decide(request, max_wait=0, waiter=False, now=None)
        anybody = call._replace(keys=(f"{protocol.prefix}r:__rand_int__", *call.keys[1:]))
    command = [str(word) for word in words("FCALL", call.script.function, anybody)]  # all of it is text
    port = client.connection_pool.connection_kwargs["port"]
    options = ["-p", str(port), "-c", str(CONNECTIONS), "-n", str(BENCHMARK_CALLS), "-r", str(people), "-q"]

    def act() -> Spent:
        begun = time.perf_counter()
        subprocess.run([binary, *options, *command], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun, None, None

    def failed() -> int:
        return int(info(client, "commandstats")["cmdstat_fcall"]["failed_calls"])

    before = failed()
    run = measured(name, [client], act)
    assert failed() == before
    return run
