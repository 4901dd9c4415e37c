"""The two teams: one that keeps every conversation on its line come what may, and one that asks the guard."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from typing import Protocol

from linq import APIStatusError, LinqAPIV3

from sendguard import Decision, Outcome, Reason, SendBlocked, SendGuard, SendKind, StoreUnavailable, WebhookRejected
from sendguard.simulator import Simulator

from .traffic import LINES, Send, policy

MAX_WAIT = 2.0
"""Seconds that a send may wait for its line."""
LINE_EVENTS = ("phone_number.status_updated", "phone_number.assigned", "phone_number.released")


class Api:
    """The official SDK, and the chats that were made with it."""

    def __init__(self, sim: Simulator) -> None:
        self._client = LinqAPIV3(api_key=sim.api_key, base_url=sim.base_url, max_retries=0)
        self._chats: dict[tuple[str, str], str] = {}
        self._met: set[str] = set()

    def kind(self, send: Send) -> SendKind:
        """A memo needs a chat: without one, it goes as a text."""
        return send.kind if send.to in self._met else SendKind.CHAT

    def send(self, line: str, send: Send) -> None:
        """Send from `line`. Raises APIStatusError."""
        chat = self._chats.get((line, send.to))
        if send.kind is SendKind.VOICE_MEMO and chat:
            self._client.chats.send_voicememo(chat, voice_memo_url="https://example.com/memo.m4a")
        else:
            text = {"parts": [{"type": "text", "value": "Your table is ready."}]}
            made = self._client.chats.create(from_=line, to=[send.to], message=text)  # type: ignore[arg-type]
            self._chats[line, send.to] = made.chat.id
            self._met.add(send.to)

    def close(self) -> None:
        """Close the SDK's connections."""
        self._client.close()


class Team(Protocol):
    """Who sends. title: for the screen. said: what the guard answered, counted."""

    title: str
    said: Counter[str]

    def __init__(self, sim: Simulator) -> None: ...

    def send(self, key: str, send: Send) -> None:
        """Carry out one send, or not; `key` names it."""

    def close(self) -> None:
        """Let go of what was opened."""


class CarelessTeam:
    """Gives each new conversation the next line in turn, and keeps sending on it."""

    title = "without guard"

    def __init__(self, sim: Simulator) -> None:
        self.said: Counter[str] = Counter()
        self._api = Api(sim)
        self._turn, self._home, self._lock = cycle(LINES), dict[str, str](), threading.Lock()

    def send(self, key: str, send: Send) -> None:  # noqa: ARG002
        with self._lock:
            line = self._home.get(send.to) or self._home.setdefault(send.to, next(self._turn))
        with suppress(APIStatusError):
            self._api.send(line, send)

    def close(self) -> None:
        self._api.close()


class GuardedTeam:
    """Asks the guard before each send, waits for a paced line, and tells the guard what the API refused."""

    title = "with guard"

    def __init__(self, sim: Simulator) -> None:
        self.said: Counter[str] = Counter()
        self._count = threading.Lock()
        self._api = Api(sim)
        self.guard = SendGuard(
            "memory://",
            policy=policy(),
            webhook_secret=sim.webhook_secret,
            api_key=sim.api_key,
            api_base_url=sim.base_url,
            timeout=5,
        )
        self._receiver = Receiver(self.guard)
        sim.subscribe(self._receiver.url, events=LINE_EVENTS)
        self.guard.sync_lines()

    def send(self, key: str, send: Send) -> None:
        decision = self._ask(key, send)
        if not decision.allowed or decision.from_number is None:
            return self._say("denied")
        self._say("allowed")
        if decision.reason is Reason.FAILOVER:
            self._say("failed over")
        try:
            self._api.send(decision.from_number, send)
        except APIStatusError as error:
            self.guard.report(decision, Outcome(code=error.code))

    def _ask(self, key: str, send: Send) -> Decision:
        """The guard's decision; where a line is only throttled, after waiting for it."""
        kind = self._api.kind(send)
        decision = self.guard.decide(send.to, kind=kind, idempotency_key=key)
        if decision.allowed or decision.retry_after is None or decision.retry_after > MAX_WAIT:
            return decision
        self._say("waited")
        try:
            self.guard.choose_from_number(send.to, kind=kind, idempotency_key=key, max_wait=MAX_WAIT)
        except SendBlocked as blocked:
            return blocked.decision
        return self.guard.decide(send.to, kind=kind, idempotency_key=key)  # the answer that was waited for, in full

    def _say(self, what: str) -> None:
        with self._count:
            self.said[what] += 1

    def close(self) -> None:
        self._receiver.close()
        self._api.close()
        self.guard.close()


class Receiver:
    """The webhook endpoint: 2xx once the guard knows, 4xx for what is not authentic, 5xx to have it delivered again."""

    def __init__(self, guard: SendGuard) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    guard.handle_webhook(body, dict(self.headers.items()))
                    status = 204
                except WebhookRejected:
                    status = 400
                except StoreUnavailable:
                    status = 503
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the terminal for the demo."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhooks/linq"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
