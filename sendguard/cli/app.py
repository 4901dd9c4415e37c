"""The command's parts, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from sendguard.cli import decide, doctor, events, lines, run, webhooks
from sendguard.cli.session import Code, OneLineErrors

app = typer.Typer(
    name="sendguard",
    cls=OneLineErrors,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("sendguard"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback has used it)
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Which line may carry a message now, and why.

    Exit codes: 0 done; 1 denied, a check failed, or there is no such line or decision; 2 wrong use or configuration;
    3 the store is out of reach; 4 the Linq API refused or is out of reach.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(Code.USAGE)


for part in (lines, decide, events, webhooks, doctor, run):
    part.add_to(app)
