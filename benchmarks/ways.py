"""What the ways in cost: `python -m benchmarks.ways`. It writes and prints `results/ways.md`."""

from __future__ import annotations

from pathlib import Path

from benchmarks import sidecar, transport
from benchmarks.servers import serve, surroundings, version
from benchmarks.sidecar import Answers, micros
from benchmarks.transport import HOW, Way

RESULT = Path(__file__).parent / "results" / "ways.md"
ADDED_MICROS, RATE, BUSY_P99_MICROS, TIMES_PLAIN = 250, 1500, 10_000, 2.5


def _against(value: float, bad: bool) -> str:
    return f"**{value:,.0f} (misses)**" if bad else f"{value:,.0f}"


def _transport(ways: list[Way]) -> list[str]:
    rows = [
        f"| Call | How | p50 µs | p99 µs | added at p50, µs (target ≤ {ADDED_MICROS}) |",
        "|---|---|--:|--:|--:|",
    ]
    plain = {way.call: way.quantile(50) for way in ways if way.how == "plain"}
    for way in sorted(ways, key=lambda way: (way.call, list(HOW).index(way.how))):
        added = way.quantile(50) - plain[way.call]
        cell = "" if way.how == "plain" else _against(added, way.how == "guarded" and added > ADDED_MICROS)
        rows.append(f"| {way.call} | {HOW[way.how]} | {way.quantile(50):,.0f} | {way.quantile(99):,.0f} | {cell} |")
    return rows


def _sidecar(found: list[Answers]) -> list[str]:
    plain = micros(found[0].alone, 50)
    rows = [
        f"| Endpoint | p50 µs | × {found[0].path} (target ≤ {TIMES_PLAIN}) | {sidecar.CLIENTS} clients: a second "
        f"(target ≥ {RATE:,}) | p50 µs | p99 µs (target ≤ {BUSY_P99_MICROS:,}) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        decides = one.path == sidecar.CHOOSE
        times = micros(one.alone, 50) / plain
        p99 = micros(one.busy, 99)
        over = f"**{times:.2f} (misses)**" if decides and times > TIMES_PLAIN else f"{times:.2f}"
        rows.append(
            f"| {one.path} | {micros(one.alone, 50):,.0f} | {over} | {_against(one.rate, decides and one.rate < RATE)} "
            f"| {micros(one.busy, 50):,.0f} | {_against(p99, decides and p99 > BUSY_P99_MICROS)} |"
        )
    return rows


def main() -> None:
    """Measure, print, write."""
    with serve("Valkey") as url:
        where = surroundings([version(url)])
        ways = transport.measure(url, rounds=100, calls=20)
        found = sidecar.measure(url, rounds=6, calls=1000)
    text = "\n".join(
        [
            "# What the ways in cost",
            "",
            *(f"- {item}" for item in where),
            "- The simulator and the sidecar in a process of their own, the sidecar on one core alone",
            "",
            "The official SDK against the simulator, each way in turn, 20 calls at a time.",
            "",
            *_transport(ways),
            "",
            "The sidecar, asked one call after the other, and by several clients that ask again as soon as they are "
            "answered.",
            "",
            *_sidecar(found),
            "",
        ]
    )
    RESULT.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
