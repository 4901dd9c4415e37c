"""The figures as drawings, SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.acknowledged import Flag
from benchmarks.decisions import KEYED, NEW, STICKY
from benchmarks.peers import ASYNC, ASYNC_PING, EMPTY, HANDWRITTEN, LIMITS, PING, ROUTER, SYNC, THROTTLED
from benchmarks.series import Series
from benchmarks.tables import by_row
from benchmarks.throughput import Run

LOOKS: dict[str, dict[str, Any]] = {
    PING: {"color": "#9aa0a6", "linestyle": ":"},
    EMPTY: {"color": "#5f6368", "linestyle": ":"},
    LIMITS: {"color": "#b8860b", "linestyle": "--"},
    THROTTLED: {"color": "#8c6d1f", "linestyle": "-."},
    f"{SYNC}: {STICKY}": {"color": "#1a7f37", "linewidth": 2.5},
    f"{SYNC}: {NEW}": {"color": "#2da44e", "linewidth": 2.5},
    f"{SYNC}: {STICKY}{KEYED}": {"color": "#7bc98f", "linewidth": 2.5},
    ASYNC_PING: {"color": "#9aa0a6", "linestyle": (0, (1, 3))},
    f"{ASYNC}: {STICKY}": {"color": "#1f6feb", "linewidth": 1.5},
    HANDWRITTEN: {"color": "#bc4c00"},
    ROUTER: {"color": "#cf222e"},
}


def _figure(count: int, width: float = 5.5) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "sendguard", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3})
    figure, axes = plt.subplots(1, count, figsize=(width * count, 4.2), sharey=True, squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _by_server(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(one.server for one in series))


def draw_decisions(series: Sequence[Series], path: Path) -> None:
    """p50 over the number of lines, both logarithmic."""
    rows, servers = by_row(series), _by_server(series)
    figure, axes = _figure(len(servers))
    for axis, server in zip(axes, servers, strict=True):
        for what, look in LOOKS.items():
            found = rows.get((server, what), {})
            if found:
                axis.plot(list(found), [one.quantile(50) for one in found.values()], marker=".", label=what, **look)
        axis.set(xscale="log", yscale="log", title=server, xlabel="lines to choose from")
    axes[0].set_ylabel("a decision, p50, µs")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    _save(figure, path)


def draw_throughput(runs: dict[str, list[Run]], path: Path) -> None:
    """Decisions a second, and how busy the server was, by the number of processes."""
    figure, axes = _figure(len(runs), 4.5)
    for axis, (server, each) in zip(axes, runs.items(), strict=True):
        names = [run.name for run in each]
        bars = axis.barh(names[::-1], [run.rate for run in each][::-1], color="#2da44e")
        shares = [f" {run.rate * run.server / 1e6:.0%}" for run in each]
        axis.bar_label(bars, shares[::-1])
        axis.set(title=server, xlabel="decisions a second; the server's share of a core")
    _save(figure, path)


def draw_acknowledged(found: dict[str, list[Flag]], path: Path) -> None:
    """When the last allowed decision was asked for, and the first denied one, around the acknowledgement."""
    figure, axes = _figure(len(found))
    for axis, (server, flags) in zip(axes, found.items(), strict=True):
        for y, one in enumerate(sorted(flags, key=lambda flag: flag.asked)):
            axis.plot([-one.took * 1000, 0], [y, y], color="#d0d7de", linewidth=1)
            axis.plot(one.asked * 1000, y, ".", color="#1a7f37", label=None if y else "last allowed, asked for")
            axis.plot(one.denied * 1000, y, "x", color="#cf222e", label=None if y else "first denied, asked for")
        axis.axvline(0, color="#24292f", linewidth=1)
        axis.set(title=server, xlabel="ms after the webhook was acknowledged (grey: while it was handled)")
    axes[0].set_ylabel("flags")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    _save(figure, path)
