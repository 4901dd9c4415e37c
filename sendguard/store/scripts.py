"""The Lua scripts: package resources, with the layers that they stand on in front of them.

They are run in one of two ways. A server that has functions (Valkey, Redis from 7.0 on) is given all of them as one
library, which it reads once; what a call costs there is what the call does. Any other is given each script as a text of
its own, which it runs from the first line each time: it makes all functions anew, and reads the policy again.
The names of the functions and the digests of the scripts tell their text, so that versions run side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Library:
    """All scripts as a library of functions. Its name tells its text."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the store runs it. sha: the digest that EVALSHA takes; function: the name that FCALL takes."""

    name: str
    source: str
    sha: str
    function: str
    library: Library = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a script stands on: the first layers of those that all share, and some of its own. runner: what runs it.

    reads: whether it writes nothing, so that a server answers it that is full, or may not write. text: its file, if
    that has another name.
    """

    shared: int
    own: tuple[str, ...] = ()
    runner: str = "run"
    reads: bool = False
    text: str = ""


_SHARED = ("prelude", "windows", "records", "recipients", "lent")
_NONE, _LINES, _PEOPLE, _LOANS = 1, 3, 4, 5
"""How many of those are needed: only the prelude, those about lines, about recipients too, about loans too."""
_PARTS = {
    "decide": _Parts(_LOANS, ("lend", "deciding"), "run_reading"),
    "dry_run": _Parts(_LOANS, ("lend", "deciding"), "run_reading", reads=True, text="decide"),
    "observe": _Parts(_LOANS, ("news", "told")),
    "restore": _Parts(_LOANS, ("news", "told")),
    "message": _Parts(_LOANS, ("news",)),
    "settle": _Parts(_LOANS),
    "pending": _Parts(_LOANS, reads=True),
    "give_back": _Parts(_PEOPLE),
    "lines": _Parts(_LINES, reads=True),
    "sweep": _Parts(_LINES),
    "lease": _Parts(_NONE),
    "raise_alert": _Parts(_NONE),
    "take": _Parts(_NONE),
    "put_back": _Parts(_NONE),
}


def text_of(name: str) -> str:
    """A layer or a script as it stands in the package."""
    return (files("sendguard.store") / "lua" / f"{name}.lua").read_text("utf-8")


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def build(text_of: Callable[[str], str] = text_of) -> dict[str, Script]:
    """All scripts, by name, in both forms. text_of: the text of a layer or a script."""

    def body(name: str) -> str:
        text = text_of(_PARTS[name].text or name)
        return "".join(map(text_of, _PARTS[name].own)) + f"local function script()\n{text}end\n"

    def registered(name: str, library: str) -> str:
        run = f"function(keys, args) return {_PARTS[name].runner}(script, keys, args) end"
        flags = "'no-writes'" if _PARTS[name].reads else ""
        told = f"function_name = '{library}_{name}', callback = {run}, flags = {{ {flags} }}"
        return f"do\n{body(name)}redis.register_function{{ {told} }}\nend\n"

    def alone(name: str) -> str:
        layers = "".join(map(text_of, _SHARED[: _PARTS[name].shared]))
        run = f"return {_PARTS[name].runner}(script, given_keys, given_args)\n"
        return f"local given_keys, given_args = KEYS, ARGV\n{layers}{body(name)}{run}"

    shared = "".join(map(text_of, _SHARED))
    named = f"sendguard_{_sha(shared + ''.join(registered(name, '') for name in _PARTS))[:16]}"
    text = shared + "".join(registered(name, named) for name in _PARTS)
    library = Library(named, f"#!lua name={named}\n{text}")
    sources = {name: alone(name) for name in _PARTS}
    return {name: Script(name, source, _sha(source), f"{named}_{name}", library) for name, source in sources.items()}


SCRIPTS = build()
LIBRARY = SCRIPTS["decide"].library
DECIDE = SCRIPTS["decide"]
DRY_RUN = SCRIPTS["dry_run"]
"""`DECIDE`, which writes nothing if it is asked not to, for servers that may not write."""
OBSERVE = SCRIPTS["observe"]
RESTORE = SCRIPTS["restore"]
MESSAGE = SCRIPTS["message"]
SETTLE = SCRIPTS["settle"]
PENDING = SCRIPTS["pending"]
GIVE_BACK = SCRIPTS["give_back"]
LINES = SCRIPTS["lines"]
SWEEP = SCRIPTS["sweep"]
LEASE = SCRIPTS["lease"]
RAISE_ALERT = SCRIPTS["raise_alert"]
TAKE = SCRIPTS["take"]
PUT_BACK = SCRIPTS["put_back"]


class Call(NamedTuple):
    """One run of a script. Its KEYS are the pool's and then its own; its ARGV the settings and then its own.

    pool_keys, settings: what many calls have in common, which is packed once. The policy is the first of the settings.

    repeatable: whether running it twice does what running it once does.
    """

    script: Script
    pool_keys: tuple[str, ...]
    keys: tuple[str, ...]
    settings: tuple[str, ...]
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
