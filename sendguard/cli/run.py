"""The commands that ask no store: `serve` and `demo`, which run on, and `functions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sendguard.cli.session import Code, end
from sendguard.sidecar.settings import ConfigError, Settings
from sendguard.store.scripts import LIBRARY


def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file; the environment comes before it.")] = None,
    store: Annotated[str | None, typer.Option(help="The store's URL.")] = None,
    pool: Annotated[str | None, typer.Option(help="The pool.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="The port (default 8080).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the configuration is good.")] = False,
) -> None:
    """Serve the guard over HTTP: the sidecar."""
    try:
        from sendguard.sidecar import serve as sidecar
    except ModuleNotFoundError:
        end(Code.USAGE, "the command needs more packages: pip install 'sendguard[sidecar]'")
    try:
        settings = Settings.load(config, store=store, pool=pool, host=host, port=port)
        if check:
            settings.alerter(settings.guard())
            print("the configuration is good", *settings.warnings(), sep="\n")
        else:
            sidecar.serve(settings)
    except ConfigError as error:
        end(Code.USAGE, *error.problems)


def demo(
    seconds: Annotated[float, typer.Option(help="Of traffic, in each of the two runs.", min=2, max=60)] = 12.0,
    seed: Annotated[int, typer.Option(help="Of the traffic; the same in both runs.")] = 1,
) -> None:
    """Run two teams on a simulated account, one with a guard and one without, and tell how they fared."""
    from sendguard.demo.__main__ import main as play

    raise typer.Exit(play(["--seconds", str(seconds), "--seed", str(seed)]))


def functions() -> None:
    """Print the store's functions: `sendguard functions | redis-cli -x FUNCTION LOAD REPLACE`.

    A guard loads them by itself, unless its user may not: docs/security.md.
    """
    print(LIBRARY.source, end="")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (serve, demo, functions):
        app.command()(function)
