"""What a decision costs, in time and in the store's memory: `python -m benchmarks.core [--quick]`.

Starts a Valkey and a Redis of its own, prints the figures as markdown and writes them to benchmarks/results/core.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks import memory, speed
from benchmarks.memory import Memory
from benchmarks.servers import BINARIES, serve, surroundings, version
from benchmarks.speed import LINES, PING, Series

RESULT = Path(__file__).parent / "results" / "core.md"
TIMES_PING, TIMES_TEN_LINES, ROUND_TRIPS = 1.5, 1.1, 1.0
FRESH_BYTES, USED_BYTES, RECIPIENT_BYTES = 1024, 2048, 200


def _against(value: float, target: float, text: str) -> str:
    return f"**{text} (over)**" if value > target else text


def _speed_table(series: list[Series]) -> list[str]:
    rows = [
        f"| Server | Call | Lines | p50 µs | p99 µs | Over PING µs | × PING p50 (target ≤ {TIMES_PING}) "
        f"| × {LINES[0]} lines (10,000 lines: target ≤ {TIMES_TEN_LINES}) "
        "| Round trips: sent, EVALSHA (target 1) | Server µs |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    by_name = {(one.server, one.what, one.lines): one.quantile(50) for one in series}
    for one in sorted(series, key=lambda one: (list(BINARIES).index(one.server), one.what != PING, one.what)):
        p50 = by_name[one.server, one.what, one.lines]
        cells = [one.server, one.what, f"{one.lines:,}", f"{p50:.1f}", f"{one.quantile(99):.1f}"]
        if one.what == PING:
            cells += ["", "1.00", "", "1", ""]
        else:
            ping, ten = p50 / by_name[one.server, PING, one.lines], p50 / by_name[one.server, one.what, LINES[0]]
            bound = TIMES_TEN_LINES if one.lines == LINES[-1] else float("inf")
            evalsha = one.calls / (len(one.nanos) + one.untimed)
            wrong = (one.sent, evalsha) != (ROUND_TRIPS, ROUND_TRIPS)
            cells += [
                f"{p50 - by_name[one.server, PING, one.lines]:.1f}",
                _against(ping, TIMES_PING, f"{ping:.2f}"),
                _against(ten, bound, f"{ten:.2f}"),
                _against(float(wrong), 0, f"{one.sent:g}, {evalsha:g}"),
                f"{one.server_micros / one.calls:.1f}",
            ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _memory_table(found: dict[str, Memory]) -> list[str]:
    rows = [f"| Memory | {' | '.join(found)} | Target |", f"|---|{'--:|' * (len(found) + 1)}"]

    def row(name: str, values: list[float], target: float | None) -> None:
        texts = [_against(value, target or float("inf"), f"{value:,.0f}") for value in values]
        rows.append(f"| {name} | {' | '.join(texts)} | {f'≤ {target:,}' if target else ''} |")

    all_ = list(found.values())
    count = all_[0].recipients
    row(f"Bytes per fresh line ({memory.FRESH_LINES:,} lines just observed)", [m.fresh for m in all_], FRESH_BYTES)
    row("of these, its share of the index", [m.fresh_index for m in all_], None)
    row("Bytes per line with used-up default quotas, record and index", [m.used for m in all_], USED_BYTES)
    row("of these, its record", [m.used_record for m in all_], None)
    row("sends that its windows count, at least", [m.volume for m in all_], None)
    row("new conversations that its windows count, at least", [m.starts for m in all_], None)
    row(f"Bytes per recipient at rest ({count:,} known)", [m.recipient for m in all_], RECIPIENT_BYTES)
    row(f"Keys (DBSIZE), with {memory.RECIPIENT_LINES:,} more that began the lines", [m.keys for m in all_], None)
    row("Decisions denied during these set-ups", [m.denied for m in all_], None)
    return rows


def _report(series: list[Series], found: dict[str, Memory], where: list[str], quick: bool, seconds: float) -> str:
    calls = len(series[0].nanos)
    return "\n".join(
        [
            f"# A decision's cost{' (--quick)' if quick else ''}",
            "",
            *(f"- {item}" for item in where),
            f"- `python -m benchmarks.core{' --quick' if quick else ''}` took {seconds:.0f} s",
            "",
            f"One client calls `guard.choose_from_number()` with every rule on, {calls:,} times for each row, all rows "
            "of both servers interleaved in rounds; the PING beside them is the same client's. Sticky: "
            f"{speed.STICKY_RECIPIENTS} recipients in turn, each in a conversation; new conversation: a "
            "recipient never seen before. Server µs: the server's mean for EVALSHA.",
            "",
            *_speed_table(series),
            "",
            "A PING over the loopback, and so the ratio to it, varies several-fold with what else keeps the cores "
            "awake; what a decision takes over PING varies less.",
            "",
            "Fresh line and recipient: growth of `used_memory`. Used-up line: MEMORY USAGE of the hash of "
            f"{memory.USED_LINES} lines that each sent {memory.SENDS:,} messages evenly over a day and started "
            f"{memory.STARTS} conversations, and the index's share of a line among {memory.FRESH_LINES:,}.",
            "",
            *_memory_table(found),
            "",
        ]
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description="What a decision costs.")
    parser.add_argument("--quick", action="store_true", help="fewer calls, and 100,000 recipients for 1,000,000")
    quick = parser.parse_args().quick
    rounds, calls, recipients = (20, 50, 100_000) if quick else (100, 100, 1_000_000)
    start = time.monotonic()
    with ExitStack() as stack:
        urls = {kind: stack.enter_context(serve(kind)) for kind in BINARIES}
        where = surroundings([version(url) for url in urls.values()])
        print(f"speed: {rounds} rounds of {calls} calls of each kind ...", file=sys.stderr)
        series = speed.measure(urls, rounds=rounds, calls=calls)
    print(f"memory: {recipients:,} recipients ...", file=sys.stderr)
    # Nothing is timed any more: a process for each server.
    with ProcessPoolExecutor(len(BINARIES), mp_context=multiprocessing.get_context("spawn")) as processes:
        jobs = {kind: processes.submit(memory.measure, kind, recipients) for kind in BINARIES}
        found = {kind: job.result() for kind, job in jobs.items()}
    text = _report(series, found, where, quick, time.monotonic() - start)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
