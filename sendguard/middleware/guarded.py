"""`@guard.guarded`: a function that sends, with the guard in front of every call of it.

What a decorated function looks like is read once, when it is decorated, and wrong use fails there. `Plan` is all there
is to know; the two decorators at the end differ only in that one of them awaits.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from inspect import BoundArguments, Parameter
from itertools import tee
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast
from uuid import UUID

from sendguard.arguments import check_max_wait
from sendguard.models import SendKind
from sendguard.request import Request

if TYPE_CHECKING:
    from sendguard.async_guard import AsyncSendGuard
    from sendguard.guard import SendGuard

F = TypeVar("F", bound=Callable[..., Any])
AsyncF = TypeVar("AsyncF", bound=Callable[..., Coroutine[Any, Any, Any]])
T = TypeVar("T")

_COLLECTS: Mapping[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_ANYBODY = "+12025550101"


class Options(TypedDict, total=False):
    """The options of `guarded`.

    to: the parameter that holds the recipients ("to"). into: the parameter that receives the line ("from_number").
    idempotency_key: the parameter that holds the send's idempotency key (None: there is none). kind, exclude,
    line_type, max_wait (seconds): of every call, as `choose_from_number` takes them.
    """

    to: str
    into: str
    idempotency_key: str | None
    kind: SendKind | str
    exclude: Iterable[str]
    line_type: str | None
    max_wait: float


class Plan:
    """Where a function's recipients, line and idempotency key stand among its arguments, and what to ask the guard.

    Raises TypeError or ValueError that says what to write, if the function cannot be guarded so.
    """

    def __init__(self, function: Any, options: Options, *, is_async: bool) -> None:
        if unknown := sorted(options.keys() - Options.__annotations__.keys()):
            raise TypeError(f"guarded has no option {unknown[0]!r}; its options are {_listed(Options.__annotations__)}")
        self.name = _check_function(function, is_async=is_async)
        try:
            self.signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise TypeError(f"{self.name} tells no signature: guard a function of your own that calls it") from None
        self.to, self.into = options.get("to", "to"), options.get("into", "from_number")
        self.key = options.get("idempotency_key")
        _check_parameters(self)
        kind, exclude = options.get("kind", SendKind.CHAT), options.get("exclude", ())
        request = Request.of(_ANYBODY, kind, None, exclude, options.get("line_type"), None)
        self.asked = {
            "kind": request.kind,
            "exclude": request.exclude,
            "line_type": request.line_type,
            "max_wait": check_max_wait(options.get("max_wait", 0.0)),
        }

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BoundArguments:
        """One call's arguments. Raises TypeError as the function would, before anything is decided."""
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None

    def ask(self, sending: Callable[..., T], call: BoundArguments) -> T:
        """Ask for a call's line. sending: the guard's. Raises ValueError naming the call's argument that is wrong."""
        line = call.arguments.get(self.into)
        try:
            return sending(
                self._recipients(call),
                from_number=None if line in (None, "") else line,
                idempotency_key=self._key(call),
                **self.asked,
            )
        except ValueError as error:
            argument, _, wrong = str(error).partition(" ")
            names = {"to": self.to, "from_number": self.into, "idempotency_key": self.key}
            raise ValueError(f"{names.get(argument, argument)} {wrong} (in a call of {self.name})") from None

    def _value(self, call: BoundArguments, name: str) -> Any:
        return call.arguments.get(name, self.signature.parameters[name].default)

    def _recipients(self, call: BoundArguments) -> Any:
        """The recipients; what can be read only once is kept for the function too."""
        to = self._value(call, self.to)
        if isinstance(to, Iterator):
            to, call.arguments[self.to] = tee(to)
        return to

    def _key(self, call: BoundArguments) -> Any:
        """The idempotency key; a number or UUID, as databases give them, in text."""
        key = None if self.key is None else self._value(call, self.key)
        return str(key) if isinstance(key, (int, UUID)) and not isinstance(key, bool) else key


def guard_function(guard: SendGuard, function: F, options: Options) -> F:
    """`function` with the guard in front of every call. Raises as `Plan`."""
    plan = Plan(function, options, is_async=False)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        call = plan.bind(args, kwargs)
        with plan.ask(guard.sending, call) as send:
            call.arguments[plan.into] = send.from_number
            return function(*call.args, **call.kwargs)

    return cast(F, guarded)


def guard_async_function(guard: AsyncSendGuard, function: AsyncF, options: Options) -> AsyncF:
    """As `guard_function`, for `async def`."""
    plan = Plan(function, options, is_async=True)

    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        call = plan.bind(args, kwargs)
        async with plan.ask(guard.sending, call) as send:
            call.arguments[plan.into] = send.from_number
            return await function(*call.args, **call.kwargs)

    return cast(AsyncF, guarded)


# Wrong use -----------------------------------------------------------------------------------------------------------


def _check_function(function: Any, *, is_async: bool) -> str:
    """The function's name for messages, if it is a function of the right colour."""
    if isinstance(function, (staticmethod, classmethod, property)):
        word = type(function).__name__
        raise TypeError(f"@{word} must stand above @guard.guarded, not below it: swap the two lines")
    if isinstance(function, type):
        raise TypeError(f"{function.__qualname__} is a class: put @guard.guarded on its method that sends")
    if not callable(function):
        raise TypeError(
            f'guarded takes a function, not {function!r}; options have names: @guard.guarded(to="recipient")'
        )
    name = str(getattr(function, "__qualname__", repr(function)))
    if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
        raise TypeError(f"{name} is a generator, which sends later than it is called: guard the function that sends")
    if _is(inspect.iscoroutinefunction, function) and not is_async:
        raise TypeError(f"{name} is async: guard it with an AsyncSendGuard, or write `def`")
    if is_async and not _is(inspect.iscoroutinefunction, function):
        raise TypeError(f"{name} is not async: guard it with a SendGuard, or write `async def`")
    return name


def _is(what: Callable[[Any], bool], function: Any) -> bool:
    """Whether a function, or an object that can be called like one, is of some sort."""
    return what(function) or what(type(function).__call__)


def _check_parameters(plan: Plan) -> None:
    advice = 'name the one that holds the recipients, as in @guard.guarded(to="recipient")'
    _parameter(plan, plan.to, f"{plan.to}: str | list[str]", advice)
    write = f'{plan.into}: str = ""'
    advice = f'write `{write}` to receive the line, or name another: @guard.guarded(into="line")'
    line = _parameter(plan, plan.into, write, advice)
    if line.kind is Parameter.POSITIONAL_ONLY:
        raise TypeError(f"{plan.name} takes {plan.into} by position only: write `{write}` after the `/`")
    if line.default is not None and line.default != "":
        raise TypeError(f"callers of {plan.name} leave {plan.into} to the guard: write `{write}`, or a default of None")
    if plan.key is not None:
        _parameter(plan, plan.key, f"{plan.key}: str", "idempotency_key names the one that holds a send's key")
    if len({plan.to, plan.into, plan.key}) < 3:
        raise TypeError(f"{plan.name}: to, into and idempotency_key must name three different parameters")


def _parameter(plan: Plan, wanted: object, write: str, advice: str) -> Parameter:
    known = plan.signature.parameters
    if not isinstance(wanted, str) or wanted not in known:
        raise TypeError(f"{plan.name} has no parameter {wanted!r} (it has {_listed(known)}): {advice}")
    if stars := _COLLECTS.get(known[wanted].kind):
        raise TypeError(f"{plan.name} takes {stars}{wanted}: write `{write}` instead")
    return known[wanted]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
