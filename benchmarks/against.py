"""How long each contender takes for a decision, all interleaved."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import redis
import redis.asyncio.connection
import redis.connection

from benchmarks.counts_store import count_round_trips
from benchmarks.peers import SYNC, Contender, Place, contenders
from benchmarks.series import Series

LINES = (1, 10, 100, 1_000, 10_000)
_COUNTED_CALLS, _SLOW = 20, 0.01


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    rounds of so many calls of each row; budget: seconds of a round that one row may take, which then makes fewer calls,
    and takes part in fewer rounds if one is too long.
    warm_calls, warm_seconds: before anything is timed, whichever is over first. others: the contenders that are other
    libraries as well.
    """

    lines: tuple[int, ...] = LINES
    rounds: int = 100
    calls: int = 50
    budget: float = 0.25
    warm_calls: int = 1000
    warm_seconds: float = 2.0
    others: bool = True


WHOLE = Plan()
QUICK = Plan(lines=LINES[:-1], rounds=10, budget=0.05, warm_calls=500, warm_seconds=0.5)


@contextmanager
def _all_contenders(urls: dict[str, str], plan: Plan) -> Iterator[list[list[Contender]]]:
    """For each server and number of lines, the contenders there."""
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner()).get_loop()
        places = [Place(server, url, count, loop, stack) for server, url in urls.items() for count in plan.lines]
        yield [list(contenders(place, others=plan.others)) for place in places]


def _series(contender: Contender, client: redis.Redis) -> Series:
    return Series(
        server=contender.server,
        what=contender.name,
        lines=contender.lines,
        call=contender.call,
        client=client,
        commands=contender.commands,
        loop=contender.loop,
    )


def _warm(one: Series, plan: Plan) -> float:
    """Call it until it is warm: scripts loaded, conversations begun. The seconds that a call took in the end."""
    until, nanos = time.monotonic() + plan.warm_seconds, one.repeat(1)
    while len(nanos) < plan.warm_calls and time.monotonic() < until:
        nanos += one.repeat(min(50, plan.warm_calls - len(nanos)) if nanos[-1] < 1_000_000 else 1)
    return statistics.median(nanos[-50:]) / 1e9


def _calls_in(round_: int, seconds: float, plan: Plan) -> int:
    """How often a row is called in a round, if a call takes so many seconds."""
    if seconds > plan.budget:
        return int(round_ % math.ceil(seconds / plan.budget) == 0)
    return min(plan.calls, int(plan.budget / seconds))


def _count_round_trips(one: Series, url: str) -> None:
    """How often a call sends anything.

    What sendguard sends, one command at a time, the server tells; the others' clients are redis-py's, whose pipelines
    send many commands at once.
    """
    calls = min(_COUNTED_CALLS, max(1, len(one.nanos) // 10))
    if one.what.startswith(SYNC):
        one.sent = count_round_trips(url, lambda: one.repeat(calls))["round trips"] / calls
        return
    sent, sync, awaited = 0, redis.connection.AbstractConnection, redis.asyncio.connection.AbstractConnection
    send, send_awaited = sync.send_packed_command, awaited.send_packed_command

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal sent
        sent += 1
        return send(self, *args, **more)

    def counted_awaited(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal sent
        sent += 1
        return send_awaited(self, *args, **more)

    name = "send_packed_command"
    with patch.object(sync, name, counted), patch.object(awaited, name, counted_awaited):
        one.repeat(calls)
    one.sent = sent / calls


def measure(urls: dict[str, str], plan: Plan) -> list[Series]:
    """Every row on every server, in rounds: each round runs them all, in a new order.

    Those of one server and number of lines are neighbours in every round, in a new order too. urls: of running servers,
    by name.
    """
    order = random.Random(1)
    with ExitStack() as stack:
        clients = {server: stack.enter_context(redis.Redis.from_url(url)) for server, url in urls.items()}
        groups = [
            [_series(one, clients[one.server]) for one in group]
            for group in stack.enter_context(_all_contenders(urls, plan))
        ]
        rows = list(itertools.chain.from_iterable(groups))
        seconds = {id(one): _warm(one, plan) for one in rows}
        gc.collect()
        gc.freeze()  # what one contender keeps is not looked through again while another is timed
        for round_ in range(plan.rounds):
            for group in order.sample(groups, len(groups)):
                for one in order.sample(group, len(group)):
                    if count := _calls_in(round_, seconds[id(one)], plan):
                        one.run(count, untimed=int(seconds[id(one)] < _SLOW))
        gc.unfreeze()
        for one in rows:
            _count_round_trips(one, urls[one.server])
    return rows
