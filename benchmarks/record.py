"""What the decision record adds to a decision, in time and memory: `python -m benchmarks.record`.

Starts a Valkey and a Redis of its own; guards with and without the record take turns, beside the PING of their client.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import redis

from benchmarks.decisions import STICKY_RECIPIENTS, decisions
from benchmarks.peers import PING
from benchmarks.series import Series
from benchmarks.servers import BINARIES, serve, surroundings, version
from benchmarks.setup import TIMEOUT, add_lines, every_rule
from sendguard import SendGuard

LINES, ROUNDS, CALLS, KEPT = 1_000, 600, 25, 10_000


def _series(stack: ExitStack, server: str, url: str) -> list[Series]:
    admin = stack.enter_context(redis.Redis.from_url(url))
    found = []
    for recorded in (True, False):
        mark = ", recorded" if recorded else ""
        guard = SendGuard(
            url, pool=f"recorded-{recorded}", policy=every_rule(), timeout=TIMEOUT, record_decisions=recorded
        )
        stack.enter_context(guard)
        add_lines(guard, LINES)
        calls = ((PING, guard._store._client.ping), *decisions(guard))
        found += [Series(server, what + mark, LINES, call, admin) for what, call in calls]
    return found


def _fill(series: list[Series]) -> None:
    """Scripts loaded, conversations begun, and the record full, so that each entry now displaces an old one."""
    for one in series:
        for _ in range(2 * STICKY_RECIPIENTS + KEPT // 4):
            one.call()


def _row(one: Series, bare: Series, ping: Series) -> str:
    p50, plain = one.quantile(50), bare.quantile(50)
    micros, plain_micros = one.server_micros / one.calls, bare.server_micros / bare.calls
    return (
        f"| {one.server} | {bare.what} | {ping.quantile(50):.1f} | {plain:.1f} | {p50:.1f} | {p50 - plain:+.1f} "
        f"| **{p50 / plain:.3f}** | {bare.quantile(99):.1f} | {one.quantile(99):.1f} "
        f"| {plain_micros:.1f} | {micros:.1f} |"
    )


def _bytes(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        key = "sendguard:{recorded-True}:decisions"
        taken, kept = client.memory_usage(key, samples=0), client.xlen(key)
        assert isinstance(taken, int)
        assert isinstance(kept, int)
        return f"{version(url)}: {kept:,} records kept, {taken / 1e6:.2f} MB, {taken / kept:.0f} bytes each"


def main() -> None:
    """Measure and print."""
    order = random.Random(1)
    with ExitStack() as stack:
        urls = {kind: stack.enter_context(serve(kind)) for kind in BINARIES}
        where = surroundings([version(url) for url in urls.values()])
        groups = {server: _series(stack, server, url) for server, url in urls.items()}
        for group in groups.values():
            _fill(group)
        for _ in range(ROUNDS):
            for group in groups.values():
                for one in order.sample(group, len(group)):
                    one.run(CALLS)
        print(*(f"- {item}" for item in where), "", sep="\n")
        print(
            "| Server | Decision | PING µs | p50 µs | recorded | adds | × | p99 µs | recorded | server µs | recorded |"
        )
        print(f"|---|---|{'--:|' * 9}")
        for group in groups.values():
            by_name: dict[str, Any] = {one.what: one for one in group}
            for what, bare in by_name.items():
                if what != PING and (one := by_name.get(f"{what}, recorded")):
                    print(_row(one, bare, by_name[PING]))
        print("", *(f"- {_bytes(url)}" for url in urls.values()), sep="\n")


if __name__ == "__main__":
    main()
