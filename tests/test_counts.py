"""No regression unseen: counts that noise cannot change do not grow. `benchmarks/counts.py` counts them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

from benchmarks.counts import ALWAYS, LUA, Counted, compare, load
from benchmarks.counts_pools import LINES
from benchmarks.counts_rows import ROWS
from benchmarks.servers import BINARIES, ROOT

DECISIONS = [row.name for row in ROWS if "webhook" not in row.name and "poll" not in row.name]


def test_law_7_no_count_has_grown_and_none_depends_on_the_number_of_lines() -> None:
    # In a process of its own, of Python as it is: what else runs here is not counted, nor what a variable changes.
    command = [sys.executable, "-m", "benchmarks.counts", "--check"]
    environment = {name: os.environ[name] for name in os.environ if name == "PYTHONPATH" or "PYTHON" not in name}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_law_7_a_decision_is_one_round_trip_in_what_is_held_against() -> None:
    before = load()
    assert LINES == (10, 10_000)
    for server in BINARIES:
        assert list(before[server]) == [row.name for row in ROWS]
        for row in DECISIONS:
            counts = before[server][row]
            assert (counts["round trips"], counts["FCALL"]) == (1, 1), f"{server}, {row}"


def test_a_count_that_grows_is_named_with_what_it_was_and_how_to_record_it() -> None:
    before = load()
    now = copy.deepcopy(before)
    now["Redis"]["sticky"]["HGET"] += 1
    now[LUA]["failover"]["instructions"] += 1
    now["Valkey"]["throttled"]["SMEMBERS"] = 1
    verdict = compare(before, now)
    assert len(verdict.grown) == 3
    assert not verdict.shrunk
    text = verdict.text()
    assert f"Redis, sticky, HGET: {before['Redis']['sticky']['HGET']} before" in text
    assert "Valkey, throttled, SMEMBERS: 0 before, 1 now" in text
    assert "make counts" in text


def test_a_count_that_shrinks_is_told_and_fails_nothing() -> None:
    before = load()
    now = copy.deepcopy(before)
    now["Redis"]["sticky"]["bytes sent"] -= 1
    del now["Redis"]["failover"]["ZRANGEBYSCORE"]
    verdict = compare(before, now)
    assert not verdict.grown
    assert len(verdict.shrunk) == 2
    assert "Redis, failover, ZRANGEBYSCORE" in verdict.text()


def test_a_python_that_was_never_counted_is_told_and_the_store_is_still_held_against() -> None:
    before = load()
    known = {name: before[name] for name in ALWAYS}
    verdict = compare(known, {**known, "Python 3.99": {"sticky": {"bytecodes": 1}}})
    assert verdict.unknown == ["Python 3.99"]
    assert not verdict.grown
    assert "Python 3.99" in verdict.text()
    assert compare({}, known).grown, "what was never counted of a store has grown from nothing"


def test_a_count_that_depends_on_the_number_of_lines_is_named() -> None:
    counted = Counted()
    counted.add(LUA, "sticky", {"instructions": 5, "calls": 2})
    counted.add(LUA, "sticky", {"instructions": 7, "calls": 2})
    assert counted.uneven == [f"{LUA}, sticky: 5 and 7 instructions"]
    assert counted.sections[LUA]["sticky"] == {"instructions": 7, "calls": 2}
