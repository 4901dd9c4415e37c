"""What metrics and spans add to a decision: `python -m benchmarks.watch`. It writes and prints `results/watch.md`.

Every way asks the same guard's question of the same Valkey, in turn, in rounds of a new order.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry

from benchmarks.servers import serve, surroundings, version
from benchmarks.setup import TIMEOUT, add_lines, every_rule, recipient
from sendguard import SendGuard
from sendguard.metrics import Metrics
from sendguard.request import Request
from sendguard.watch import Watch

RESULT = Path(__file__).parent / "results" / "watch.md"
ROUNDS, CALLS, PEOPLE = 300, 40, 500
BARE = "without the hook"


def _ways(url: str, stack: ExitStack) -> Iterator[tuple[str, Callable[[Request], object]]]:
    """Each way of asking: its name and what asks."""

    def guard_of(**options: Any) -> SendGuard:
        return stack.enter_context(SendGuard(url, pool="watch", policy=every_rule(), timeout=TIMEOUT, **options))

    def decide(guard: SendGuard) -> Callable[[Request], object]:
        return lambda request: guard._drive(guard._flows.decide(request))

    bare = guard_of()
    add_lines(bare, 10)
    yield BARE, lambda request: bare._drive(bare._flows._decide(request, 0.0, waiter=False))
    for name, metrics, provider in (
        ("off: neither metrics nor OpenTelemetry installed", False, "absent"),
        ("off, OpenTelemetry installed, no provider set", False, None),
        ("metrics", True, "absent"),
        ("spans, none sampled", False, TracerProvider(sampler=ALWAYS_OFF)),
        ("spans, all recorded", False, TracerProvider()),
        ("metrics and spans, all recorded", True, TracerProvider()),
    ):
        guard = guard_of(metrics=Metrics(CollectorRegistry()) if metrics else None)
        watch: Watch | None = guard._flows.watch
        assert watch is not None
        if provider == "absent":
            watch._spans = None
            guard._flows.watch = watch if metrics else None
        elif isinstance(provider, TracerProvider):
            assert watch._spans is not None
            watch._spans._tracer = provider.get_tracer("sendguard")
            watch._spans._wanted = True
        yield name, decide(guard)


def measure(url: str) -> dict[str, list[int]]:
    """Nanoseconds of each call, by way."""
    order, people = random.Random(1), itertools.cycle([recipient(i) for i in range(PEOPLE)])
    with ExitStack() as stack:
        ways = dict(_ways(url, stack))
        nanos: dict[str, list[int]] = {name: [] for name in ways}
        clock = time.perf_counter_ns
        for round_ in range(ROUNDS + 10):
            for name in order.sample(list(ways), len(ways)):
                requests = [Request.of(next(people), "chat", None, (), None, None) for _ in range(CALLS)]
                call = ways[name]
                call(requests[0])  # the first after another way is not timed
                for request in requests:
                    start = clock()
                    call(request)
                    nanos[name].append(clock() - start)
                if round_ < 10:
                    nanos[name].clear()
    return nanos


def main() -> None:
    """Measure, print, write."""
    with serve("Valkey") as url:
        where = surroundings([version(url)])
        nanos = measure(url)
    bare = statistics.median(nanos[BARE])
    rows = ["| How | p50 µs | added µs | × without |", "|---|--:|--:|--:|"]
    for name, found in nanos.items():
        p50 = statistics.median(found)
        rows.append(f"| {name} | {p50 / 1000:.1f} | {(p50 - bare) / 1000:.1f} | {p50 / bare:.3f} |")
    text = "\n".join(
        [
            "# What metrics and spans add to a decision",
            "",
            *(f"- {item}" for item in where),
            "",
            f"One process, sticky conversations of {PEOPLE} recipients, {ROUNDS * CALLS:,} decisions for each row, all "
            "rows interleaved. Recorded spans are given to no exporter.",
            "",
            *rows,
            "",
        ]
    )
    RESULT.write_text(text, "utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
