"""No secret in a text, an error or a log: the claims S30 and S31 of docs/security.md."""

from __future__ import annotations

import asyncio
import base64
import importlib
import inspect
import json
import logging
import pkgutil
import pprint
import socketserver
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import sendguard
from sendguard import (
    AsyncSendGuard,
    AsyncSendGuardTransport,
    LinqError,
    Policy,
    Reason,
    SendGuard,
    SendGuardTransport,
    StoreUnavailable,
    WebhookRejected,
)
from sendguard.alerts import Rule
from sendguard.cli.app import app as command
from sendguard.linq.client import AsyncLinqClient, LinqClient
from sendguard.linq.client import Settings as LinqSettings
from sendguard.middleware.webhooks import WebhookApp
from sendguard.protocol import Protocol
from sendguard.sidecar.app import create_app
from sendguard.sidecar.gate import Gate
from sendguard.sidecar.service import Service
from sendguard.sidecar.settings import ConfigError, Settings
from tests.servers import Server, free_port, valkey_binary
from tests.support import standard_headers

_WORD = "Pa55-"
STORE_PASSWORD, TLS_PASSWORD, SENTINEL_PASSWORD = _WORD + "store", _WORD + "tls", _WORD + "sentinel"
API_KEY, HASH_KEY, TOKEN = _WORD + "api-key", _WORD + "hash-key", _WORD + "token"
ALERT_URL = f"json://user:{_WORD}alert@127.0.0.1:1/{_WORD}path"
_BEHIND = b"Pa55-webhook-secret-of-some-size"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(_BEHIND).decode()
NEEDLES = (_WORD, WEBHOOK_SECRET.removeprefix("whsec_")[:20], base64.b64encode(_BEHIND).decode()[-12:])
URL = f"redis://guard:{STORE_PASSWORD}@127.0.0.1:{{port}}/0"
GIVEN: dict[str, Any] = {"webhook_secret": [WEBHOOK_SECRET], "hash_key": HASH_KEY, "api_key": API_KEY, "timeout": 0.2}


def secrets_in(text: object) -> list[str]:
    return [needle for needle in NEEDLES if needle in str(text)]


def texts_of(thing: Any) -> Iterator[str]:
    """Every way in which an object comes to be printed."""
    yield from (repr(thing), str(thing), f"{thing}", f"{thing!r:.9999}", ascii(thing), pprint.pformat(thing))
    yield from (repr([thing]), repr({"it": thing}), "%s %r" % (thing, thing))  # noqa: UP031


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, what `from None` hides included."""
    seen: list[BaseException] = [error]
    for each in seen:
        yield each
        seen += [other for other in (each.__cause__, each.__context__) if other is not None and other not in seen]


def check(error: BaseException) -> None:
    """Fail if an error, or any that led to it, shows a secret by itself."""
    for each in chain_of(error):
        assert not secrets_in("".join(traceback.format_exception_only(each))), type(each)
        assert not secrets_in((each.args, getattr(each, "__notes__", ()), each.__dict__)), type(each)
    assert not secrets_in("".join(traceback.format_exception(error)))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that any library logs, at DEBUG; nothing of it may hold a secret."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert not secrets_in(caplog.text)
    assert not [record for record in caplog.records if secrets_in((record.args, record.__dict__))]


def configuration(**options: Any) -> Settings:
    return Settings(**{"store": URL.format(port=1), "tokens": [TOKEN], **GIVEN, **options})


def tls_url(scheme: str = "rediss") -> str:
    service = "/service" if "sentinel" in scheme else ""
    sentinel = f"&sentinel_password={SENTINEL_PASSWORD}" if service else ""
    return f"{scheme}://guard:{STORE_PASSWORD}@localhost:1{service}/0?ssl_password={TLS_PASSWORD}{sentinel}"


def _guard() -> SendGuard:
    return SendGuard(URL.format(port=1), **GIVEN)


def _async_guard() -> AsyncSendGuard:
    return AsyncSendGuard(URL.format(port=1), **GIVEN)


MADE: dict[type, Callable[[], Any]] = {
    SendGuard: _guard,
    AsyncSendGuard: _async_guard,
    LinqClient: lambda: LinqClient(API_KEY),
    AsyncLinqClient: lambda: AsyncLinqClient(API_KEY),
    LinqSettings: lambda: LinqSettings.resolve(API_KEY, None, 1, 0),
    Settings: configuration,
    Protocol: lambda: Protocol("p", Policy(), HASH_KEY),
    Gate: lambda: Gate(create_app(configuration()), [TOKEN]),
}
"""Every class that takes a secret, with one made of secrets that the tests know again."""
HOLDERS: list[Callable[[], Any]] = [
    *MADE.values(),
    lambda: SendGuard(tls_url(), **GIVEN),
    lambda: AsyncSendGuard(tls_url("rediss+cluster"), **GIVEN),
    lambda: SendGuard(tls_url("rediss+sentinel"), **GIVEN),
    lambda: SendGuardTransport(_guard()),
    lambda: AsyncSendGuardTransport(_async_guard()),
    lambda: WebhookApp(_async_guard()),
    lambda: Service(_async_guard(), 1.0),
    lambda: create_app(configuration()),
    lambda: create_app(configuration()).openapi(),
    lambda: configuration().model_dump(),
    lambda: configuration().model_dump_json(),
    lambda: configuration().warnings(),
    lambda: _guard().poller(),
    lambda: _guard().sending("+14155550123"),
    lambda: _guard().decide,
    lambda: _guard().alerter([ALERT_URL]),
    lambda: _guard().alerter([ALERT_URL])._flows._plan,
    lambda: _guard().alerter([ALERT_URL])._flows._plan.channels,
    lambda: Rule(urls=[ALERT_URL]),
    lambda: configuration(alert_urls=[ALERT_URL]),
    lambda: _guard()._flows,
    lambda: _guard()._flows.protocol,
    lambda: _guard()._store,
    lambda: _async_guard()._store,
]
_TAKES_A_SECRET = {"store", "webhook_secret", "hash_key", "api_key", "tokens", "password"}


def _public_classes() -> set[type]:
    """Every class of the package whose name is public; the simulator and the demo have no secret."""
    found: set[type] = set()
    for module in pkgutil.walk_packages(sendguard.__path__, "sendguard."):
        if ".simulator" in module.name or ".demo" in module.name:
            continue
        members = vars(importlib.import_module(module.name)).values()
        found |= {each for each in members if inspect.isclass(each) and each.__module__.startswith("sendguard")}
    return {each for each in found if not each.__name__.startswith("_")}


def test_every_class_that_takes_a_secret_is_among_those_that_are_looked_at() -> None:
    """S30: a class that is new and takes a secret fails here until it is looked at."""
    inner = {"Store", "AsyncStore", "TokenBucket", "Line", "Loan"}
    takers = {
        each
        for each in _public_classes()
        if not issubclass(each, BaseException) and _TAKES_A_SECRET & set(inspect.signature(each.__init__).parameters)
    }
    assert {each for each in takers if each.__name__ not in inner} <= set(MADE)
    assert takers >= {SendGuard, AsyncSendGuard, LinqClient, AsyncLinqClient}


@pytest.mark.parametrize("make", HOLDERS, ids=range(len(HOLDERS)))
def test_no_object_shows_a_secret(make: Callable[[], Any], log: pytest.LogCaptureFixture) -> None:
    """S30: however an object is printed, no secret that it was made of is seen."""
    thing = make()
    for text in texts_of(thing):
        assert not secrets_in(text)
    assert log is not None


def _alerter(urls: Any) -> Any:
    return _guard().alerter(urls)


BAD: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((kind, {"store": store}) for kind in (SendGuard, AsyncSendGuard) for store in (
        f"redis://u:{STORE_PASSWORD}@h:port/0", f"redis://u:{STORE_PASSWORD}/x@h/0", f"http://u:{STORE_PASSWORD}@h",
        f"redis://:{STORE_PASSWORD}@[h", f"redis://:{STORE_PASSWORD}@h:99999999/0",
        f"redis://h/0?password={STORE_PASSWORD}&x=y",
        f"redis+sentinel://u:{STORE_PASSWORD}@h/a/b/c", f"redis+cluster://u:{STORE_PASSWORD}@h/5",
        f"redis+sentinel://u:{STORE_PASSWORD}@h:x/a", f"rediss://h/0?ssl_password={TLS_PASSWORD}&ssl_nothing=1",
        f"redis://h/0?socket_timeout={STORE_PASSWORD}", STORE_PASSWORD, {"password": STORE_PASSWORD},
    )),
    *((kind, GIVEN | change) for kind in (SendGuard, AsyncSendGuard) for change in (
        {"webhook_secret": [WEBHOOK_SECRET, 5]}, {"webhook_secret": {WEBHOOK_SECRET}}, {"hash_key": [HASH_KEY]},
        {"hash_key": {HASH_KEY: 1}}, {"pool": "a pool"}, {"timeout": TOKEN}, {"policy": TOKEN}, {"refresh": TOKEN},
    )),
    *((_alerter, {"urls": urls}) for urls in ([f"nothing://{_WORD}"], ALERT_URL, [5, ALERT_URL], [f"slack://{_WORD}"])),
    *((kind, change) for kind in (LinqClient, AsyncLinqClient) for change in (
        {"api_key": API_KEY + "\r\nX: y"}, {"api_key": API_KEY + "\u00e9"},
        {"api_key": API_KEY, "base_url": f"https://u:{_WORD}@h"},
        {"api_key": API_KEY, "base_url": _WORD}, {"api_key": API_KEY, "timeout": -1},
        {"api_key": API_KEY, "retries": -1},
    )),
    *((configuration, change) for change in (
        {"store": f"redis://:{STORE_PASSWORD}@h:x"}, {"tokens": [TOKEN, TOKEN + " x"]}, {"tokens": {TOKEN: 1}},
        {"tokens": 5},
        {"api_key": [API_KEY]}, {"hash_key": {"k": HASH_KEY}}, {"webhook_secret": [[WEBHOOK_SECRET]]}, {"port": TOKEN},
        {"policy": TOKEN}, {"timeout": TOKEN}, {"host": "0.0.0.0", "tokens": []},
        {"poll_interval": TOKEN}, {"api_base_url": f"ftp://{TOKEN}@h"},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options"), BAD, ids=range(len(BAD)))
def test_no_error_of_bad_input_shows_a_secret(
    make: Callable[..., Any], options: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    """S30: an error names the setting that is wrong, and neither it nor what led to it shows a value."""
    with pytest.raises((ValueError, TypeError)) as caught:
        make(**options)
    assert log is not None
    if make is configuration:
        return _check_pydantic(caught.value)
    return check(caught.value)


def _check_pydantic(error: BaseException) -> None:
    """A setting's error as it is shown; `Settings.load`, by which the command reads, hands on nothing else."""
    assert not secrets_in(error)
    assert not secrets_in("".join(traceback.format_exception(error)))


CONFIGURATIONS = [
    f'store = "redis://:{STORE_PASSWORD}@h:x"', f'tokens = ["{TOKEN} and more"]', f"tokens = {TOKEN}",
    f'webhook_secret = ["{WEBHOOK_SECRET}"', f'port = "{TOKEN}"',
    f'store = "rediss://h/0?ssl_password={TLS_PASSWORD}&no_such=1"', f'api_key = "{API_KEY}"\napi_key = "{API_KEY}"',
    f'[policy]\nat_risk = "{TOKEN}"', f'hash_key = ["{HASH_KEY}"]',
]  # fmt: skip


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_the_command_names_what_is_wrong_and_shows_no_secret(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """S30: `sendguard serve --check` says which setting is wrong, and not what it was."""
    monkeypatch.setenv("SENDGUARD_POLL_INTERVAL", "0")
    file = tmp_path / "sidecar.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as wrong:
        Settings.load(file).guard()
    check(wrong.value) if wrong.value.__context__ is None else _check_pydantic(wrong.value)
    with pytest.raises(SystemExit):
        command(["serve", "--check", "--config", str(file)])
    shown = capsys.readouterr()
    assert shown.err.startswith("sendguard: ")
    assert not secrets_in(shown.out + shown.err)


# Out of reach --------------------------------------------------------------------------------------------------------


def _fails(guard: SendGuard, error: type[Exception], call: Callable[[SendGuard], Any]) -> None:
    with guard, pytest.raises(error) as caught:
        call(guard)
    check(caught.value)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Server]:
    """A store that asks for another password."""
    server = Server(valkey_binary(), tmp_path / "locked")
    server.client.execute_command("ACL", "SETUSER", "default", "resetpass", ">something-else")
    yield server
    server.kill()


@pytest.mark.parametrize("url", [URL, tls_url(), tls_url("rediss+sentinel"), tls_url("rediss+cluster")], ids=range(4))
def test_a_store_out_of_reach_shows_no_secret(url: str, log: pytest.LogCaptureFixture) -> None:
    """S31: neither the error nor the log tells more of a store that is not there than that it failed."""
    url = url.format(port=free_port()).replace(":1/", f":{free_port()}/")
    _fails(SendGuard(url, **GIVEN), StoreUnavailable, SendGuard.lines)
    with SendGuard(url, **GIVEN) as guard:
        assert not guard.decide("+14155550123").allowed
    assert "the store failed" in log.text


def test_a_store_that_refuses_shows_no_secret(locked: Server, log: pytest.LogCaptureFixture) -> None:
    """S31: a password that is wrong is in neither the error nor the log, for both guards."""
    url = URL.format(port=locked.port)
    _fails(SendGuard(url, **GIVEN), StoreUnavailable, SendGuard.lines)

    async def ask() -> None:
        guard = AsyncSendGuard(url, **GIVEN)
        with pytest.raises(StoreUnavailable) as caught:
            await guard.lines()
        check(caught.value)
        await guard.close()

    asyncio.run(ask())
    assert log is not None


class _Repeats(socketserver.BaseRequestHandler):
    """A store that answers a command with an error that repeats it, as servers do with one that they do not know."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            said = data.replace(b"\r", b" ").replace(b"\n", b" ")
            for _ in range(data.count(b"*")):
                self.request.sendall(b"-ERR unknown command, with args beginning with: " + said + b"\r\n")


@pytest.mark.parametrize("credentials", [f"guard:{STORE_PASSWORD}@", ""], ids=["while connecting", "later"])
def test_a_store_that_repeats_what_it_was_sent_shows_no_secret(credentials: str, log: pytest.LogCaptureFixture) -> None:
    """S31: a server's own words are neither logged nor raised."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Repeats) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://{credentials}127.0.0.1:{server.server_address[1]}/0?protocol=2"
        with SendGuard(url, **{**GIVEN, "pool": f"{_WORD}pool", "timeout": 2.0}) as guard:
            for call in (guard.lines, guard.transitions):
                with pytest.raises(StoreUnavailable, match="the store failed") as caught:
                    call()
                assert not secrets_in("".join(traceback.format_exception(caught.value)))
            assert guard.decide("+14155550123").reason is Reason.STORE_UNAVAILABLE
        server.shutdown()
    assert "the store failed" in log.text


def _answer(status: int) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        told = json.dumps({"error": {"code": 2004, "message": request.headers["authorization"]}})
        return httpx.Response(status, text=told, headers={"location": f"https://{TOKEN}"}, request=request)

    return httpx.MockTransport(answer)


@pytest.mark.parametrize("status", [200, 302, 401, 500])
def test_an_api_that_refuses_shows_no_secret(status: int, log: pytest.LogCaptureFixture) -> None:
    """S31: the API key is in no error, even if the API repeats it."""
    with LinqClient(API_KEY, transport=_answer(status), retries=0) as client, pytest.raises(LinqError) as caught:
        client.phone_numbers(1.0)
    check(caught.value)
    assert log is not None


def test_an_api_out_of_reach_shows_no_secret(log: pytest.LogCaptureFixture) -> None:
    """S31: neither do errors of the connection, or of a poller that goes on."""
    base = f"http://127.0.0.1:{free_port()}"
    with LinqClient(API_KEY, base, retries=0) as client, pytest.raises(LinqError) as caught:
        client.phone_numbers(1.0)
    check(caught.value)
    with SendGuard("memory://", **{**GIVEN, "api_base_url": base, "timeout": 5.0}) as guard:
        guard._client = LinqClient(API_KEY, base, retries=0)
        with pytest.raises(LinqError):
            guard.sync_lines()
    assert log is not None


@pytest.mark.parametrize("body", [b"{", b'{"a": "' + _BEHIND + b'"', b"\xff", b"[]"])
def test_a_rejected_webhook_shows_neither_the_secret_nor_the_body(body: bytes, log: pytest.LogCaptureFixture) -> None:
    """S31: what is refused is not repeated."""
    headers = (
        standard_headers(body, 1_771_000_000, WEBHOOK_SECRET) if body.isascii() else {"webhook-id": WEBHOOK_SECRET}
    )
    with (
        SendGuard("memory://", clock=lambda: 1_771_000_000, **GIVEN) as guard,
        pytest.raises(WebhookRejected) as caught,
    ):
        guard.handle_webhook(body, headers)
    check(caught.value)
    assert log is not None
