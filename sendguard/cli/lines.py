"""`lines`, `watch`, `pause`, `resume` and `poll`: the lines, and what an operator does about them."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from sendguard.cli import show
from sendguard.cli.session import Session, command
from sendguard.errors import StoreUnavailable
from sendguard.guard import SendGuard
from sendguard.logs import LOGGER
from sendguard.models import Change, Line
from sendguard.store.units import NEVER

Number = Annotated[str, typer.Argument(metavar="LINE", help="The line, E.164.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def lines(session: Session, *, as_json: AsJson = False) -> None:
    """List the lines, worst first."""
    found = sorted(session.guard.lines(), key=show.gravity)
    if as_json:
        show.put_json({"lines": [show.line_json(line) for line in found]})
    else:
        show.put(session.out, show.line_table(found, session.settings.policy.policy(), session.now()))


def watch(
    session: Session,
    *,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600)] = 2.0,
    count: Annotated[int, typer.Option(help="Looks to take; 0 for no end.", min=0)] = 0,
) -> None:
    """Show the lines, worst first, until Ctrl-C."""
    looks = itertools.count() if count == 0 else range(count)
    out = session.out
    try:
        if not out.is_terminal:
            for look in looks:
                time.sleep(interval if look else 0)
                show.put(out, _view(session))
            return
        with Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            for look in looks:
                time.sleep(interval if look else 0)
                live.update(_view(session), refresh=True)
    except KeyboardInterrupt:
        return


def _view(session: Session) -> RenderableType:
    try:
        found = sorted(session.guard.lines(), key=show.gravity)
        now = session.now()
    except StoreUnavailable as error:
        return Text(f"{show.moment(time.time())}  {error}", style="bold red")
    standing = Counter(line.status.value if line.status.value == "FLAGGED" else line.health.value for line in found)
    told = ", ".join(f"{count} {name}" for name, count in sorted(standing.items()))
    head = Text(f"{show.moment(now)}  pool {session.settings.pool}: {len(found)} lines" + (f", {told}" if told else ""))
    return Group(head, show.line_table(found, session.settings.policy.policy(), now))


def pause(
    session: Session,
    line: Number,
    *,
    until: Annotated[
        str | None, typer.Option(help="When it resumes by itself: ISO 8601 (local unless it says), or Unix seconds.")
    ] = None,
) -> None:
    """Stop every send on a line until it is resumed."""
    end = None if until is None else _moment(until)
    if end is not None and end <= session.now():
        raise ValueError("--until must be in the future")
    _stands(session, session.guard.pause(line, until=end))


def resume(session: Session, line: Number) -> None:
    """End a line's pause, and its cooling down. It does not clear FLAGGED."""
    _stands(session, session.guard.resume(line))


def _moment(text: str) -> float:
    try:
        return TypeAdapter(datetime).validate_python(text).timestamp()
    except (ValidationError, OverflowError, OSError):
        raise ValueError("--until must be ISO 8601, such as 2026-03-01T18:00, or Unix seconds") from None


def _stands(session: Session, line: Line) -> None:
    show.put(session.out, show.line_table([line], session.settings.policy.policy(), session.now()))


def poll(session: Session) -> None:
    """Poll Linq once, and apply what it tells: health, line types, new lines and lines that are gone."""
    session.check()
    with _warnings_said(), session.settings.guard_of(SendGuard) as guard:  # one that heeds what others remember
        changes = guard.sync_lines()
    for change in changes:
        print(told(change))
    print(f"{len(changes)} changes; {len(session.guard.lines())} lines")


def told(change: Change) -> str:
    """A change in one line."""
    old, new = (_value(change.field, value) for value in (change.old, change.new))
    return f"{change.number}  {change.field}  {old} -> {new}"


def _value(field: str, value: str | None) -> str:
    if value is None or not field.endswith("_until"):
        return value or "-"
    return "until resumed" if int(value) >= NEVER else show.moment(int(value) / 1_000_000)


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say on standard error what the library only warns of in its log, but for changes, which are printed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("sendguard: %(message)s"))
    handler.addFilter(lambda record: record.levelno == logging.WARNING and getattr(record, "event", "") != "transition")
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (lines, watch, pause, resume, poll):
        command(app)(function)
