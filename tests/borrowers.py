"""Guards that borrow: what they hold, and processes of them that send, stand still and die as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sendguard import AsyncSendGuard, Decision, Lease, Policy, SendGuard
from sendguard.request import Request
from sendguard.steps import Wait
from tests.support import SECRET, ManualClock, iso, payload, standard_headers, wait_until

NOW = 1_771_000_000.0
LOOSE = Policy(pair=None, daily_volume=None, on_flagged="hold")
"""Nothing but a line's standing is in a send's way, and a conversation does not move."""


def loans_of(guard: Any) -> Any:
    lending = guard._flows.lending
    assert lending is not None
    return lending.loans


def held(guard: Any, to: Any = None) -> int:
    """How many sends a guard may decide by itself now: of one conversation, or of all."""
    loans = loans_of(guard)
    if to is None:
        return sum(loan.left for loan in loans._loans.values())
    request = Request.of(to, "chat", None, (), None, None)
    loan = loans._loans.get(guard._flows.protocol.conversation(request))
    return 0 if loan is None else int(loan.left)


def watch(guard: Any) -> list[Decision]:
    """The decisions that a guard makes in memory from now on."""
    found: list[Decision] = []
    loans = loans_of(guard)
    decide = loans.decide

    def watched(*args: Any) -> Decision | None:
        decision: Decision | None = decide(*args)
        if decision is not None:
            found.append(decision)
        return decision

    loans.decide = watched
    return found


def listening(guard: SendGuard) -> SendGuard:
    """A guard, once it hears what is called back."""
    guard.lines()
    wait_until(lambda: loans_of(guard).hears)
    return guard


def borrow(guard: SendGuard, to: Any) -> int:
    """Have a guard borrow sends of a conversation; returns how many it holds."""
    listening(guard)
    while not held(guard, to):
        decision = guard.decide(to)
        assert decision.allowed, decision
    return held(guard, to)


async def borrow_async(guard: AsyncSendGuard, to: Any) -> int:
    """As `borrow`."""
    await guard.lines()
    while not loans_of(guard).hears:
        await asyncio.sleep(0.005)
    while not held(guard, to):
        decision = await guard.decide(to)
        assert decision.allowed, decision
    return held(guard, to)


def hold_listener(guard: SendGuard) -> Callable[[], None]:
    """Keep a guard's listener from listening, as a thread that is not given the processor. Returns what lets it go on.

    What it heard before, and what it holds, stays as it is.
    """
    lending: Any = guard._flows.lending
    let_go, held_up = [False], [False]

    def stand_still() -> Any:
        held_up[0] = True
        if not let_go[0]:
            yield Wait(0.005)
            return 0.0
        del lending.listen
        return (yield from lending.listen())

    lending.listen = stand_still
    wait_until(lambda: held_up[0])

    def go_on() -> None:
        let_go[0] = True

    return go_on


def status_webhook(number: str, status: str, event_id: str, at: float | None = None) -> tuple[bytes, dict[str, str]]:
    """A signed webhook by which a line has a status."""
    now = time.time() if at is None else at
    content = payload("status_updated.status_only")
    content["event_id"] = event_id
    content["data"] |= {"phone_number": number, "new_status": status, "changed_at": iso(now)}
    body = json.dumps(content).encode()
    return body, standard_headers(body, now)


def inbound_webhook(number: str, sender: str, text: str, event_id: str, at: float) -> tuple[bytes, dict[str, str]]:
    """A signed webhook by which somebody wrote to a line."""
    content = payload("message.received.stop")
    content["event_id"] = event_id
    content["data"]["id"] = event_id
    content["data"]["chat"]["id"] = f"chat-{number}-{sender}"
    content["data"]["chat"]["owner_handle"]["handle"] = number
    content["data"]["sender_handle"]["handle"] = sender
    content["data"]["parts"][0]["value"] = text
    content["data"]["sent_at"] = iso(at)
    body = json.dumps(content).encode()
    return body, standard_headers(body, at)


# Processes -----------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What a borrower was allowed, by the system's one monotonic clock: when it asked and when it knew."""

    times: list[tuple[float, float]] = field(default_factory=list)
    lent: int = 0


@dataclass
class Hammer:
    """A process that sends in one conversation until it is stopped. allowed, denied: how many so far."""

    process: Any
    pipe: Any
    allowed: Any
    denied: Any
    stop: Any

    def ended(self) -> Sent:
        self.stop.set()
        assert self.pipe.poll(30)
        sent: Sent = self.pipe.recv()
        self.process.join(30)
        return sent


def _note(sent: Sent, asked: float, decision: Decision, allowed: Any, denied: Any) -> None:
    if decision.allowed:
        sent.times.append((asked, time.monotonic()))
        allowed.value += 1
    else:
        denied.value += 1


def _hammer(url: str, pool: str, ttl: float, to: str, pipe: Any, allowed: Any, denied: Any, stop: Any) -> None:
    sent = Sent()
    with SendGuard(url, pool=pool, policy=LOOSE, lease=Lease(ttl=ttl), timeout=10, record_decisions=False) as guard:
        lent = watch(guard)
        listening(guard)
        while not stop.is_set():
            for _ in range(20):
                asked = time.monotonic()
                _note(sent, asked, guard.decide(to), allowed, denied)
        sent.lent = len(lent)
    pipe.send(sent)


def _hammer_async(url: str, pool: str, ttl: float, to: str, pipe: Any, allowed: Any, denied: Any, stop: Any) -> None:
    async def run() -> None:
        lease = Lease(ttl=ttl)
        async with AsyncSendGuard(
            url, pool=pool, policy=LOOSE, lease=lease, timeout=10, record_decisions=False
        ) as guard:
            lent = watch(guard)
            await guard.lines()
            while not stop.is_set():
                for _ in range(20):
                    asked = time.monotonic()
                    _note(sent, asked, await guard.decide(to), allowed, denied)
                await asyncio.sleep(0)
            sent.lent = len(lent)

    sent = Sent()
    asyncio.run(run())
    pipe.send(sent)


_CONTEXT = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def hammers(url: str, pool: str, ttl: float, to: str, kinds: str) -> Iterator[list[Hammer]]:
    """Processes that send in one conversation, one for each letter of `kinds`: s by SendGuard, a by AsyncSendGuard."""
    made = []
    for kind in kinds:
        here, there = _CONTEXT.Pipe()
        allowed, denied, stop = _CONTEXT.Value("Q", 0), _CONTEXT.Value("Q", 0), _CONTEXT.Event()
        process = _CONTEXT.Process(
            target=_hammer if kind == "s" else _hammer_async,
            args=(url, pool, ttl, to, there, allowed, denied, stop),
            daemon=True,
        )
        process.start()
        made.append(Hammer(process, here, allowed, denied, stop))
    try:
        yield made
    finally:
        for each in made:
            each.process.kill()
            each.process.join()


@dataclass
class Borrower:
    """A process that does one thing at a time, as it is told."""

    process: Any
    pipe: Any

    def ask(self, *what: Any) -> None:
        self.pipe.send(what)

    def answer(self) -> Any:
        assert self.pipe.poll(30), "the borrower does not answer"
        return self.pipe.recv()

    def do(self, *what: Any) -> Any:
        self.ask(*what)
        return self.answer()

    def stand_still(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        wait_until(lambda: _state(self.process.pid) == "T")

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def die(self) -> None:
        self.process.kill()
        self.process.join()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def _obey(url: str, pool: str, options: dict[str, Any], now: float | None, pipe: Any) -> None:
    clock = None if now is None else ManualClock(now)
    with SendGuard(url, pool=pool, clock=clock, timeout=10, **options) as guard:
        lent = watch(guard)
        listening(guard)
        pipe.send("ready")
        while True:
            what, *args = pipe.recv()
            if what == "borrow":
                pipe.send(borrow(guard, *args))
            elif what == "decide":
                before = len(lent)
                decision = guard.decide(*args)
                pipe.send((decision, len(lent) > before))


@contextlib.contextmanager
def borrower(url: str, pool: str, *, now: float | None = None, **options: Any) -> Iterator[Borrower]:
    """A process that borrows as it is told. now: what its clock says all the time."""
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_obey, args=(url, pool, options, now, there), daemon=True)
    process.start()
    made = Borrower(process, here)
    try:
        assert made.answer() == "ready"
        yield made
    finally:
        process.kill()
        process.join()


def signed(guard: SendGuard, number: str, status: str, event_id: str, at: float | None = None) -> float:
    """Have a guard take a webhook; the moment, by `time.monotonic`, at which it had."""
    guard.handle_webhook(*status_webhook(number, status, event_id, at))
    return time.monotonic()


SIGNED = SECRET
"""The secret of these webhooks."""
