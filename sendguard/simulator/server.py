"""The simulator itself: an HTTP server in a thread of its own, and the knobs and records that a test holds."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import uvicorn

from sendguard.models import Health, LineStatus

from .app import BASE_PATH, Api
from .audits import AuditRecord
from .delivery import Deliverer
from .health import HealthModel
from .model import (
    Delivery,
    DeliveryKnobs,
    Event,
    Faults,
    Generation,
    LineType,
    SentRecord,
    SimulatedLine,
    Subscription,
    WebhookGeneration,
)
from .state import Account
from .subscriptions import new_secret

_START_SECONDS = 10.0


class _Server(uvicorn.Server):
    """A uvicorn server that says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: threading.Event) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()


class Simulator:
    """A stand-in for the Linq Partner API v3 on 127.0.0.1, over real HTTP.

    lines: the account's numbers, E.164. line_types: those that are not "iMessage". webhook_secret: signs what goes to
    in-process subscriptions that name no secret; made up if absent. health_model: None leaves lines to the knobs.
    generation, webhook_generation: which fields polls and webhooks carry (see linq/FACTS.md); may be set at any time.
    port: 0 takes a free one. seed: of the dice behind `faults` and `delivery`. `audit` has the knobs of audits.

    Use it as a context manager, or call `start` and `stop`. Every method may be called from any thread.
    """

    def __init__(
        self,
        lines: Iterable[str] = ("+12025550101", "+12025550102", "+12025550103"),
        *,
        webhook_secret: str | None = None,
        health_model: HealthModel | None = None,
        generation: Generation = "reputation",
        webhook_generation: WebhookGeneration = "reputation",
        line_types: Mapping[str, LineType] | None = None,
        api_key: str | None = None,
        port: int = 0,
        seed: int = 0,
    ) -> None:
        self.api_key = api_key or f"sim_{secrets.token_hex(16)}"
        self.webhook_secret = webhook_secret or new_secret()
        self.faults = Faults()
        self.delivery = DeliveryKnobs()
        self.port = port
        self._lock = threading.RLock()
        self._events: list[Event] = []
        self._deliverer = Deliverer(self.delivery, random.Random(f"{seed} delivery"))
        numbers = [_number(line) for line in lines]
        self._account = Account(numbers, line_types or {}, health_model, webhook_generation, self._publish)
        dice = random.Random(f"{seed} faults")
        self.audit = self._account.audits.knobs
        self._api = Api(self._account, self._lock, self.api_key, generation, self.faults, dice)
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None

    # Running

    @property
    def base_url(self) -> str:
        """What the official SDK takes as `base_url`: everything before `/v3`."""
        return f"http://127.0.0.1:{self.port}{BASE_PATH}"

    def start(self) -> Self:
        """Listen. Returns once requests are answered; raises OSError if the port is taken."""
        if self._thread:
            raise RuntimeError("the simulator is already running")
        listener = _listen(self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._api.app(),
            lifespan="off",
            log_level="warning",
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
        )
        listening = threading.Event()
        self._server = _Server(config, listening)
        self._thread = threading.Thread(target=self._run, args=(listener,), name="sendguard-simulator", daemon=True)
        self._thread.start()
        if not listening.wait(_START_SECONDS):
            raise RuntimeError(f"the simulator did not start within {_START_SECONDS:g} s")
        return self

    def stop(self) -> None:
        """Stop listening and give up outstanding deliveries. The records stay readable."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self, listener: socket.socket) -> None:
        with listener:
            asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        assert self._server is not None
        await self._deliverer.start()
        ticking = asyncio.ensure_future(self._tick())
        try:
            await self._server.serve(sockets=[listener])
        finally:
            ticking.cancel()
            await self._deliverer.stop()

    async def _tick(self) -> None:
        while (model := self._account.health_model) is not None:
            await asyncio.sleep(model.tick)
            with self._lock:
                self._account.tick(time.time())

    def _publish(self, event: Event) -> None:
        self._events.append(event)
        self._deliverer.publish(event, self._account.subscriptions)

    # Which shapes

    @property
    def generation(self) -> Generation:
        """The shape of `GET /v3/phone_numbers`: "plain", "health_status", "both" or "reputation"."""
        return self._api.generation

    @generation.setter
    def generation(self, value: Generation) -> None:
        self._api.generation = value

    @property
    def webhook_generation(self) -> WebhookGeneration:
        """The shape of `phone_number.status_updated`: "status_only", "health_status", "both" or "reputation"."""
        return self._account.webhook_generation

    @webhook_generation.setter
    def webhook_generation(self, value: WebhookGeneration) -> None:
        self._account.webhook_generation = value

    # Knobs

    def subscribe(self, url: str, secret: str | None = None, events: Iterable[str] | None = None) -> Subscription:
        """Send webhooks to `url`; events: the types wanted, None for all. Returns the subscription."""
        wanted, now = None if events is None else frozenset(events), time.time()
        made = Subscription(url, secret or self.webhook_secret, wanted, created_at=now, updated_at=now)
        with self._lock:
            self._account.subscriptions[made.id] = made
        return made

    def flip(self, number: str, status: LineStatus | str | None = None, health: Health | str | None = None) -> str:
        """Change a line's status, health or both, and emit `phone_number.status_updated`. Returns its event id."""
        new_status = None if status is None else LineStatus(status)
        new_health = None if health is None else Health(health)
        with self._lock:
            return self._account.flip(number, new_status, new_health, time.time())

    def assign(self, number: str, line_type: LineType = "iMessage") -> str:
        """Give the account a line, ACTIVE and HEALTHY. Returns the id of `phone_number.assigned`."""
        with self._lock:
            return self._account.assign(_number(number), line_type, time.time())

    def release(self, number: str) -> str:
        """Take a line from the account. Returns the id of `phone_number.released`."""
        with self._lock:
            return self._account.release(number, time.time())

    def make_ineligible(self, number: str, until: float) -> None:
        """Refuse sends on a line with 403 2027 until Unix second `until` (`math.inf`: for good). No webhook tells."""
        with self._lock:
            self._account.line(number).ineligible_until = until

    def receive(self, from_handle: str, line: str, text: str) -> str:
        """A person writes `text` to `line`: a STOP word opts them out, anything else in. Returns the event id."""
        with self._lock:
            return self._account.receive(from_handle, line, text, time.time())

    def fail_message(self, message_or_chat_id: str, code: int = 4002) -> str:
        """Emit `message.failed` for a message, or for the last one of a chat. Returns the event id."""
        with self._lock:
            return self._account.fail_message(message_or_chat_id, code, time.time())

    def drain(self, timeout: float = 10.0) -> bool:
        """Wait up to `timeout` seconds until no delivery is outstanding, retries included. False if time ran out."""
        return self._deliverer.drain(timeout)

    # Records, each a copy

    @property
    def sends(self) -> list[SentRecord]:
        """Every send request that arrived, in order, refused ones too; repeats of a taken one are in `replays`."""
        with self._lock:
            return list(self._account.sends)

    @property
    def replays(self) -> list[SentRecord]:
        """Requests that repeated an idempotency key: they got the first answer, and nothing was sent."""
        with self._lock:
            return list(self._account.replays)

    @property
    def audits(self) -> list[AuditRecord]:
        """Every reputation audit that was started, in order."""
        with self._lock:
            return list(self._account.audits.started)

    @property
    def audits_refused(self) -> list[str]:
        """The lines whose audit was refused by its cooldown, in order."""
        with self._lock:
            return list(self._account.audits.refused)

    def sends_to_flagged(self) -> list[SentRecord]:
        """The send requests, all refused, that named a line while it was FLAGGED."""
        return [record for record in self.sends if record.line_status is LineStatus.FLAGGED]

    @property
    def deliveries(self) -> list[Delivery]:
        """Every attempt to deliver a webhook that has ended, in that order."""
        return list(self._deliverer.deliveries)

    @property
    def events(self) -> list[Event]:
        """Every event emitted, subscribed to or not, in order."""
        with self._lock:
            return list(self._events)

    def lines(self) -> list[SimulatedLine]:
        """The account's lines as they stand now."""
        with self._lock:
            return [replace(line) for line in self._account.lines.values()]


def _listen(port: int) -> socket.socket:
    """A listening socket. It names TCP: asyncio turns Nagle's delay (40 ms an answer) off only where that is said."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _number(text: str) -> str:
    if not re.fullmatch(r"\+[1-9]\d{6,14}", text, re.ASCII):
        raise ValueError(f"lines: {text!r} is not an E.164 number")
    return text
