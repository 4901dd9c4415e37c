"""The kinds of decision that are measured, each as a call without arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.setup import recipient
from sendguard import AsyncSendGuard, SendGuard

STICKY_RECIPIENTS = 500
STICKY, NEW, KEYED = "sticky", "new conversation", ", idempotency key"
_fresh_recipients = itertools.count(100_000_000)
_keys = itertools.count()


def decisions(guard: SendGuard | AsyncSendGuard) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is decided, and the call; an `AsyncSendGuard`'s returns what is to be awaited."""
    choose = guard.choose_from_number
    for keyed in (False, True):
        known = itertools.cycle([recipient(i + STICKY_RECIPIENTS * keyed) for i in range(STICKY_RECIPIENTS)])
        fresh = map(recipient, _fresh_recipients)
        for what, people in ((STICKY, known), (NEW, fresh)):

            def plain(people: Iterator[str] = people) -> Any:
                return choose(next(people))

            def with_key(people: Iterator[str] = people) -> Any:
                return choose(next(people), idempotency_key=f"order-{next(_keys)}")

            yield what + KEYED * keyed, with_key if keyed else plain
