"""Guarded functions that send with the official SDK, judged by what reached the simulator; and every wrong use."""

# ruff: noqa: ARG001, ARG002, ARG003, ARG004, ARG005

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import linq
import pytest
from linq import AsyncLinqAPIV3, LinqAPIV3

from sendguard import AsyncSendGuard, Policy, Quota, Reason, SendBlocked, SendGuard, TokenBucket
from sendguard.simulator import Simulator

A, B, C = "+12025550101", "+12025550102", "+12025550103"
ANN, BOB, EVE = "+14155550101", "+14155550102", "+14155550103"
MEMO = "https://example.com/memo.m4a"
ONE_AN_HOUR = Policy(healthy=TokenBucket(1, per=3600, burst=1))


def message(text: str) -> Any:
    return {"parts": [{"type": "text", "value": text}]}


def people(to: Any) -> list[str]:
    return [to] if isinstance(to, str) else list(to)


class Shop:
    """Sending code as a team has it. `guarded` makes functions of it; `calls` is what they were called with."""

    def __init__(self, base_url: str, api_key: str, pool: str, policy: Policy) -> None:
        self.api: Any = {"base_url": base_url, "api_key": api_key, "max_retries": 0}
        self.pool: Any = {"store": f"memory://{pool}", "pool": pool, "policy": policy, "timeout": 5}
        self.watcher = SendGuard(**self.pool)
        self.calls: list[str] = []
        self.start()

    def start(self) -> None:
        self.guard = SendGuard(**self.pool)
        self.client = LinqAPIV3(**self.api)

    def chat(self, **options: Any) -> Callable[..., Any]:
        @self.guard.guarded(**options)
        def send_chat(to: Any, text: str = "Hello", from_number: str = "", key: Any = None) -> Any:
            self.calls.append(from_number)
            return self.client.chats.create(from_=from_number, to=people(to), message=message(text)).chat

        return send_chat

    def memo(self, **options: Any) -> Callable[..., Any]:
        @self.guard.guarded(to="recipient", into="line", kind="voice_memo", **options)
        def send_memo(chat_id: str, recipient: str, *, line: str | None = None) -> Any:
            self.calls.append(str(line))
            return self.client.chats.send_voicememo(chat_id, voice_memo_url=MEMO)

        return send_memo

    def failing(self, error: BaseException) -> Callable[..., Any]:
        @self.guard.guarded
        def fail(to: str, from_number: str = "") -> None:
            raise error

        return fail

    def volumes(self) -> dict[str, int]:
        return {line.number: line.daily_volume for line in self.watcher.lines() if line.daily_volume}

    def close(self) -> None:
        self.client.close()
        self.guard.close()
        self.watcher.close()


class AsyncShop(Shop):
    """The same, in asyncio; its functions are run to their end when they are called."""

    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.aguard = AsyncSendGuard(**self.pool)
        self.aclient = AsyncLinqAPIV3(**self.api)

    def run(self, function: Callable[..., Any]) -> Callable[..., Any]:
        assert inspect.iscoroutinefunction(function)
        return lambda *args, **kwargs: self.runner.run(function(*args, **kwargs))

    def chat(self, **options: Any) -> Callable[..., Any]:
        @self.aguard.guarded(**options)
        async def send_chat(to: Any, text: str = "Hello", from_number: str = "", key: Any = None) -> Any:
            self.calls.append(from_number)
            return (await self.aclient.chats.create(from_=from_number, to=people(to), message=message(text))).chat

        return self.run(send_chat)

    def memo(self, **options: Any) -> Callable[..., Any]:
        @self.aguard.guarded(to="recipient", into="line", kind="voice_memo", **options)
        async def send_memo(chat_id: str, recipient: str, *, line: str | None = None) -> Any:
            self.calls.append(str(line))
            return await self.aclient.chats.send_voicememo(chat_id, voice_memo_url=MEMO)

        return self.run(send_memo)

    def failing(self, error: BaseException) -> Callable[..., Any]:
        @self.aguard.guarded
        async def fail(to: str, from_number: str = "") -> None:
            await asyncio.sleep(0)
            raise error

        return self.run(fail)

    def close(self) -> None:
        self.runner.run(self.aclient.close())
        self.runner.run(self.aguard.close())
        self.runner.close()
        self.watcher.close()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator([A, B, C]) as simulator:
        yield simulator


@pytest.fixture(params=[Shop, AsyncShop])
def new_shop(request: pytest.FixtureRequest, simulator: Simulator, pool: str) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(policy: Policy | None = None, lines: tuple[str, ...] = (A, B, C), base_url: str = "") -> Shop:
        shop: Shop = request.param(base_url or simulator.base_url, simulator.api_key, pool, policy or Policy())
        for line in lines:
            shop.watcher.observe(line, status="ACTIVE", health="HEALTHY")
        shops.append(shop)
        return shop

    yield make
    for shop in shops:
        shop.close()


@pytest.fixture
def shop(new_shop: Callable[..., Shop]) -> Shop:
    return new_shop()


def lines_of(simulator: Simulator) -> list[str | None]:
    """The lines of the sends that the API took, which are all that it got."""
    assert [record for record in simulator.sends if not record.accepted] == []
    return [record.line for record in simulator.sends]


def flag(shop: Shop, simulator: Simulator, line: str) -> None:
    shop.watcher.observe(line, status="FLAGGED")
    simulator.flip(line, status="FLAGGED")


# What reaches the API


def test_each_call_sends_from_the_line_that_the_guard_chose(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat()
    chats = [send_chat(ANN), send_chat(BOB, "Hi"), send_chat(text="Hi", to=EVE), send_chat(to=ANN)]
    assert chats[0].id == chats[3].id, "the function's own result comes back"
    first = lines_of(simulator)
    assert sorted(map(str, first[:3])) == [A, B, C], "new conversations spread"
    assert first[3] == first[0], "a conversation stays on its line"
    assert shop.calls == first
    assert shop.volumes() == {str(first[0]): 2, str(first[1]): 1, str(first[2]): 1}


def test_no_call_sends_from_a_flagged_line(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat()
    for person in (ANN, BOB, EVE):
        send_chat(person)
    flag(shop, simulator, A)
    flag(shop, simulator, B)
    for person in (ANN, BOB, EVE):
        send_chat(person)
    assert lines_of(simulator)[3:] == [C, C, C]
    assert simulator.sends_to_flagged() == []


def test_a_blocked_call_raises_and_the_function_is_not_called(shop: Shop, simulator: Simulator) -> None:
    chat = shop.chat()(ANN)
    line = shop.calls[0]
    flag(shop, simulator, line)
    with pytest.raises(SendBlocked) as blocked:
        shop.memo()(chat.id, ANN)
    assert blocked.value.reason is Reason.FLAGGED, "a chat would have failed over: kind was not passed"
    assert lines_of(simulator) == [line]
    assert shop.calls == [line]


def test_a_memo_goes_from_its_conversations_line(shop: Shop, simulator: Simulator) -> None:
    chat = shop.chat()(ANN)
    shop.memo()(recipient=ANN, chat_id=chat.id)
    assert [record.kind for record in simulator.sends] == ["chat", "voice_memo"]
    assert lines_of(simulator) == [shop.calls[0]] * 2
    assert shop.calls[1] == shop.calls[0]


def test_a_from_number_that_the_caller_gives_is_asked_for(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat()
    send_chat(ANN, from_number=C)
    send_chat(BOB, "Hi", C)
    assert lines_of(simulator) == [C, C]
    flag(shop, simulator, C)
    with pytest.raises(SendBlocked) as blocked:
        send_chat(EVE, from_number=C)
    assert blocked.value.reason is Reason.FLAGGED
    send_chat(EVE, from_number="")
    assert lines_of(simulator)[2:] in ([A], [B]), "what stands for no line lets the guard choose"


def test_options_reach_the_decision(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat(exclude=iter([A, B]))
    send_chat(ANN)
    send_chat(BOB)
    assert lines_of(simulator) == [C, C]
    with pytest.raises(SendBlocked):
        shop.chat(line_type="RCS")(EVE)
    assert lines_of(simulator) == [C, C]


def test_max_wait_waits_for_the_lines_turn(new_shop: Callable[..., Shop], simulator: Simulator) -> None:
    shop = new_shop(Policy(healthy=TokenBucket(1, per=0.5, burst=1)), lines=(A,))
    shop.chat()(ANN)
    started = time.monotonic()
    with pytest.raises(SendBlocked) as blocked:
        shop.chat()(BOB)
    assert blocked.value.reason is Reason.THROTTLED
    shop.chat(max_wait=5)(BOB)
    assert time.monotonic() - started > 0.2
    assert lines_of(simulator) == [A, A]


def test_a_group_is_one_conversation_and_may_be_read_only_once(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat()
    send_chat([ANN, BOB])
    send_chat(EVE)
    send_chat(person for person in (BOB, ANN))
    lines = lines_of(simulator)
    assert lines[0] == lines[2]
    assert simulator.sends[2].recipients == (ANN, BOB), "the generator was used up before the function had it"


@pytest.mark.parametrize("key", ["order-1", 1, UUID(int=7)])
def test_a_call_repeated_with_its_key_pays_once(new_shop: Callable[..., Shop], simulator: Simulator, key: Any) -> None:
    shop = new_shop(ONE_AN_HOUR, lines=(A,))
    send_chat = shop.chat(idempotency_key="key")
    send_chat(ANN, key=key)
    send_chat(ANN, key=key)
    assert lines_of(simulator) == [A, A]
    assert shop.volumes() == {A: 1}
    for other in ({"key": "order-2"}, {"key": None}, {}):
        with pytest.raises(SendBlocked):
            send_chat(ANN, **other)


# What becomes of a call


def test_what_never_left_is_given_back(new_shop: Callable[..., Shop], simulator: Simulator) -> None:
    cut_off = new_shop(ONE_AN_HOUR, lines=(A,), base_url="http://127.0.0.1:9")
    for _ in range(3):
        with pytest.raises(linq.APIConnectionError):
            cut_off.chat()(ANN)
    assert cut_off.volumes() == {}
    new_shop(ONE_AN_HOUR, lines=(A,)).chat()(ANN)
    assert lines_of(simulator) == [A]


def test_what_may_have_left_is_not_given_back(new_shop: Callable[..., Shop]) -> None:
    shop = new_shop(ONE_AN_HOUR, lines=(A,))
    with pytest.raises(RuntimeError, match="lost its way"):
        shop.failing(RuntimeError("lost its way"))(ANN)
    assert shop.volumes() == {A: 1}
    with pytest.raises(SendBlocked):
        shop.chat()(ANN)


def test_what_the_api_refuses_is_learnt_from(shop: Shop, simulator: Simulator) -> None:
    send_chat = shop.chat()
    simulator.make_ineligible(A, time.time() + 600)
    with pytest.raises(linq.APIStatusError):
        send_chat(ANN, from_number=A)
    assert A not in shop.volumes()
    with pytest.raises(SendBlocked) as blocked:
        send_chat(ANN, from_number=A)
    assert blocked.value.reason is Reason.COOLING_DOWN
    assert len(simulator.sends) == 1


# Bad calls


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "wrong"),
    [
        ((), {}, TypeError, r"send_chat\(\) missing a required argument: 'to'"),
        ((ANN,), {"line": A}, TypeError, r"send_chat\(\) got an unexpected keyword argument 'line'"),
        ((ANN,), {"to": BOB}, TypeError, r"send_chat\(\) multiple values for argument 'to'"),
        ((None,), {}, ValueError, r"^to must .*send_chat"),
        (("Ann",), {}, ValueError, r"^to must .*send_chat"),
        (([],), {}, ValueError, r"^to must"),
        (([f"+1415555{i:04d}" for i in range(1000)],), {}, ValueError, r"^to holds more than 31"),
        ((ANN,), {"from_number": "2025550101"}, ValueError, r"^from_number must"),
        ((ANN,), {"from_number": 0}, ValueError, r"^from_number must"),
        ((ANN,), {"key": ""}, ValueError, r"^key must"),
        ((ANN,), {"key": True}, ValueError, r"^key must"),
        ((ANN,), {"key": 1.5}, ValueError, r"^key must"),
    ],
)
def test_a_bad_call_names_what_is_wrong_and_takes_nothing(
    shop: Shop, args: Any, kwargs: Any, error: type[Exception], wrong: str
) -> None:
    with pytest.raises(error, match=wrong):
        shop.chat(idempotency_key="key")(*args, **kwargs)
    assert shop.calls == []
    assert shop.volumes() == {}


def test_a_bad_argument_goes_by_its_own_name(shop: Shop) -> None:
    with pytest.raises(ValueError, match=r"^recipient must .*send_memo"):
        shop.memo()("chat", "nobody")
    with pytest.raises(ValueError, match=r"^line must .*send_memo"):
        shop.memo()("chat", ANN, line="nothing")


def test_an_endless_supply_of_recipients_ends(shop: Shop) -> None:
    endless = (f"+1415555{i:04d}" for i in iter(int, 1))
    with pytest.raises(ValueError, match=r"^to holds more than"):
        shop.chat()(endless)


# What is guarded


class Store:
    """Methods of every sort; `sent` is what reached them."""

    guard = SendGuard()
    aguard = AsyncSendGuard()
    sent: list[tuple[Any, ...]]

    def __init__(self) -> None:
        self.sent = []
        self.guard.observe(A, status="ACTIVE")

    @guard.guarded(to="customer")
    def thank(self, customer: str, /, *texts: str, from_number: str = "", **more: Any) -> Store:
        """Say thanks."""
        self.sent.append((customer, texts, from_number, more))
        return self

    @guard.guarded
    def remind(self, note: str = "n", from_number: str | None = None, to: str = ANN) -> str:
        return f"{note} {from_number} {to}"

    @staticmethod
    @guard.guarded
    def nudge(to: str, from_number: str = "") -> str:
        return from_number

    @classmethod
    @guard.guarded
    def named(cls, to: str, from_number: str = "") -> str:
        return cls.__name__ + from_number

    @aguard.guarded
    async def greet(self, to: str, from_number: str = "") -> str:
        return from_number


def test_methods_of_every_sort() -> None:
    store = Store()
    assert store.thank(ANN, "a", "b", colour="red") is store
    assert Store.thank(store, BOB) is store
    assert store.sent == [(ANN, ("a", "b"), A, {"colour": "red"}), (BOB, (), A, {})]
    assert store.remind() == f"n {A} {ANN}", "the default of `to` is a recipient too"
    assert store.remind("m", None, BOB) == f"m {A} {BOB}"
    assert store.nudge(ANN) == Store.nudge(ANN) == A
    assert store.named(ANN) == f"Store{A}"

    async def greet() -> str:
        await store.aguard.observe(B, status="ACTIVE")
        return await store.greet(ANN)

    assert asyncio.run(greet()) == B


def test_a_guarded_function_looks_as_it_did() -> None:
    raw = inspect.unwrap(Store.thank)
    assert raw is not Store.thank
    assert inspect.signature(Store.thank) == inspect.signature(raw)
    assert "from_number" in inspect.signature(Store.thank).parameters
    assert (Store.thank.__name__, Store.thank.__doc__) == ("thank", "Say thanks.")
    assert Store.thank.__annotations__ == raw.__annotations__
    assert inspect.iscoroutinefunction(Store.greet)
    assert inspect.signature(Store.greet) == inspect.signature(inspect.unwrap(Store.greet))
    assert Store.greet.__qualname__ == "Store.greet"
    assert not inspect.iscoroutinefunction(Store.thank)
    assert pickle.loads(pickle.dumps(Store.nudge)) is Store.nudge


def test_what_can_be_called_can_be_guarded_without_at_sign() -> None:
    guard, sent = SendGuard(), []
    guard.observe(A, status="ACTIVE")

    class Sender:
        def __call__(self, text: str, to: str, from_number: str = "") -> str:
            sent.append((text, to, from_number))
            return from_number

        send = __call__

    assert guard.guarded(Sender(), max_wait=1)("Hi", ANN) == A
    assert guard.guarded(Sender().send)("Hi", ANN) == A
    assert guard.guarded(partial(Sender(), "Hi"))(ANN) == A
    assert guard.guarded(lambda to, from_number="": from_number)(to=ANN) == A
    assert sent == [("Hi", ANN, A)] * 3


def test_a_decorator_below_is_called_as_well() -> None:
    guard, seen = SendGuard(), []
    guard.observe(A, status="ACTIVE")

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return function(*args, **kwargs)

        return wrapper

    @guard.guarded()
    @noted
    def send(to: str, from_number: str = "") -> str:
        return from_number

    assert send(ANN) == A
    assert seen == [(ANN, A)]


def test_calls_in_many_tasks_do_not_mix() -> None:
    guard = AsyncSendGuard(policy=Policy(new_conversations=Quota(1, per=86400)))

    @guard.guarded
    async def send(to: str, from_number: str = "") -> tuple[str, str]:
        await asyncio.sleep(0)
        return to, from_number

    async def many() -> list[tuple[str, str]]:
        for i in range(50):
            await guard.observe(f"+1202555{i:04d}", status="ACTIVE")
        return await asyncio.gather(*(send(f"+1415555{i:04d}") for i in range(50)))

    got = asyncio.run(many())
    assert [to for to, _ in got] == [f"+1415555{i:04d}" for i in range(50)]
    assert len({line for _, line in got}) == 50


# Wrong use, which fails where the function is defined


def no_recipients(text: str, from_number: str = "") -> None: ...
def starred(*to: str, from_number: str = "") -> None: ...
def double_starred(from_number: str = "", **to: str) -> None: ...
def no_line(to: str, text: str) -> None: ...
def only_options(to: str, **options: str) -> None: ...
def line_in_stars(to: str, *from_number: str) -> None: ...
def line_by_position(to: str, from_number: str = "", /) -> None: ...
def line_required(to: str, from_number: str) -> None: ...
def line_fixed(to: str, from_number: str = A) -> None: ...
def key_in_stars(to: str, from_number: str = "", **key: str) -> None: ...
def good(to: str, from_number: str = "", key: str = "") -> None: ...
def generator(to: str, from_number: str = "") -> Iterator[int]:
    yield 1


async def coroutine(to: str, from_number: str = "") -> None: ...
async def async_generator(to: str, from_number: str = "") -> AsyncIterator[int]:
    yield 1


class AsyncCall:
    async def __call__(self, to: str, from_number: str = "") -> None: ...


def test_the_good_function_is_good() -> None:
    made = SendGuard().guarded(good, to="to", into="from_number", idempotency_key="key", kind="chat", max_wait=1)
    assert (made.__name__, inspect.signature(made)) == ("good", inspect.signature(good))
    assert inspect.iscoroutinefunction(AsyncSendGuard().guarded(coroutine))
    assert inspect.iscoroutinefunction(AsyncSendGuard().guarded(AsyncCall()))


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (no_recipients, {}, TypeError, "no_recipients has no parameter 'to' (it has text, from_number): name the one"),
    (no_recipients, {}, TypeError, '@guard.guarded(to="recipient")'),
    (good, {"to": "recipient"}, TypeError, "good has no parameter 'recipient'"),
    (good, {"to": [ANN]}, TypeError, f"good has no parameter ['{ANN}']"),
    (lambda: None, {}, TypeError, "has no parameter 'to' (it has none)"),
    (starred, {}, TypeError, "starred takes *to: write `to: str | list[str]` instead"),
    (double_starred, {}, TypeError, "double_starred takes **to: write `to: str | list[str]` instead"),
    (
        no_line,
        {},
        TypeError,
        "no_line has no parameter 'from_number' (it has to, text): write `from_number: str = \"\"`",
    ),
    (good, {"into": "line"}, TypeError, 'write `line: str = ""` to receive the line, or name another'),
    (good, {"into": 7}, TypeError, "good has no parameter 7"),
    (only_options, {}, TypeError, 'write `from_number: str = ""`'),
    (line_in_stars, {}, TypeError, 'line_in_stars takes *from_number: write `from_number: str = ""` instead'),
    (only_options, {"into": "options"}, TypeError, 'only_options takes **options: write `options: str = ""` instead'),
    (line_by_position, {}, TypeError, 'by position only: write `from_number: str = ""` after the `/`'),
    (line_required, {}, TypeError, 'leave from_number to the guard: write `from_number: str = ""`'),
    (line_fixed, {}, TypeError, 'leave from_number to the guard: write `from_number: str = ""`'),
    (good, {"idempotency_key": "order"}, TypeError, "good has no parameter 'order'"),
    (key_in_stars, {"idempotency_key": "key"}, TypeError, "key_in_stars takes **key: write `key: str` instead"),
    (good, {"to": "from_number"}, TypeError, "three different parameters"),
    (good, {"idempotency_key": "from_number"}, TypeError, "three different parameters"),
    (good, {"kind": "fax"}, ValueError, "kind must be 'chat' or 'voice_memo'"),
    (good, {"kind": None}, ValueError, "kind must be 'chat' or 'voice_memo'"),
    (good, {"max_wait": -1}, ValueError, "max_wait must be from 0 to 86400 seconds"),
    (good, {"max_wait": "5"}, ValueError, "max_wait must be from 0 to 86400 seconds"),
    (good, {"max_wait": float("nan")}, ValueError, "max_wait must be from 0 to 86400 seconds"),
    (good, {"exclude": A}, ValueError, "exclude must be an iterable of phone numbers"),
    (good, {"exclude": ["x"]}, ValueError, "exclude must be an E.164 phone number"),
    (good, {"line_type": "SMS"}, ValueError, "line_type must be 'iMessage', 'RCS' or None"),
    (good, {"recipient": "to"}, TypeError, "guarded has no option 'recipient'; its options are to, into"),
    (good, {"from_number": A}, TypeError, "guarded has no option 'from_number'"),
    (generator, {}, TypeError, "generator is a generator, which sends later than it is called"),
    (async_generator, {}, TypeError, "async_generator is a generator"),
    (coroutine, {}, TypeError, "coroutine is async: guard it with an AsyncSendGuard, or write `def`"),
    (partial(coroutine, ANN), {}, TypeError, "is async: guard it with an AsyncSendGuard"),
    (AsyncCall(), {}, TypeError, "is async: guard it with an AsyncSendGuard"),
    (Store, {}, TypeError, "Store is a class: put @guard.guarded on its method that sends"),
    (staticmethod(good), {}, TypeError, "@staticmethod must stand above @guard.guarded, not below it: swap"),
    (classmethod(good), {}, TypeError, "@classmethod must stand above @guard.guarded, not below it: swap"),
    (property(good), {}, TypeError, "@property must stand above @guard.guarded, not below it: swap"),
    ("recipient", {}, TypeError, "not 'recipient'; options have names: @guard.guarded(to=\"recipient\")"),
    (7, {}, TypeError, "guarded takes a function, not 7"),
    (dict.update, {}, TypeError, "tells no signature: guard a function of your own that calls it"),
]


@pytest.mark.parametrize(("function", "options", "error", "says"), WRONG, ids=[case[3][:50] for case in WRONG])
def test_wrong_use_fails_at_import_and_says_what_to_write(
    function: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    guard = SendGuard()
    with pytest.raises(error, match=re.escape(says)):
        guard.guarded(**options)(function)
    with pytest.raises(error, match=re.escape(says)):
        guard.guarded(function, **options)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (good, "good is not async: guard it with a SendGuard, or write `async def`"),
        (generator, "generator is a generator"),
        (async_generator, "async_generator is a generator"),
        (AsyncCall, "AsyncCall is a class"),
        (classmethod(coroutine), "@classmethod must stand above"),
    ],
)
def test_wrong_use_of_the_async_guard(function: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        AsyncSendGuard().guarded(function)
    with pytest.raises(TypeError, match=re.escape(says)):
        AsyncSendGuard().guarded()(function)


def test_a_checker_sees_the_function_as_it_was(tmp_path: Path) -> None:
    """`typing_guarded.py` states the types, and as `type: ignore` the errors, each of which mypy must find."""
    root = Path(__file__).parent.parent
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"),
            *("--cache-dir", str(tmp_path), "tests/typing_guarded.py"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "no issues found in 1 source file" in checked.stdout
