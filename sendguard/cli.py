"""The command `sendguard`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

_MISSING = "sendguard: the command needs more packages: pip install 'sendguard[sidecar]'"


def _end(*lines: str) -> NoReturn:
    print(*lines, sep="\n", file=sys.stderr)
    raise SystemExit(2)


try:
    import typer
except ModuleNotFoundError:
    _end(_MISSING)

app = typer.Typer(
    name="sendguard",
    help="Which line may carry a message now.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Which line may carry a message now."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file; the environment comes before it.")] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="The port (default 8080).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the configuration is good.")] = False,
) -> None:
    """Serve the guard over HTTP: the sidecar."""
    try:
        from sendguard.sidecar import serve as sidecar
        from sendguard.sidecar.settings import ConfigError, Settings
    except ModuleNotFoundError:
        _end(_MISSING)
    try:
        settings = Settings.load(config, host=host, port=port)
        if check:
            settings.guard()
            print("the configuration is good", *settings.warnings(), sep="\n")
        else:
            sidecar.serve(settings)
    except ConfigError as error:
        _end(*(f"sendguard: {problem}" for problem in error.problems))


def main() -> None:
    """Run the command. Exit code 2: wrong arguments, a configuration that cannot be used, or a package is missing."""
    app()
