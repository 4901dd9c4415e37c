"""Where alerts go: apprise URLs and callbacks, each told in a thread or task of its own, so that one that hangs
holds nobody else up. No secret of a URL reaches a log: what apprise itself would log while it tells is held back.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol
from urllib.parse import quote

from sendguard.alerts.models import Alert, Severity
from sendguard.logs import LOGGER

Callback = Callable[[Alert], object]
AsyncCallback = Callable[[Alert], object] | Callable[[Alert], Awaitable[object]]
Work = concurrent.futures.Future[str | None] | asyncio.Future[str | None]
"""Tells one alert: the result is None if it was told, else why not, in words without secrets."""

_TYPES = {Severity.PAGE: "failure", Severity.WARNING: "warning", Severity.INFO: "info", Severity.RECOVERY: "success"}
_CHATTY = ("apprise", "urllib3.connectionpool", "urllib3.util.retry", "requests")
_STATUS = re.compile(r"error=([1-5][0-9]{2})\b")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://")
_EXAMPLE = "+12025550101"
_held_back: ContextVar[list[str] | None] = ContextVar("sendguard_alert_logs", default=None)


class Channel(Protocol):
    """One that is told of alerts. label: its name in logs; identity: what tells it from others, may be secret."""

    label: str
    identity: str

    def start(self, alert: Alert) -> Work:
        """Begin to tell it, without waiting."""
        ...


def in_thread(tell: Callable[[], str | None], name: str) -> concurrent.futures.Future[str | None]:
    """Call a function in a daemon thread of its own, which keeps no process from ending."""
    work: concurrent.futures.Future[str | None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work.set_result(tell())
        except BaseException as error:
            work.set_result(type(error).__name__)

    work.set_running_or_notify_cancel()
    threading.Thread(target=run, name=name, daemon=True).start()
    return work


class _HoldBack(logging.Filter):
    """Keeps what is logged while a channel is told out of the log: apprise's lines may hold a URL's secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        kept = _held_back.get()
        if kept is None:
            return True
        kept.append(record.getMessage())
        return False


@cache
def _apprise() -> Any:
    try:
        import apprise
    except ModuleNotFoundError:
        raise ValueError("urls need the extra: pip install 'sendguard[alerts]'") from None
    for name in _CHATTY:
        logging.getLogger(name).addFilter(_HoldBack())
    return apprise


@contextmanager
def _quietly() -> Iterator[list[str]]:
    kept: list[str] = []
    token = _held_back.set(kept)
    try:
        yield kept
    finally:
        _held_back.reset(token)


def _why(logged: list[str]) -> str:
    """Why apprise could not tell, from what it would have logged: only what cannot hold a secret."""
    text = "\n".join(logged)
    if found := _STATUS.search(text):
        return f"HTTP {found[1]}"
    return "connection error" if "onnection" in text else "refused"


class UrlChannel:
    """An apprise URL; `{line}` in it stands for the number of the line. Raises ValueError, which quotes no URL."""

    def __init__(self, url: str, label: str) -> None:
        scheme = _SCHEME.match(url)
        self.identity, self._url = url, url
        self.label = f"{label} ({scheme[1].lower()})" if scheme else label
        with _quietly():
            if self._service(_EXAMPLE) is None:
                raise ValueError(f"{self.label} is no URL that apprise can use")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    def _service(self, number: str) -> Any:
        """The service behind the URL; without a deadline of apprise's own, whose threads all services share."""
        apprise = _apprise()
        asset = apprise.AppriseAsset(service_timeout=0)
        return apprise.Apprise.instantiate(self._url.replace("{line}", quote(number, safe="")), asset=asset)

    def start(self, alert: Alert) -> Work:
        """Tell it in a thread of its own."""
        return in_thread(lambda: self._tell(alert), f"sendguard-alert-{self.label}")

    def _tell(self, alert: Alert) -> str | None:
        with _quietly() as logged:
            service = _apprise().Apprise()
            service.add(self._service(alert.number))
            told = service.notify(
                title=alert.title, body=alert.text, notify_type=_TYPES[alert.severity], body_format="text"
            )
        return None if told else _why(logged)


class CallbackChannel:
    """A function of the user's. An exception in it is logged, and it is not called again for that alert."""

    def __init__(self, callback: AsyncCallback, index: int) -> None:
        name = getattr(callback, "__qualname__", type(callback).__qualname__)
        self.label = f"callback {name}"
        self.identity = f"callback {getattr(callback, '__module__', '')}.{name} {index}"
        self._callback = callback

    @property
    def is_async(self) -> bool:
        """True if it must be awaited."""
        call = getattr(self._callback, "__call__", None)  # noqa: B004 (an object may have an async one)
        return inspect.iscoroutinefunction(self._callback) or inspect.iscoroutinefunction(call)

    def start(self, alert: Alert) -> Work:
        """Call it in a thread of its own, or await it in a task."""
        if self.is_async:
            return asyncio.ensure_future(self._await(alert))
        return in_thread(lambda: self._call(alert), f"sendguard-alert-{self.label}")

    def _call(self, alert: Alert) -> None:
        try:
            self._callback(alert)
        except Exception:
            self._log(alert)

    async def _await(self, alert: Alert) -> None:
        try:
            await self._callback(alert)  # type: ignore[misc]  # `is_async` says so
        except Exception:
            self._log(alert)

    def _log(self, alert: Alert) -> None:
        LOGGER.exception(
            "%s failed on alert %s",
            self.label,
            alert.alert_id,
            extra={"event": "alert_callback_failed", "channel": self.label, "alert_id": alert.alert_id},
        )
