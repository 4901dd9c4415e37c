"""`python -m sendguard.simulator --port 8080 --lines +12025550101,+12025550102`"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence

from . import HealthModel, Simulator


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a simulator until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m sendguard.simulator", description="A stand-in for the Linq API.")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--lines", default="+12025550101,+12025550102,+12025550103", help="numbers, commas between")
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--webhook-url", default=None, help="where to send every webhook")
    parser.add_argument("--webhook-secret", default=None)
    parser.add_argument("--health-model", action="store_true", help="let lines wear out as they send, and recover")
    parser.add_argument("--generation", choices=("plain", "health_status", "both", "reputation"), default="reputation")
    options = parser.parse_args(arguments)
    lines = [number.strip() for number in options.lines.split(",") if number.strip()]
    simulator = Simulator(
        lines,
        webhook_secret=options.webhook_secret,
        health_model=HealthModel() if options.health_model else None,
        generation=options.generation,
        api_key=options.api_key,
        port=options.port,
    )
    with simulator:
        if options.webhook_url:
            simulator.subscribe(options.webhook_url)
        print(f"LINQ_API_V3_BASE_URL={simulator.base_url}")
        print(f"LINQ_API_V3_API_KEY={simulator.api_key}")
        print(f"LINQ_WEBHOOK_SECRET={simulator.webhook_secret}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
