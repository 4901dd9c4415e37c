"""Soak and chaos: the core's whole traffic while its store is in trouble: `python -m benchmarks.chaos --seconds 600`.

It prints its result, writes it to its section of `results/chaos.md`, and exits 1 if a law was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.chaos_faults import STAGES, Stage, Trouble
from benchmarks.chaos_laws import GRACE, LAWS, Record, Verdict, centiles, judge_all, late, reasons
from benchmarks.chaos_senders import ChaosJob, Log, run
from benchmarks.servers import surroundings
from sendguard import Policy, Quota, SendGuard, SendGuardError, TokenBucket
from sendguard.simulator import Simulator
from tests.support import SECRET
from tests.test_end_to_end import LINES, PEOPLE, Receiver, flip_something

RESULT = Path(__file__).parent / "results" / "chaos.md"
POOL, TIMEOUT, REFRESH = "chaos", 0.25, 1.0
PROCESSES, THREADS = 3, 3
POLICY = Policy(
    healthy=TokenBucket(60, per=1, burst=20),
    at_risk=TokenBucket(10, per=1, burst=6),
    critical=TokenBucket(1, per=1, burst=1),
    new_conversations=Quota(40, per=8),
    daily_volume=Quota(100, per=8),
    degraded_share=1 / PROCESSES,
    cool_down=0.5,
)
_FLIP_EVERY, _POLL_EVERY, _CALM_AT_END = 0.5, 2.0, 4.0
_RESUME_WITHIN = 5.0


@dataclass(frozen=True)
class Options:
    """What to run. seconds: how long; requests: how many sends are asked for at most, by all senders together."""

    seconds: float = 600
    requests: int = 100_000
    mode: Literal["closed", "degraded"] = "closed"
    on: str = "single"
    seed: int = 1


@dataclass
class Outcome:
    """What came of a run. polls: that succeeded and that failed. acknowledged: webhooks by the status answered."""

    record: Record
    verdict: Verdict
    statuses: Counter[int]
    polls: Counter[str]
    unreported: int
    durable_kills: int
    before: int
    where: list[str]

    @property
    def broken(self) -> bool:
        return any(self.verdict.broken.values())


@contextlib.contextmanager
def repeating(step: Callable[[], None], every: float) -> Iterator[None]:
    """Do something again and again in a thread of its own."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(every):
            step()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def jobs(stage: Stage, simulator: Simulator, policy: Policy, options: Options) -> list[list[ChaosJob]]:
    """For each process, the jobs of its threads."""
    senders, until = PROCESSES * THREADS, time.time() + options.seconds
    all_jobs = [
        ChaosJob(
            store=stage.url,
            pool=POOL,
            policy=policy,
            base_url=simulator.base_url,
            api_key=simulator.api_key,
            name=f"{options.seed}-{i}",
            chats=0,
            memos=0,
            recipients=tuple(PEOPLE[100:][i::senders]),
            shared=tuple(PEOPLE[:100]),
            lines=tuple(LINES),
            patience=6.0,
            process=f"process {i % PROCESSES}",
            timeout=TIMEOUT,
            refresh=REFRESH,
            until=until,
            requests=options.requests // senders,
        )
        for i in range(senders)
    ]
    return [all_jobs[i::PROCESSES] for i in range(PROCESSES)]


def make_trouble(stage: Stage, dice: random.Random, until: float, going: Callable[[], bool]) -> list[Trouble]:
    """One fault after the other, with calm between them, until the time is over or nobody sends any more."""
    done: list[Trouble] = []
    bag: list[str] = []
    while going():
        calm = dice.uniform(0.3, 1.5) if dice.random() < 0.3 else dice.uniform(2.0, 5.0)
        if time.time() + calm + 3 > until - _CALM_AT_END:
            break
        time.sleep(calm)
        bag = [kind for kind in bag if kind in stage.kinds()]
        if not bag:  # each kind comes once before any comes again
            bag = list(stage.kinds())
            dice.shuffle(bag)
        done.append(stage.trouble(bag.pop()))
    return done


def soak(options: Options) -> Outcome:
    """Run it, and judge."""
    dice = random.Random(options.seed)
    policy = replace(POLICY, on_store_error=options.mode)
    where = surroundings([])[:-1]
    polls: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendguard-chaos-")))
        simulator = stack.enter_context(Simulator(LINES, webhook_secret=SECRET, seed=options.seed))
        stage: Stage = STAGES[options.on](POOL, random.Random(dice.random()), folder)
        stack.callback(stage.close)
        about = stage.server.info("server")
        where.append(f"Store: Valkey {about['valkey_version']}")
        guard = SendGuard(
            stage.url,
            pool=POOL,
            policy=policy,
            webhook_secret=SECRET,
            timeout=TIMEOUT,
            refresh=REFRESH,
            api_key=simulator.api_key,
            api_base_url=simulator.base_url,
        )
        stack.callback(guard.close)
        before = sum(guard.decide(to).allowed for to in PEOPLE[:50])
        receiver = Receiver(guard)
        stack.callback(receiver.close)
        simulator.subscribe(receiver.url, events=["phone_number.status_updated", "message.received", "message.failed"])
        delivery = simulator.delivery
        delivery.duplicate, delivery.delay, delivery.reorder, delivery.reorder_hold = 0.2, (0.0, 0.1), 0.2, 0.2
        delivery.retry_scale = 0.05
        guard.sync_lines()

        def poll() -> None:
            try:
                guard.sync_lines()
                polls["succeeded"] += 1
            except SendGuardError:
                polls["failed"] += 1

        workers = stack.enter_context(multiprocessing.get_context("spawn").Pool(PROCESSES))
        until = time.time() + options.seconds
        running = [workers.apply_async(run, (some,)) for some in jobs(stage, simulator, policy, options)]
        flips = random.Random(dice.random())
        with repeating(lambda: flip_something(simulator, flips), _FLIP_EVERY), repeating(poll, _POLL_EVERY):
            going = lambda: not all(job.ready() for job in running)  # noqa: E731
            troubles = make_trouble(stage, dice, until, going)
            logs: list[Log] = [job.get(max(0.0, until - time.time()) + 60) for job in running]
        assert simulator.drain(60), "webhooks are still outstanding"
        record = Record(
            policy=policy,
            timeout=TIMEOUT,
            refresh=REFRESH,
            resume_within=_RESUME_WITHIN,
            troubles=troubles,
            answers=[answer for log in logs for answer in log.answers],
            sent=[sent for log in logs for sent in log.sent],
            sends=simulator.sends,
            events=simulator.events,
            deliveries=simulator.deliveries,
        )
    verdict = judge_all(record)
    if before:
        verdict.broken["9 empty"].append(f"{before} decisions allowed in a pool of which nobody had told")
    return Outcome(
        record,
        verdict,
        Counter(receiver.answers),
        polls,
        sum(log.unreported for log in logs),
        sum(trouble.lost is None for trouble in troubles if trouble.kind.startswith("kill")),
        before,
        where,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)] + [
        f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |" for row in rows
    ] + [""]  # fmt: skip


def _calls(outcome: Outcome) -> str:
    record = outcome.record
    found = ", ".join(
        f"{name} {1000 * value:,.1f} ms" for name, value in centiles([a.seconds for a in record.answers]).items()
    )
    tardy = late(record)
    stalled = sum(answer.seconds - answer.stalled <= record.timeout + GRACE for answer in tardy)
    return (
        f"Calls: {found}. Over {1000 * (record.timeout + GRACE):.0f} ms: {len(tardy):,} of {len(record.answers):,}, of "
        f"which in {stalled:,} their process itself was kept from running for what is above it."
    )


def _per_second(outcome: Outcome) -> str:
    resumed = outcome.verdict.resumed
    if not resumed:
        return "No decision was allowed between two faults."
    return (
        f"Decisions were allowed again {sorted(resumed)[len(resumed) // 2]:.2f} s after the end of a fault (median), "
        f"{max(resumed):.2f} s at most."
    )


def report(options: Options, outcome: Outcome) -> str:
    """The result as Markdown, below a heading that names the run."""
    record, verdict = outcome.record, outcome.verdict
    kinds = Counter(trouble.kind for trouble in record.troubles)
    lost = Counter(trouble.kind for trouble in record.troubles if trouble.lost)
    accepted = sum(send.accepted for send in record.sends)
    flagged = sum(event.data.get("new_status") == "FLAGGED" for event in record.events)
    load = os.getloadavg()
    rows = [[f"{law}: {said}", len(verdict.broken[law])] for law, said in LAWS.items()]
    return "\n".join(
        [
            f"## {options.on}, {options.mode}",
            "",
            *(f"- {item}" for item in outcome.where),
            f"- `python -m benchmarks.chaos --seconds {options.seconds:g} --mode {options.mode} --on {options.on} "
            f"--seed {options.seed}`; load average at the end {load[0]:.1f}",
            f"- {PROCESSES} processes with {THREADS} threads each, `timeout={TIMEOUT}`, `refresh={REFRESH}`",
            f"- {len(record.answers):,} decisions; {len(record.sends):,} sends reached the API, {accepted:,} were "
            f"accepted; {verdict.judged:,} of those were judged for pace, the others were asked for during a loss",
            f"- {flagged:,} flips to FLAGGED; webhooks answered "
            + ", ".join(f"{status}: {count:,}" for status, count in sorted(outcome.statuses.items()))
            + "; polls "
            + ", ".join(f"{name}: {count:,}" for name, count in sorted(outcome.polls.items())),
            "",
            *_table(["Fault", "Times", "Memory lost"], [[kind, kinds[kind], lost[kind]] for kind in sorted(kinds)]),
            *_table(["Law", "Violations"], rows),
            f"Let pass, as `docs/outages.md` says: {verdict.young:,} sends on a line whose flag the store lost less "
            f"than a look (`refresh`) after it was told of it; {verdict.blind:,} sends of a process without the store "
            "on a line flagged since its last look.",
            "",
            _calls(outcome),
            "",
            _per_second(outcome),
            "",
            *_table(["Answer", "Times"], [[name.value, count] for name, count in reasons(record.answers).items()]),
        ]
    )


def write(section: str, path: Path = RESULT) -> None:
    """Put a run's section into the file, in the place of the last one of its kind."""
    text = path.read_text("utf-8") if path.exists() else "# Soak and chaos\n"
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    title = section.splitlines()[0]
    kept = [each for each in sections if each.splitlines()[0] != title]
    path.write_text(
        "\n".join([head.strip() + "\n", *sorted(each.strip() + "\n" for each in [*kept, section])]), "utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as told, print, write. 1 if a law was broken."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--requests", type=int, default=default.requests)
    parser.add_argument("--mode", choices=["closed", "degraded"], default=default.mode)
    parser.add_argument("--on", choices=list(STAGES), default=default.on)
    parser.add_argument("--seed", type=int, default=default.seed)
    logging.getLogger("sendguard").setLevel(logging.CRITICAL)  # each denial without a store is one line
    options = Options(**vars(parser.parse_args(arguments)))
    outcome = soak(options)
    section = report(options, outcome)
    write(section)
    print(section)
    for law, texts in outcome.verdict.broken.items():
        for text in texts[:20]:
            print(f"law {law}: {text}")
    return int(outcome.broken)


if __name__ == "__main__":
    raise SystemExit(main())
