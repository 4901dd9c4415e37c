"""Counts what noise cannot change, and holds it against what was counted before.

`python -m benchmarks.counts --check` fails if a count has grown beyond `results/counts.json`; `python -m
benchmarks.counts` (`make counts`) writes that file anew, after a change that is meant. Counted is, for one call of each
kind: round trips, bytes and commands, on Valkey and on Redis, and instructions, calls and bytes allocated in Lua, each
with 10 lines and with 10,000; and bytecodes, calls and allocations in Python, of the sync guard and of the async one.

Python's counts differ from version to version. Where the file has none for the Python that runs, or, for the code of
other packages, for these very versions, they are not compared, and it says so; the others always are.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.counts_lua import count_instructions
from benchmarks.counts_pools import LINES, Async, Pools, Sync, pools
from benchmarks.counts_python import PYTHON, count_work, surroundings
from benchmarks.counts_rows import ROWS, Row
from benchmarks.counts_store import Counts, count_commands
from benchmarks.servers import BINARIES, serve

BASELINE = Path(__file__).parent / "results" / "counts.json"
LUA = "Lua 5.1"
ALWAYS = (*BINARIES, LUA)
"""The sections that do not depend on the Python that runs."""

Sections = dict[str, dict[str, Counts]]
"""Section, row, count."""


@dataclass
class Counted:
    """What was counted. uneven: what differs between 10 lines and 10,000."""

    sections: Sections = field(default_factory=dict)
    uneven: list[str] = field(default_factory=list)

    def add(self, section: str, row: str, counts: Counts) -> None:
        """Note counts; of a row that was counted before, in a pool of another size, those that are more."""
        rows = self.sections.setdefault(section, {})
        before = rows.setdefault(row, counts)
        for name in sorted({*before, *counts}):
            one, other = before.get(name, 0), counts.get(name, 0)
            if one != other:
                self.uneven.append(f"{section}, {row}: {one} and {other} {name}")
            before[name] = max(one, other)


def measure(order: random.Random | None = None) -> Counted:
    """Count every row. order: by which they are shuffled, to see that none depends on another."""
    counted = Counted()
    rows = list(ROWS)
    for kind in BINARIES:
        with serve(kind) as url, pools(url) as made:
            if order is not None:
                order.shuffle(rows)
            for row in rows:
                _count(counted, kind, made, row)
    return counted


def _count(counted: Counted, kind: str, made: Pools, row: Row) -> None:
    for lines in LINES:
        counted.add(kind, row.name, count_commands(made, row, lines))
    if kind != next(iter(BINARIES)):
        return
    for lines in LINES:
        counted.add(LUA, row.name, count_instructions(made, row, lines))
    for guard, name in ((Sync, row.name), (Async, f"{row.name}, async")):
        own, total = count_work(made, row, guard)
        counted.add(PYTHON, name, own)
        counted.add(surroundings(), name, total)


@dataclass
class Verdict:
    """How counts compare with those of before. grown: what fails. shrunk: what may be recorded anew."""

    grown: list[str] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def text(self) -> str:
        """What to tell of it."""
        told = [f"not compared, as there is nothing to compare with: {section}" for section in self.unknown]
        if not self.grown:
            told.append("No count has grown.")
        if self.shrunk:
            told += [f"less than before, which `make counts` would keep so ({len(self.shrunk)}):", *self.shrunk]
        if self.grown:
            told += [
                f"more than before ({len(self.grown)}):",
                *self.grown,
                "If that is meant: `make counts` records it anew, in benchmarks/results/counts.json.",
            ]
        return "\n".join(told)


def compare(before: Sections, now: Sections) -> Verdict:
    """Hold counts against those of before. What was never counted before has grown from nothing."""
    verdict = Verdict()
    for section, rows in now.items():
        if section not in before and section not in ALWAYS:
            verdict.unknown.append(section)
            continue
        for place, old, new in _pairs(before.get(section, {}), rows):
            if old != new:
                text = f"  {section}, {place}: {old} before, {new} now"
                (verdict.grown if new > old else verdict.shrunk).append(text)
    return verdict


def _pairs(before: dict[str, Counts], now: dict[str, Counts]) -> Iterator[tuple[str, int, int]]:
    for row in dict.fromkeys((*now, *before)):
        old, new = before.get(row, {}), now.get(row, {})
        for name in dict.fromkeys((*new, *old)):
            yield f"{row}, {name}", old.get(name, 0), new.get(name, 0)


def load() -> Sections:
    """What was counted before."""
    found: Sections = json.loads(BASELINE.read_text("utf-8")) if BASELINE.exists() else {}
    return found


def record(now: Sections) -> None:
    """Write what was counted. What other versions of Python counted stays; of other packages, only these versions."""
    kept = {name: rows for name, rows in load().items() if name.startswith("Python ") and name not in now}
    names = sorted({*kept, *now}, key=lambda name: (name not in ALWAYS, name.startswith("CPython"), name))
    rows = [row.name for row in ROWS]
    text = json.dumps({name: _sorted({**kept, **now}[name], rows) for name in names}, indent=1)
    BASELINE.write_text(text + "\n", "utf-8")


def _sorted(counts: dict[str, Counts], rows: list[str]) -> dict[str, Counts]:
    """Rows as they stand in the source, whatever the order in which they were counted."""
    order = [name for row in rows for name in (row, f"{row}, async")]
    return {name: counts[name] for name in order if name in counts}


def main(arguments: list[str] | None = None) -> int:
    """Count, and record or compare. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="count the rows in another order")
    options = parser.parse_args(arguments)
    logger = logging.getLogger("sendguard")  # what it tells is put together, and goes nowhere
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    counted = measure(None if options.shuffle is None else random.Random(options.shuffle))
    verdict = compare(load(), counted.sections)
    print(verdict.text())
    if counted.uneven:
        print("not the same for 10 lines and for 10,000:", *counted.uneven, sep="\n  ")
    if options.check:
        return 1 if verdict.grown or counted.uneven else 0
    record(counted.sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
