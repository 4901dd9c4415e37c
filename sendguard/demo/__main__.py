"""`python -m sendguard.demo --seconds 12 --seed 1`: runs both teams and prints how they fared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("rich", "linq", "fakeredis", "lupa", "starlette", "uvicorn")
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sendguard.demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="of traffic, in each of the two runs (2 to 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic; the same in both runs")
    options = parser.parse_args(arguments)
    if not 2 <= options.seconds <= 60:
        parser.error("--seconds must be from 2 to 60")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"The demo needs {', '.join(missing)}: pip install 'sendguard[demo]'", file=sys.stderr)
        return 1

    from .run import Run
    from .screen import Screen
    from .team import CarelessTeam, GuardedTeam

    screen = Screen(options.seconds)
    try:
        runs = [Run(team, options.seconds, options.seed) for team in (CarelessTeam, GuardedTeam)]
        for run in runs:
            run.play(screen)
        screen.summary(*runs)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
