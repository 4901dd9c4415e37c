"""`events`: what changed of the lines."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from sendguard.cli import show
from sendguard.cli.lines import AsJson, told
from sendguard.cli.session import Session, command
from sendguard.errors import StoreUnavailable
from sendguard.models import Transition

_KEPT = 10_000


def events(
    session: Session,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option(help="How many of those before.", min=0, max=_KEPT)] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Those after this transition, instead.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05, max=3600)] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Print the transitions of the lines, oldest first: status, health, assignment, pauses."""
    found = session.guard.transitions(after or "0", count=_KEPT)
    seen = found[-1].transition_id if found else after or "0"
    if after is None:
        found = found[len(found) - min(last, len(found)) :]
    _put(found, as_json=as_json)
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(session, seen, interval, as_json=as_json)


def _follow(session: Session, seen: str, interval: float, *, as_json: bool) -> None:
    """Print what comes after a transition, for ever; an outage of the store is told once, and outlived."""
    down = False
    while True:
        time.sleep(interval)
        try:
            found = session.guard.transitions(seen)
        except StoreUnavailable as error:
            if not down:
                print(f"sendguard: {error}; still asking", file=sys.stderr)
            down = True
            continue
        down = False
        _put(found, as_json=as_json)
        seen = found[-1].transition_id if found else seen


def _put(found: tuple[Transition, ...], *, as_json: bool) -> None:
    for transition in found:
        if as_json:
            show.put_json(_json(transition))
        else:
            print(_line(transition))
    sys.stdout.flush()


def _recorded_at(transition: Transition) -> float:
    return int(transition.transition_id.partition("-")[0]) / 1000


def _line(transition: Transition) -> str:
    change = transition.change
    event = f" {transition.event_id}" if transition.event_id else ""
    return f"{show.moment(_recorded_at(transition))}  {told(change)}  ({change.source}{event})"


def _json(transition: Transition) -> dict[str, Any]:
    change = transition.change
    return {
        "transition_id": transition.transition_id,
        "recorded_at": _recorded_at(transition),
        "line": change.number,
        "field": change.field,
        "old": change.old,
        "new": change.new,
        "observed_at": change.observed_at,
        "source": change.source,
        "event_id": transition.event_id,
    }


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    command(app)(events)
