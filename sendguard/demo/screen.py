"""What is seen: a live view in a terminal, a line a second elsewhere, and the summary."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sendguard import LineStatus
from sendguard.simulator import SimulatedLine

from .run import Facts, Run
from .traffic import health_model

COLOURS = {"HEALTHY": "green", "AT_RISK": "yellow", "CRITICAL": "red"}
BAR = 24
NOT_ASKED = "-"


class Screen:
    """Shows runs of `seconds` seconds on standard output."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(force_terminal=sys.stdout.isatty(), width=None if sys.stdout.isatty() else 100)
        self._model = health_model(seconds)

    @contextmanager
    def showing(self, run: Run) -> Iterator[None]:
        """Show a run while the body runs."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            with Live(get_renderable=lambda: self._view(run), console=self._console, refresh_per_second=8):
                yield
            return
        over = threading.Event()
        writer = threading.Thread(target=self._write, args=(run, over), daemon=True)
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def _write(self, run: Run, over: threading.Event) -> None:
        while not over.wait(1.0):
            self._write_line(run)
        self._write_line(run)

    def _write_line(self, run: Run) -> None:
        facts = run.facts()
        states = " ".join("FLAGGED" if line.status is LineStatus.FLAGGED else line.health.value for line in facts.lines)
        print(
            f"{run.title}: {facts.elapsed:4.1f} s, {facts.done}/{len(run.asked)} done, {facts.accepted} accepted, "
            f"{facts.refused} refused; lines: {states}",
            flush=True,
        )

    def _view(self, run: Run) -> RenderableType:
        facts = run.facts()
        table = Table(title=f"{run.title}, {facts.elapsed:.1f} s", box=box.SIMPLE_HEAD)
        for column in ("line", "status", "health", "accepted", "refused", "strain"):
            table.add_column(column, justify="right" if column in ("accepted", "refused") else "left")
        for line in facts.lines:
            table.add_row(
                line.number,
                Text(line.status.value, "bold red" if line.status is LineStatus.FLAGGED else ""),
                Text(line.health.value, COLOURS[line.health.value]),
                str(facts.accepted_by[line.number]),
                str(facts.refused_by[line.number]),
                self._strain(line),
            )
        counted = f"accepted {facts.accepted}   refused {facts.refused}   to FLAGGED lines {facts.to_flagged}"
        said = "   ".join(f"{what} {count}" for what, count in sorted(run.said.copy().items()))
        bar = ProgressBar(total=len(run.asked), completed=facts.done, width=50)
        return Group(table, bar, Text(counted), Text(said, "cyan"), Text("   ".join(facts.news), "dim"))

    def _strain(self, line: SimulatedLine) -> Text:
        full = min(BAR, round(BAR * line.strain / self._model.flagged))
        return Text("█" * full, COLOURS[line.health.value]) + Text("·" * (BAR - full), "dim")

    def summary(self, careless: Run, guarded: Run) -> None:
        """The two runs side by side."""
        table = Table(title="The same traffic, twice", box=box.SIMPLE_HEAD)
        table.add_column("")
        table.add_column(careless.title, justify="right")
        table.add_column(guarded.title, justify="right")
        for name, left, right in zip(ROWS, _recorded(careless), _recorded(guarded), strict=True):
            table.add_row(name, left, right)
        table.add_section()
        for name in ("allowed", "waited", "denied", "failed over"):
            table.add_row(f"guard: {name}", NOT_ASKED, str(guarded.said[name]))
        self._console.print(table)
        self._console.print("Above the line: counted from the simulator's record. Below: the guard's own answers.")
        if in_flight := guarded.facts().to_flagged:
            self._console.print(f"{in_flight} of the guarded sends were in flight when their line was flagged.")


ROWS = (
    "sends asked for",
    "reached the API",
    "accepted",
    "refused",
    "sent to a FLAGGED line",
    "times a line turned FLAGGED",
    "lines FLAGGED at the end",
    "seconds taken",
)


def _recorded(run: Run) -> list[str]:
    facts: Facts = run.facts()
    reached = facts.accepted + facts.refused
    counts = (len(run.asked), reached, facts.accepted, facts.refused, facts.to_flagged, facts.times_flagged)
    return [*map(str, counts), str(facts.flagged_now), f"{facts.elapsed:.1f}"]
