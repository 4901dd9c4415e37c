"""The tables of `bench`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks import memory
from benchmarks.acknowledged import Flag
from benchmarks.late import Late
from benchmarks.leases import Leased
from benchmarks.memory import Memory
from benchmarks.peers import ASYNC, ASYNC_PING, PING, SYNC
from benchmarks.series import Series
from benchmarks.throughput import Run
from benchmarks.webhooks import Ingested

TIMES_PING, TIMES_ASYNC_PING, TIMES_TEN_LINES, ROUND_TRIPS = 1.35, 1.5, 1.1, 1.0
FRESH_BYTES, USED_BYTES, RECIPIENT_BYTES = 1024, 2048, 200


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown: text on the left, figures on the right."""
    parts = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return [*(f"| {' | '.join(part)} |" for part in parts), ""]


def _against(value: float, target: float, text: str) -> str:
    return f"**{text} (over)**" if value > target else text


def _micros(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _count(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


Rows = dict[tuple[str, str], dict[int, Series]]


def by_row(series: Sequence[Series]) -> Rows:
    """By server and contender: its series by number of lines."""
    found: Rows = {}
    for one in series:
        found.setdefault((one.server, one.what), {})[one.lines] = one
    return found


def _lines(series: Sequence[Series]) -> list[int]:
    return sorted({one.lines for one in series})


def _heads(series: Sequence[Series]) -> list[str]:
    return [f"{count:,} line{'s' * (count > 1)}" for count in _lines(series)]


def usual_calls(series: Sequence[Series]) -> int:
    """How many calls a row makes that is not too slow for it."""
    return max(len(one.nanos) for one in series)


def decisions(series: Sequence[Series]) -> list[str]:
    """p50 and p99 of each row; how many calls, where they were fewer than the others'."""
    lines, most = _lines(series), usual_calls(series)

    def cell(one: Series | None) -> str:
        if one is None:
            return ""
        few = f" ({len(one.nanos):,} calls)" if len(one.nanos) < most else ""
        return f"{_micros(one.quantile(50))} / {_micros(one.quantile(99))}{few}"

    return table(
        ["p50 / p99, µs", *_heads(series)],
        [
            [f"{server}: {what}", *(cell(found.get(count)) for count in lines)]
            for (server, what), found in by_row(series).items()
        ],
    )


def ratios(series: Sequence[Series]) -> list[str]:
    """sendguard's p50 beside that of its PING, as a ratio and a difference, and of the most lines over that of ten."""
    rows, lines = by_row(series), _lines(series)
    most = lines[-1]
    few = 10 if 10 in lines else lines[0]
    cells = []
    for (server, what), found in rows.items():
        awaited = what.startswith(ASYNC)
        if not what.startswith(SYNC):
            continue
        ping, target = rows[server, ASYNC_PING if awaited else PING], TIMES_ASYNC_PING if awaited else TIMES_PING
        pairs = [(found[count].quantile(50), ping[count].quantile(50)) for count in lines]
        growth = found[most].quantile(50) / found[few].quantile(50)
        cells.append(
            [
                f"{server}: {what} (≤ {target})",
                *(_against(p50 / floor, target, f"{p50 / floor:.2f}, +{p50 - floor:.0f} µs") for p50, floor in pairs),
                _against(growth, TIMES_TEN_LINES, f"{growth:.2f}"),
            ]
        )
    head = ["p50 over its PING's", *_heads(series)]
    return table([*head, f"{most:,} over {few:,} lines (≤ {TIMES_TEN_LINES})"], cells)


def costs(series: Sequence[Series]) -> list[str]:
    """Round trips, commands and the server's own time for each call."""
    lines = _lines(series)

    def cell(one: Series | None) -> str:
        if one is None:
            return ""
        commands, micros = one.per_call()
        wrong = one.what.startswith(SYNC) and (one.sent, commands) != (ROUND_TRIPS, ROUND_TRIPS)
        return _against(float(wrong), 0, f"{_count(one.sent)} / {_count(commands)} / {micros:,.1f}")

    return table(
        ["Round trips / commands / server µs", *_heads(series)],
        [
            [f"{server}: {what}", *(cell(found.get(count)) for count in lines)]
            for (server, what), found in by_row(series).items()
        ],
    )


def throughput(runs: dict[str, list[Run]]) -> list[str]:
    """Decisions a second, and what each costs."""
    return table(
        [
            "Run", "Decisions/s", "× 1 process", "Script µs", "Server CPU µs", "Client CPU µs",
            "Server's share of a core", "Decisions/s that fill a core",
        ],
        [
            [
                f"{server}: {run.name}", f"{run.rate:,.0f}", f"{run.rate / each[0].rate:.2f}", f"{run.script:.1f}",
                f"{run.server:.1f}", "" if run.client is None else f"{run.client:.0f}",
                f"{run.rate * run.server / 1e6:.0%}", f"{1e6 / run.server:,.0f}",
            ]
            for server, each in runs.items()
            for run in each
        ],
    )  # fmt: skip


def leased(found: dict[str, list[Leased]]) -> list[str]:
    """What a decision takes with a lease and without."""
    return table(
        ["Way", "p50 µs", "p90 µs", "p99 µs", "Asked"],
        [
            [
                f"{server}: {one.series.what}", *(_micros(one.series.quantile(q)) for q in (50, 90, 99)),
                f"{one.asked:.2f}",
            ]
            for server, each in found.items()
            for one in each
        ],
    )  # fmt: skip


def ingested(found: dict[str, list[Ingested]]) -> list[str]:
    """Webhooks a second."""
    return table(
        ["Webhook", "Processes", "A second", "Server CPU µs", "Webhooks/s that fill a core"],
        [
            [
                f"{server}: {one.kind}", f"{one.processes}", f"{one.rate:,.0f}", f"{one.server:.0f}",
                f"{1e6 / one.server:,.0f}",
            ]
            for server, each in found.items()
            for one in each
        ],
    )  # fmt: skip


def spread(values: list[float]) -> str:
    """Least, median and greatest of some seconds, in milliseconds."""
    return f"{min(values) * 1000:.2f} / {statistics.median(values) * 1000:.2f} / {max(values) * 1000:.2f}"


def acknowledged(found: dict[str, list[Flag]]) -> list[str]:
    """How the last send that was let through lies to the acknowledgement."""
    what: dict[str, Callable[[list[Flag]], str]] = {
        "Flags": lambda flags: f"{len(flags)}",
        "The webhook's call took, ms": lambda flags: spread([one.took for one in flags]),
        "Last allowed decision was asked for, ms after": lambda flags: spread([one.asked for one in flags]),
        "of these, after the acknowledgement (law 1: 0)": lambda flags: f"{sum(one.asked > 0 for one in flags)}",
        "and its answer came, ms after": lambda flags: spread([one.told for one in flags]),
        "First denied decision was asked for, ms after": lambda flags: spread([one.denied for one in flags]),
        "Decisions asked for after": lambda flags: f"{sum(one.after for one in flags):,}",
        "of these, allowed (law 1: 0)": lambda flags: f"{sum(one.allowed_after for one in flags)}",
    }
    return table(["min / median / max", *found], [[name, *map(read, found.values())] for name, read in what.items()])


def late(found: dict[str, list[Late]]) -> list[str]:
    """How late LiteLLM's Router learns of a cooldown."""
    rows = [
        [
            f"LiteLLM Router, {server}", f"{len(each)}", spread([one.asked for one in each]),
            f"{sum(one.after for one in each):,}", f"{sum(one.chosen_after for one in each):,}",
        ]
        for server, each in found.items()
    ]  # fmt: skip
    head = ["min / median / max", "Cooldowns", "Last choice of it was asked for, ms after", "Choices asked for after"]
    return table([*head, "of these, the cooled-down deployment"], rows)


def bytes_(found: dict[str, Memory]) -> list[str]:
    """What a line and a recipient take."""
    all_ = list(found.values())

    def row(name: str, values: list[float], target: float | None = None) -> list[str]:
        texts = [_against(value, target or float("inf"), f"{value:,.0f}") for value in values]
        return [name, *texts, f"≤ {target:,}" if target else ""]

    return table(
        ["Bytes", *found, "Target"],
        [
            row(f"A fresh line ({memory.FRESH_LINES:,} just observed)", [m.fresh for m in all_], FRESH_BYTES),
            row("of these, its share of the index", [m.fresh_index for m in all_]),
            row("A line with used-up default quotas, record and index", [m.used for m in all_], USED_BYTES),
            row("of these, its record", [m.used_record for m in all_]),
            row("sends that its windows count, at least", [m.volume for m in all_]),
            row("new conversations that its windows count, at least", [m.starts for m in all_]),
            row(f"A recipient at rest ({all_[0].recipients:,} known)", [m.recipient for m in all_], RECIPIENT_BYTES),
            row("Decisions denied during these set-ups", [m.denied for m in all_]),
        ],
    )
