"""The store: whether it answers, how old it is, whether it forgets, and its clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from sendguard.cli.checks import FAIL, OK, WARN, Finding, of_clock
from sendguard.cli.session import Session
from sendguard.errors import StoreUnavailable
from sendguard.sidecar.settings import ConfigError
from sendguard.store.scripts import Command

_OLDEST = (6, 2)
_REACH = "Start it, or correct SENDGUARD_STORE; a slow one needs a longer SENDGUARD_TIMEOUT (seconds)."


def check_store(session: Session) -> Iterator[Finding]:
    """Everything about the store that can be told from here."""
    try:
        began = time.time()
        skew = session.now() - (began + time.time()) / 2
        about = _ask(session, "INFO")
    except ConfigError as error:
        yield Finding("store", FAIL, error.problems[0], "Use a Redis or Valkey that every process reaches.")
        return
    except StoreUnavailable as error:
        yield Finding("store", FAIL, str(error), _REACH)
        return
    yield _version(about)
    yield from _role(about)
    yield _eviction(about)
    yield _persistence(session, about)
    yield of_clock("store's clock", "the store's", skew)


def _ask(session: Session, *words: str) -> dict[str, Any]:
    return dict(session.guard._drive(session.guard._flows.run(Command(words))))


def _version(about: dict[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in about else "Redis"
    compatible = str(about.get("redis_version", ""))
    version = str(about.get("valkey_version", compatible))
    numbers = tuple(int(number) for number in re.findall(r"\d+", compatible)[:2])
    if numbers >= _OLDEST:
        return Finding("store", OK, f"{name} {version} answers")
    return Finding("store", FAIL, f"{name} {version} answers", "Upgrade it to Redis 6.2 or newer, or Valkey.")


def _role(about: dict[str, Any]) -> Iterator[Finding]:
    if about.get("role") in ("slave", "replica"):
        yield Finding("store's role", FAIL, "it is a replica, which takes no writes", "Connect to the primary.")


def _eviction(about: dict[str, Any]) -> Finding:
    policy, limit = str(about.get("maxmemory_policy", "noeviction")), int(about.get("maxmemory", 0))
    text = f"maxmemory {limit or 'unlimited'}, policy {policy}"
    if policy == "noeviction" or policy.startswith("volatile"):
        # What has a time to live are answers and marks of events; lines, recipients and streams have none.
        safe = policy == "noeviction" or not limit
        remedy = (
            "" if safe else "CONFIG SET maxmemory-policy noeviction: an evicted answer lets a retried send pay twice."
        )
        return Finding("eviction", OK if safe else WARN, text, remedy)
    remedy = (
        "CONFIG SET maxmemory-policy noeviction, or use a database of its own: an evicted line is a forgotten flag."
    )
    return Finding("eviction", FAIL if limit else WARN, text, remedy)


def _persistence(session: Session, about: dict[str, Any]) -> Finding:
    remedy = (
        "CONFIG SET appendonly yes: a restart that comes back empty knows of no FLAGGED line until a webhook tells."
    )
    if about.get("aof_enabled"):
        return Finding("persistence", OK, "append-only file")
    try:
        snapshots = _ask(session, "CONFIG GET", "save").get("save")
    except StoreUnavailable:  # managed servers keep CONFIG for themselves
        return Finding("persistence", WARN, "no append-only file; whether snapshots are saved is not told", remedy)
    text = f"no append-only file; snapshots: {snapshots}" if snapshots else "none"
    return Finding("persistence", WARN, text, remedy)
