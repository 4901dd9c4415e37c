"""What every command has: settings, a guard, a client of the API, and an end that a script can tell by its code."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import typer
from pydantic import model_validator
from rich.console import Console
from typer.core import TyperGroup

from sendguard.errors import LinqError, SendGuardError, StoreUnavailable
from sendguard.guard import SendGuard
from sendguard.linq.client import LinqClient
from sendguard.logs import LOGGER
from sendguard.sidecar.settings import ConfigError, Settings

_PLAIN_WIDTH = 1000
_SILENCE = logging.NullHandler()
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Code(IntEnum):
    """How the command ends."""

    DONE = 0
    NO = 1
    """A send was denied, a check failed, or there is no such line, decision or subscription."""
    USAGE = 2
    """Wrong arguments, a configuration that cannot be used, or a package is missing."""
    STORE = 3
    """The store did not answer."""
    API = 4
    """The Linq API refused, or could not be reached."""


def end(code: Code, *lines: str) -> NoReturn:
    """End the command, with each line on standard error."""
    for line in lines:
        print(f"sendguard: {line}", file=sys.stderr)
    raise typer.Exit(code)


class OneLineErrors(TyperGroup):
    """Says what is wrong with the arguments in one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As the base's, and always the end of the process."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except _ClickError as error:
            print(f"sendguard: {' '.join(error.format_message().split())}", file=sys.stderr)
            code = Code.USAGE
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read it, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code or Code.DONE)


class CommandSettings(Settings):
    """The sidecar's settings, without what only one who serves or polls must have."""

    @model_validator(mode="after")
    def _guarded_by_a_token(self) -> Self:
        return self


class Session:
    """One run of a command. settings: as `Settings.load` found them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        terminal = sys.stdout.isatty()
        self.out = Console(width=None if terminal else _PLAIN_WIDTH, highlight=False, markup=False, emoji=False)

    @cached_property
    def guard(self) -> SendGuard:
        """The guard of the pool. Raises ConfigError where the store is one that nobody else can see."""
        self.check()
        return self.settings.guard_of(SendGuard, refresh=None)  # over too soon to look at the pool meanwhile

    def check(self) -> None:
        """Raise ConfigError where the store is one that nobody else can see."""
        if self.settings.store.get_secret_value().startswith("memory:"):
            raise ConfigError(["store is memory:, which no other process shares; set SENDGUARD_STORE or give --store"])

    @cached_property
    def linq(self) -> LinqClient:
        """A client of the Linq API. Raises ValueError if no key is known."""
        return self.new_linq()

    def new_linq(self, **options: Any) -> LinqClient:
        """A client of the Linq API with options of its own; the caller's to close."""
        key = self.settings.api_key
        return LinqClient(None if key is None else key.get_secret_value(), self.settings.api_base_url, **options)

    def now(self) -> float:
        """Unix seconds, by the store's clock."""
        return self.guard._drive(self.guard._flows.now())

    def close(self) -> None:
        """Close what was opened."""
        for name in ("guard", "linq"):
            if name in self.__dict__:
                getattr(self, name).close()


@contextmanager
def ending() -> Iterator[None]:
    """Turn the errors that a user can do something about into one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        end(Code.USAGE, *error.problems)
    except StoreUnavailable as error:
        end(Code.STORE, str(error))
    except LinqError as error:
        end(Code.API, str(error))
    except SendGuardError as error:
        end(Code.NO, str(error))
    except ValueError as error:
        end(Code.USAGE, " ".join(str(error).split()))


def _where(
    *,
    config: Annotated[Path | None, typer.Option(help="A TOML file; the environment comes before it.")] = None,
    store: Annotated[
        str | None, typer.Option(help="The store's URL. One with a password belongs in SENDGUARD_STORE.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="The pool.")] = None,
) -> Session:
    # A terminal is no place for log records; what they tell of is said by the command.
    LOGGER.addHandler(_SILENCE)
    return Session(CommandSettings.load(config, store=store, pool=pool))


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command, a function of a `Session` and of its own options; those that name the pool come with it."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        shared = inspect.signature(_where, eval_str=True).parameters.values()
        names = [parameter.name for parameter in shared]

        def run(**arguments: Any) -> None:
            where = {key: arguments.pop(key) for key in names}
            with ending():
                session = _where(**where)
                try:
                    function(session, **arguments)
                finally:
                    session.close()

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name)(run)
        return function

    return add
