"""Ids that are drawn in lots are as unique as those that are drawn one by one: across threads, and after a fork."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor

from sendguard.request import draw_id


def _draw(count: int) -> list[str]:
    return [draw_id() for _ in range(count)]


def test_no_two_threads_draw_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = [text for some in threads.map(_draw, [2_000] * 8) for text in some]
    assert len(set(found)) == len(found) == 16_000
    assert all(re.fullmatch("[0-9a-f]{24}", text) for text in found)


def test_a_forked_process_draws_its_own() -> None:
    draw_id()
    with multiprocessing.get_context("fork").Pool(3) as children:
        theirs = [text for some in children.map(_draw, [50] * 6) for text in some]
    found = [*theirs, *_draw(300)]
    assert len(set(found)) == len(found)
