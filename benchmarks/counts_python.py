"""What one call costs in this process: bytecodes, calls and allocations, in the library's own code and in all.

Of its own code the counts depend on the version of Python alone. What it calls, an event loop or a client, differs with
every version of those, and is counted by itself.
"""

from __future__ import annotations

import gc
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import sendguard
from benchmarks.counts_pools import LINES, Async, Pools, Sync
from benchmarks.counts_rows import Row
from benchmarks.counts_store import Counts, least

PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"
_OWN = str(Path(sendguard.__file__).parent)
_WARM_UP, _REPEATS = 3, 6
_PACKAGES = ("redis", "hiredis", "pydantic", "standardwebhooks")

Call = Callable[[], Any]


def surroundings() -> str:
    """All that the counts of other people's code depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{platform.python_implementation()} {platform.python_version()}, {packages}"


@contextmanager
def _standing_clock() -> Iterator[None]:
    """No deadline comes nearer, however long the machine takes: what is done about that is not counted."""
    real = time.monotonic
    standing = real().conjugate  # a function in C, as the clock is, and always the same
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("time", "sendguard")]
    places = [(module, name) for module in modules for name, value in vars(module).items() if value is real]
    for module, name in places:
        setattr(module, name, standing)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, real)


def count_calls(call: Call) -> tuple[Counts, Counts]:
    """Calls made by the library's own code, and all calls. Those of functions in C count."""
    own, total = 0, 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal own, total
        caller = frame if event == "c_call" else frame.f_back if event == "call" else None
        if caller is not None:
            total += 1
            own += caller.f_code.co_filename.startswith(_OWN)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {"calls": own}, {"calls": total}


def count_bytecodes(call: Call) -> Counts:
    """Bytecodes of the library's own code that ran, and the memory blocks that they came to hold, each for itself.

    One that calls functions of others, written in Python, counts without what those left held.
    """
    bytecodes, allocations, last, strange = 0, 0, 0, False
    blocks = sys.getallocatedblocks

    def step(_: FrameType, event: str, __: Any) -> Any:
        nonlocal bytecodes, allocations, last, strange
        if event == "opcode":
            bytecodes += 1
            held = blocks()
            allocations += 0 if strange else max(0, held - last)
            last, strange = held, False
        return step

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        nonlocal strange
        if not frame.f_code.co_filename.startswith(_OWN):
            strange = True
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    gc.collect()  # which empties what Python keeps for reuse, too: what is taken from there would not count
    last = blocks()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(None)
    return {"bytecodes": bytecodes, "allocations": allocations}


def count_peak(call: Call) -> Counts:
    """The most memory that a call holds at a time."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"peak bytes": peak - before}


def count_work(pools: Pools, row: Row, kind: type[Sync] | type[Async]) -> tuple[Counts, Counts]:
    """What one call costs in the library's own code, and in all. kind: of guard."""
    do = kind(pools.url, row)

    def ready() -> Call:
        pools.renew(LINES[0])
        return do.call(row.prepare(do))

    gc.disable()
    gc.freeze()  # what is there now need not be looked through again and again
    try:
        row.check(ready()())
        for _ in range(_WARM_UP):
            count_bytecodes(ready())
        with _standing_clock():
            found = [_once(ready, kind) for _ in range(_REPEATS)]
    finally:
        gc.unfreeze()
        gc.enable()
        do.close()
    return _settled([own for own, _ in found]), _settled([total for _, total in found])


def _settled(several: list[Counts]) -> Counts:
    """The least of each count; the most of allocations, as now and then a block that was held comes free meanwhile."""
    most = {name: max(counts[name] for counts in several) for name in several[0] if name == "allocations"}
    return least(several) | most


def _once(ready: Callable[[], Call], kind: type[Sync] | type[Async]) -> tuple[Counts, Counts]:
    own, total = count_calls(ready())
    own |= count_bytecodes(ready())
    if kind is Sync:  # an event loop's own buffer is larger than all the rest
        total |= count_peak(ready())
    return own, total
