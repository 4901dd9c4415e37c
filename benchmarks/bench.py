"""What a decision costs, against what else one would use: `python -m benchmarks.bench [--quick]`, or `make bench`.

Starts a Valkey and a Redis of its own, and writes `results/bench.md` and the drawings beside it. docs/performance.md
says what is measured.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path

import redis

from benchmarks import acknowledged, against, late, leases, memory, plots, throughput, webhooks
from benchmarks.acknowledged import Flag
from benchmarks.against import QUICK, WHOLE, Plan
from benchmarks.late import Late
from benchmarks.leases import Leased
from benchmarks.memory import Memory
from benchmarks.series import Series
from benchmarks.servers import BINARIES, serve, surroundings, version
from benchmarks.setup import MODES, add_lines, guard_options
from benchmarks.text import report
from benchmarks.throughput import Run
from benchmarks.webhooks import Ingested
from sendguard import SendGuard

RESULTS = Path(__file__).parent / "results"
PROCESSES = (1, 2, 4, 8)
PEERS = ("litellm", "limits", "throttled-py")


@dataclass(frozen=True)
class Size:
    """How much of everything. deliveries: of each process. flags: lines that are flagged, while `ask`
    processes ask for them; cooldowns: deployments of LiteLLM's Router that are cooled down."""

    plan: Plan = WHOLE
    processes: tuple[int, ...] = PROCESSES
    deliveries: int = 3000
    flags: int = 50
    ask: int = 4
    cooldowns: int = 20
    recipients: int = 200_000


FULL = Size()
SHORT = Size(plan=QUICK, processes=(1, 2, 4), deliveries=500, flags=10, cooldowns=3, recipients=20_000)


@dataclass(frozen=True)
class Found:
    """All that was measured, by server."""

    series: list[Series]
    runs: dict[str, list[Run]]
    ingested: dict[str, list[Ingested]]
    leased: dict[str, list[Leased]]
    flags: dict[str, list[Flag]]
    late: dict[str, list[Late]]
    memory: dict[str, Memory]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text} ...", file=sys.stderr, flush=True)


def decisions_a_second(url: str, processes: Sequence[int], mode: str) -> list[Run]:
    """From so many processes, and from a client in C. mode: a key of `setup.MODES`."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        with SendGuard(url, pool=throughput.POOL, **guard_options()) as guard:
            add_lines(guard, throughput.LINES)
        mark = "" if mode == "direct" else f", {mode}"
        runs = [
            throughput.by_guards(
                f"{count} process{'es' * (count > 1)}{mark}", url, [throughput.POOL], count, [client], mode
            )
            for count in processes
        ]
        if mode == "direct":
            runs.append(throughput.by_c("client in C", url, client, throughput.KNOWN))
        return runs


def _ingest(url: str, size: Size) -> list[Ingested]:
    return [
        webhooks.ingest(url, kind, count, size.deliveries) for kind in webhooks.KINDS for count in size.processes[:3]
    ]


def _memory(size: Size) -> dict[str, Memory]:
    # Nothing is timed any more: a process for each server.
    with ProcessPoolExecutor(len(BINARIES), mp_context=multiprocessing.get_context("spawn")) as processes:
        jobs = {kind: processes.submit(memory.measure, kind, size.recipients) for kind in BINARIES}
        return {kind: job.result() for kind, job in jobs.items()}


def measure(size: Size) -> tuple[Found, list[str]]:
    """Everything, and where it was measured."""
    with ExitStack() as stack:
        urls = {kind: stack.enter_context(serve(kind)) for kind in BINARIES}
        where = surroundings([version(url) for url in urls.values()])
        where.append(", ".join(f"{name} {installed(name)}" for name in PEERS))
        _say("decisions, all interleaved")
        series = against.measure(urls, size.plan)
    runs: dict[str, list[Run]] = {}
    leased, ingested, flags = {}, {}, {}
    for kind in BINARIES:
        with serve(kind) as url:
            _say(f"{kind}: decisions a second")
            runs[kind] = [run for mode in MODES for run in decisions_a_second(url, size.processes, mode)]
            _say(f"{kind}: decisions from a lease")
            leased[kind] = leases.measure(kind, url, rounds=size.plan.rounds, calls=100)
            _say(f"{kind}: webhooks")
            ingested[kind] = _ingest(url, size)
            _say(f"{kind}: from the acknowledgement to the last send")
            for mode in MODES:
                flags[f"{kind}, {mode}"] = acknowledged.measure(
                    url, flags=size.flags, processes=size.ask, mode=mode, pool=f"acknowledged-{mode}"
                )
    with serve("Valkey") as url:
        _say("how late LiteLLM's Router learns of a cooldown")
        lateness = {"Valkey": late.measure(url, times=size.cooldowns)}
    _say("memory")
    return Found(series, runs, ingested, leased, flags, lateness, _memory(size)), where


def draw(found: Found, folder: Path) -> None:
    """The drawings."""
    plots.draw_decisions(found.series, folder / "decisions.svg")
    plots.draw_throughput(found.runs, folder / "throughput.svg")
    plots.draw_acknowledged(found.flags, folder / "acknowledged.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="What a decision costs.")
    parser.add_argument("--quick", action="store_true", help="a short trial of everything, written beside the results")
    parser.add_argument("--into", type=Path, default=RESULTS, help="the folder to write into")
    options = parser.parse_args(arguments)
    logging.getLogger("sendguard").setLevel(logging.ERROR)  # each flag is a line of the log
    begun = time.monotonic()
    found, where = measure(SHORT if options.quick else FULL)
    where.append(f"`python -m benchmarks.bench{' --quick' * options.quick}` took {time.monotonic() - begun:.0f} s")
    options.into.mkdir(exist_ok=True, parents=True)
    text = report(found, where)
    (options.into / "bench.md").write_text(text, "utf-8")
    draw(found, options.into)
    print(text)


if __name__ == "__main__":
    main()
