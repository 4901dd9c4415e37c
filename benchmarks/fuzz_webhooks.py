"""Fuzzes webhooks for long: `python -m benchmarks.fuzz_webhooks`, which writes `results/fuzz.md`.

The deliveries and what is asserted of each are those of `tests/test_fuzz_webhooks.py`. Where the package `atheris` is
installed (nothing needs it), a second part lets it choose the inputs by what they reach in `sendguard.linq`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from benchmarks.servers import serve, surroundings, version
from sendguard.linq import fields, payloads, webhooks
from tests import hostile
from tests.bombarded import Bombarded

RESULT = Path(__file__).parent / "results" / "fuzz.md"
_KINDS = {
    "forged": ("made without the secret", hostile.forgeries),
    "signed": ("signed, hostile content; some tampered with", hostile.signed),
}
_A_ROUND = 10_000
_KEPT_EVERY = 500


@dataclass
class Account:
    """What became of the deliveries of one kind. seconds: that they took."""

    outcomes: Counter[str] = field(default_factory=Counter)
    distinct: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())


def _test(kind: str, take: Callable[[hostile.Delivery], None], examples: int, number: int) -> Any:
    """A Hypothesis test of so many examples. number: its seed."""

    @seed(number)
    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_KINDS[kind][1])
    def deliver(delivery: hostile.Delivery) -> None:
        assert kind == "signed" or not hostile.may_be_authentic(delivery)
        take(delivery)

    return deliver


def _fuzz(url: str, count: int, seconds: float, first_seed: int) -> dict[str, Account]:
    """Rounds of each kind in turn, until there are `count` different inputs in all or the time is up."""
    accounts = {kind: Account() for kind in _KINDS}
    until = time.monotonic() + seconds
    with Bombarded(url, "forged") as forged, Bombarded(url.replace("/0", "/1"), "signed") as signed:
        pools, number = {"forged": forged, "signed": signed}, first_seed
        while sum(each.distinct for each in accounts.values()) < count and time.monotonic() < until:
            for kind, account in accounts.items():
                begun = time.monotonic()
                _test(kind, pools[kind].take, _A_ROUND, number)()
                account.seconds += time.monotonic() - begun
                account.outcomes, account.distinct = pools[kind].outcomes, len(pools[kind].deliveries)
            number += 1
            done = sum(each.distinct for each in accounts.values())
            print(f"{done:,} different inputs, {until - time.monotonic():.0f} s left", file=sys.stderr)
        signed.heal()
    return accounts


# Guided by coverage --------------------------------------------------------------------------------------------------


def _guided_child(kind: str, url: str, file: Path, seconds: int) -> None:
    """Runs in a process of its own, which libFuzzer ends; the account is kept in a file now and then."""
    import atheris  # type: ignore[import-untyped]

    for module in (fields, payloads, webhooks):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    pool = Bombarded(url, kind)

    def take(delivery: hostile.Delivery) -> None:
        pool.take(delivery)
        if sum(pool.outcomes.values()) % _KEPT_EVERY == 0:
            file.write_text(json.dumps([pool.outcomes, len(pool.deliveries)]), "utf-8")

    fuzz_one_input: Any = _test(kind, take, 1, 0).hypothesis.fuzz_one_input
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-verbosity=0"], fuzz_one_input)
    atheris.Fuzz()


def _guided(seconds: float) -> dict[str, Account]:
    """Each kind for half of the time, with inputs that atheris chooses."""
    accounts = {}
    with serve("Valkey") as url, tempfile.TemporaryDirectory() as folder:
        for kind in _KINDS:
            file = Path(folder) / f"{kind}.json"
            command = [sys.executable, "-m", "benchmarks.fuzz_webhooks", "--guided-child", kind, url, str(file)]
            begun = time.monotonic()
            done = subprocess.run(
                [*command, "--seconds", str(int(seconds / 2))], cwd=folder, env=_with_path(), check=False
            )
            if done.returncode:
                raise SystemExit(f"the run guided by coverage failed with code {done.returncode}")
            outcomes, distinct = json.loads(file.read_text("utf-8"))
            accounts[kind] = Account(Counter(outcomes), distinct, time.monotonic() - begun)
    return accounts


def _with_path() -> dict[str, str]:
    """The environment, with this tree first on the path."""
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


# The report ----------------------------------------------------------------------------------------------------------


def _table(accounts: dict[str, Account]) -> list[str]:
    rows = ["| Deliveries | Inputs | Different | A second |", "|---|--:|--:|--:|"]
    rows += [
        f"| {_KINDS[kind][0]} | {each.total:,} | {each.distinct:,} | {each.total / max(each.seconds, 1e-9):,.0f} |"
        for kind, each in accounts.items()
    ]
    rows += ["", "| Outcome | " + " | ".join(accounts) + " |", "|---|" + "--:|" * len(accounts)]
    every = sum((each.outcomes for each in accounts.values()), Counter[str]())
    rows += [
        f"| {outcome} | " + " | ".join(f"{each.outcomes[outcome]:,}" for each in accounts.values()) + " |"
        for outcome, _ in every.most_common()
    ]
    return rows


def _report(found: dict[str, Account], guided: dict[str, Account] | None, where: list[str], seeds: str) -> str:
    accounts = [*found.values(), *(guided or {}).values()]
    total, distinct = sum(each.total for each in accounts), sum(each.distinct for each in accounts)
    lines = [
        "# Webhooks, fuzzed",
        "",
        *(f"- {item}" for item in where),
        f"- `python -m benchmarks.fuzz_webhooks`, seeds {seeds}",
        "",
        f"{total:,} deliveries, {distinct:,} of them different, to guards on a real store. None raised anything but "
        "`WebhookRejected`; none that was "
        "rejected, and none that nobody signed, changed a key, a value or an expiry of the pool; after each that was "
        "accepted the lines were read and a decision was made; and every 400 the pool was healed by newer news.",
        "",
        "## By Hypothesis",
        "",
        *_table(found),
        "",
    ]
    if guided is not None:
        lines += ["## Guided by coverage of `sendguard.linq` (atheris)", "", *_table(guided), ""]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_webhooks", description="Hostile webhooks.")
    parser.add_argument("--count", type=int, default=100_000, help="different inputs of Hypothesis (100,000)")
    parser.add_argument("--seconds", type=float, default=1200, help="seconds for them at most (1200)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round (the time)")
    parser.add_argument("--guided", type=float, default=120, help="seconds for atheris, if it is installed (120)")
    parser.add_argument("--guided-child", nargs=3, metavar=("KIND", "URL", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Fuzz, print, write. Exit code 1 if any input did what none may."""
    logging.disable()
    given = _arguments()
    if given.guided_child:
        kind, url, file = given.guided_child
        return _guided_child(kind, url, Path(file), int(given.seconds))
    with serve("Valkey") as url:
        where = surroundings([version(url)])
        found = _fuzz(url, given.count, given.seconds, given.seed)
    guided = _guided(given.guided) if find_spec("atheris") and given.guided else None
    rounds = max(each.total for each in found.values()) // _A_ROUND
    text = _report(found, guided, where, f"{given.seed} to {given.seed + rounds - 1}")
    RESULT.write_text(text, "utf-8")
    print(text)
    return None


if __name__ == "__main__":
    main()
