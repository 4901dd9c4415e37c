"""The Lua scripts: package resources, each with the layers that it stands on in front of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the store runs it. sha: the digest that EVALSHA takes."""

    name: str
    source: str
    sha: str


def _script(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode()).hexdigest())


def _load(*names: str) -> Script:
    """The script of the last name, on the prelude and the layers of the other names.

    Each layer is a function inside the one before. A script is run from its first line for every call, and what it
    defines is made anew then: for a function, Lua searches all locals of the layer that it stands in, so that a script
    of one layer spends a fifth of its time on that.
    """
    folder = files("sendguard.store") / "lua"
    layers = [(folder / f"{name}.lua").read_text("utf-8") for name in ("prelude", *names)]
    return _script(names[-1], "return (function()\n".join(layers) + "end)()\n" * len(names))


_LINES = ("windows", "records")
_PEOPLE = (*_LINES, "recipients")

DECIDE = _load(*_PEOPLE, "decide")
LEND = _load(*_PEOPLE, "lent", "lend", "decide")
"""`DECIDE` that may lend, and that calls back what is lent where a conversation moves."""
OBSERVE = _load(*_LINES, "lent", "news", "told", "observe")
RESTORE = _load(*_LINES, "lent", "news", "told", "restore")
MESSAGE = _load(*_PEOPLE, "lent", "news", "message")
SETTLE = _load(*_PEOPLE, "lent", "settle")
PENDING = _load(*_LINES, "lent", "pending")
GIVE_BACK = _load(*_PEOPLE, "give_back")
LINES = _load(*_LINES, "lines")
SWEEP = _load(*_LINES, "sweep")
LEASE = _load("lease")
RAISE_ALERT = _load("raise_alert")
TAKE = _load("take")
PUT_BACK = _load("put_back")


class Call(NamedTuple):
    """One run of a script. Its KEYS are the pool's and then its own; its ARGV the policy's and then its own.

    repeatable: whether running it twice does what running it once does.
    """

    script: Script
    pool_keys: tuple[str, ...]
    keys: tuple[str, ...]
    policy_args: tuple[str, ...]
    args: tuple[str, ...]
    repeatable: bool = True


class Command(NamedTuple):
    """A plain command of the store, for the few things that need no script.

    blocks: seconds that the store may leave it unanswered, as it was told to; the time for a call comes on top.
    """

    args: tuple[str, ...]
    blocks: float = 0.0


Reply = Any
"""What the store answers: text, a whole number, or a list of them."""
