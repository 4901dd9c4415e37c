"""What a type checker sees of a guarded function: never run, checked by mypy in `test_guarded`.

Each `type: ignore` is an error that mypy must find; with --strict, one that it does not find is an error itself.
"""

# ruff: noqa: ARG001, ARG002, ARG003, ARG004

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar, assert_type, overload

from sendguard import AsyncSendGuard, SendGuard

T = TypeVar("T")
guard = SendGuard()
aguard = AsyncSendGuard()


class Sends(Protocol):
    """The shape of `send_hello`, with its parameters' names and defaults."""

    def __call__(self, to: str, text: str = "Hello", *, from_number: str = "") -> int: ...


class SendsMemo(Protocol):
    """The shape of `send_memo`."""

    def __call__(self, recipient: str, line: str | None = None) -> Coroutine[Any, Any, bytes]: ...


@guard.guarded
def send_hello(to: str, text: str = "Hello", *, from_number: str = "") -> int:
    assert_type(from_number, str)
    return len(to + text + from_number)


@aguard.guarded(to="recipient", into="line", kind="voice_memo", max_wait=5, exclude=["+12025550101"], line_type="RCS")
async def send_memo(recipient: str, line: str | None = None) -> bytes:
    return f"{recipient}{line}".encode()


same: Sends = send_hello
same_memo: SendsMemo = send_memo

assert_type(send_hello("+14155550101"), int)
assert_type(send_hello(to="+14155550101", text="Hi", from_number="+12025550101"), int)
send_hello()  # type: ignore[call-arg]
send_hello(14155550101)  # type: ignore[arg-type]
send_hello("+14155550101", "Hi", "+12025550101")  # type: ignore[call-arg]
send_hello("+14155550101", line="+12025550101")  # type: ignore[call-arg]
len(send_hello("+14155550101"))  # type: ignore[arg-type]


async def use_async() -> None:
    assert_type(await send_memo("+14155550101"), bytes)
    assert_type(await send_memo(recipient="+14155550101", line="+12025550101"), bytes)
    await send_memo(to="+14155550101")  # type: ignore[call-arg]
    await send_memo(b"+14155550101")  # type: ignore[arg-type]


class Shop:
    """Methods are methods still."""

    @guard.guarded(to="customer", idempotency_key="key")
    def thank(self, customer: str, key: str, from_number: str = "") -> Shop:
        return self

    @aguard.guarded
    async def greet(self, to: list[str], from_number: str | None = None) -> float:
        return 1.5

    @staticmethod
    @guard.guarded
    def nudge(to: str, from_number: str = "") -> int:
        return 1

    @classmethod
    @guard.guarded
    def of(cls, to: str, from_number: str = "") -> Shop:
        return cls()


async def use_methods(shop: Shop) -> None:
    assert_type(shop.thank("+14155550101", "order-1"), Shop)
    assert_type(await shop.greet(["+14155550101"]), float)
    assert_type(shop.nudge("+14155550101"), int)
    assert_type(Shop.of("+14155550101"), Shop)
    shop.thank("+14155550101")  # type: ignore[call-arg]
    await shop.greet("+14155550101")  # type: ignore[arg-type]


@guard.guarded
def generic(to: str, given: T, from_number: str = "") -> list[T]:
    return [given]


assert_type(generic("+14155550101", 1), list[int])
assert_type(generic("+14155550101", "a"), list[str])


@overload
def several(to: str, from_number: str = "") -> int: ...
@overload
def several(to: list[str], from_number: str = "") -> list[int]: ...
def several(to: str | list[str], from_number: str = "") -> int | list[int]:
    return 1 if isinstance(to, str) else [1]


guarded_several = guard.guarded(several, kind="chat")
assert_type(guarded_several("+14155550101"), int)
assert_type(guarded_several(["+14155550101"]), list[int])

decorator = guard.guarded(max_wait=5)
assert_type(decorator(send_hello)("+14155550101"), int)


def not_async(to: str, from_number: str = "") -> int:
    return 1


def generator(to: str, from_number: str = "") -> Generator[int]:
    yield 1


aguard.guarded(not_async)  # type: ignore[type-var]
aguard.guarded(to="to")(generator)  # type: ignore[type-var]
guard.guarded("recipient")  # type: ignore[call-overload]
guard.guarded(recipient="to")  # type: ignore[call-overload]
guard.guarded(max_wait="5")  # type: ignore[call-overload]
guard.guarded(to=["+14155550101"])  # type: ignore[call-overload]
taken: Callable[[str], int] = guard.guarded(not_async)
