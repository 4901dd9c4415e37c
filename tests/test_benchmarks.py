"""The benchmark runs, and its tables have every row; what it measures is not judged here."""

from __future__ import annotations

import pytest

from benchmarks import acknowledged, against, tables
from benchmarks.against import Plan
from benchmarks.peers import ASYNC, ASYNC_PING, EMPTY, HANDWRITTEN, KINDS, LABELS, PING, SYNC
from benchmarks.series import Series
from benchmarks.servers import serve

TINY = Plan(lines=(1, 10), rounds=2, calls=3, warm_calls=3, others=False)
GUARDS = [f"{way}: {kind}{LABELS[mode]}" for way in (SYNC, ASYNC) for mode, kinds in KINDS.items() for kind in kinds]
ROWS = [PING, EMPTY, ASYNC_PING, HANDWRITTEN, *GUARDS]


@pytest.fixture(scope="module")
def series() -> list[Series]:
    with serve("Valkey") as url:
        return against.measure({"Valkey": url}, TINY)


def test_every_contender_is_measured_and_stands_in_the_tables(series: list[Series]) -> None:
    assert {(one.what, one.lines) for one in series} == {(row, count) for row in ROWS for count in TINY.lines}
    assert {len(one.nanos) for one in series} == {TINY.rounds * TINY.calls}
    for table, rows in (
        (tables.decisions(series), ROWS),
        (tables.costs(series), ROWS),
        (tables.ratios(series), [row for row in ROWS if row.startswith(SYNC)]),
    ):
        assert sorted(row.split(" (≤")[0].split(" |")[0] for row in table[2:-1]) == sorted(
            f"| Valkey: {row}" for row in rows
        )


def test_a_decision_is_one_round_trip_and_one_script(series: list[Series]) -> None:
    for one in series:
        if one.what.startswith(SYNC):
            assert (one.sent, one.per_call()[0]) == (1, 1), one.what


def test_the_hand_written_guard_reads_every_line_and_takes_a_token(series: list[Series]) -> None:
    found = {one.lines: (one.sent, one.per_call()[0]) for one in series if one.what == HANDWRITTEN}
    assert found == {count: (2, count + 1) for count in TINY.lines}


def test_no_decision_asked_for_after_the_acknowledgement_is_allowed() -> None:
    """Law 1: once `handle_webhook` returned, no process is given a FLAGGED line."""
    with serve("Valkey") as url:
        flags = acknowledged.measure(url, flags=3, processes=2)
    assert [(flag.asked <= 0, flag.allowed_after) for flag in flags] == [(True, 0)] * 3
    assert sum(flag.after for flag in flags), "nobody asked afterwards"


def test_a_slow_row_makes_fewer_calls_and_none_makes_none() -> None:
    plan = Plan(rounds=10, calls=50, budget=0.1)
    for seconds, calls in ((0.0001, 500), (0.01, 100), (0.1, 10), (0.5, 2), (5.0, 1)):
        assert sum(against._calls_in(i, seconds, plan) for i in range(plan.rounds)) == calls
