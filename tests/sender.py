"""A process that sends, several threads at once: the official SDK, with the guard in front of it."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import httpx

from sendguard import Decision, Outcome, Policy, Reason, SendBlocked, SendGuard, SendGuardTransport

MEMO = "https://example.com/memo.m4a"
LET_THROUGH = Decision(True, Reason.STICKY)
"""For a send of whose decision the sender saw no more than that it was let through."""


@dataclass(frozen=True)
class Asked:
    """One question to the guard and its answer. at: Unix seconds. overruled: the API sent from an excluded line."""

    key: str
    to: str
    kind: str
    at: float
    decision: Decision
    overruled: bool = False


@dataclass(frozen=True)
class Job:
    """What one sender does. recipients: those it alone writes to; shared: those that every sender writes to."""

    store: str
    pool: str
    policy: Policy
    base_url: str
    api_key: str
    name: str
    chats: int
    memos: int
    recipients: tuple[str, ...]
    shared: tuple[str, ...]
    lines: tuple[str, ...]
    patience: float
    way: str = "decide"


class Sender:
    """Carries out a job; `asked` is what it was told."""

    def __init__(self, job: Job) -> None:
        from linq import LinqAPIV3

        self.job = job
        self.asked: list[Asked] = []
        self.sent: dict[str, float] = {}
        self.dice = random.Random(job.name)
        self.guard = SendGuard(job.store, pool=job.pool, policy=job.policy, timeout=5)
        self.client = LinqAPIV3(api_key=job.api_key, base_url=job.base_url, max_retries=0)
        self.chats: dict[tuple[str, str], str] = {}
        self.own = cycle(job.recipients)
        self.common = cycle(self.dice.sample(job.shared, len(job.shared)))

    def run(self) -> tuple[list[Asked], dict[str, float]]:
        """What was asked, and for each send that went out, by its key, when it was asked for."""
        kinds = ["chat"] * self.job.chats + ["voice_memo"] * self.job.memos
        self.dice.shuffle(kinds)
        for i, kind in enumerate(kinds):
            self.send(f"{self.job.name}-{i}", kind)
        self.guard.close()
        return self.asked, self.sent

    def send(self, key: str, kind: str) -> None:
        """Send one chat or memo, asking again until the guard lets it or there is no time left."""
        deadline = time.monotonic() + self.job.patience
        to = self.recipient(kind)
        if to is None:
            kind, to = "chat", self.dice.choice(self.job.recipients)
        attempt = 0
        while True:
            attempt += 1
            name = f"{key}.{attempt}"
            decision = self.ask(name, to, kind)
            if decision.allowed and self.deliver(name, to, kind, decision):
                return
            wait = decision.retry_after if not decision.allowed else 0.05
            if wait is None:
                wait = 0.2
            if time.monotonic() + wait > deadline:
                return
            time.sleep(wait)

    def recipient(self, kind: str) -> str | None:
        if kind == "voice_memo":
            known = [to for to in self.job.recipients if any(to == other for other, _ in self.chats)]
            return self.dice.choice(known) if known else None
        return next(self.common if self.dice.random() < 0.2 else self.own)

    def ask(self, key: str, to: str, kind: str) -> Decision:
        at = time.time()
        decision = self.guard.decide(to, kind=kind, idempotency_key=key)
        self.asked.append(Asked(key, to, kind, at, decision))
        return decision

    def deliver(self, key: str, to: str, kind: str, decision: Decision) -> bool:
        """Send over the official SDK. False if the API refused, which the guard is told."""
        import linq

        line = str(decision.from_number)
        if kind == "voice_memo" and (to, line) not in self.chats:
            self.guard.report(decision, "not_sent")
            return False
        self.sent[key] = self.asked[-1].at
        try:
            if kind == "chat":
                message: Any = {"parts": [{"type": "text", "value": "Hello"}], "idempotency_key": key}
                made = self.client.chats.create(from_=line, to=[to], message=message)
                self.chats[to, line] = made.chat.id
            else:
                self.client.chats.send_voicememo(self.chats[to, line], voice_memo_url=MEMO)
        except linq.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            code = (body.get("error") or {}).get("code")
            self.guard.report(decision, Outcome(code=code))
            return False
        except linq.APIConnectionError:
            self.guard.report(decision, "unknown")
            return False
        return True


class Wire(httpx.HTTPTransport):
    """Notes where the API sends from a line that it was asked to leave out, as it may in a chat that exists already."""

    def __init__(self) -> None:
        super().__init__()
        self.overruled: set[str] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.url.path.endswith("/v3/messages"):
            response.read()
            asked = json.loads(request.content)
            if response.is_success and response.json()["from"] in asked.get("exclude_from", ()):
                self.overruled.add(asked["message"]["idempotency_key"])
        return response


class TransportSender(Sender):
    """Code that knows of the guard only by the HTTP client it was given, and uses all four calls that send.

    It writes first from whatever line comes to hand, goes on in the chat that came of it, and starts anew where that is
    blocked; to those that others write to as well it lets the API pick the line.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        from linq import LinqAPIV3

        self.wire = Wire()
        http = httpx.Client(transport=SendGuardTransport(self.guard, self.wire), timeout=60)
        self.client = LinqAPIV3(api_key=job.api_key, base_url=job.base_url, http_client=http)
        self.chat_of: dict[str, str] = {}

    def send(self, key: str, kind: str) -> None:
        deadline, attempt = time.monotonic() + self.job.patience, 0
        to = self.recipient(kind)
        while True:
            attempt += 1
            wait = self.attempt(f"{key}.{attempt}", to, kind)
            if wait is None or time.monotonic() + wait > deadline:
                return
            time.sleep(wait)

    def recipient(self, kind: str) -> str:
        if kind == "voice_memo" and self.chat_of:
            return self.dice.choice(list(self.chat_of))
        return next(self.common if self.dice.random() < 0.2 else self.own)

    def attempt(self, key: str, to: str, kind: str) -> float | None:
        """Seconds after which to try again; None if the message is out."""
        import linq

        if to not in self.chat_of:
            kind = "chat"
        at = time.time()
        self.sent[key] = at
        try:
            self.call(key, to, kind)
        except SendBlocked as blocked:
            del self.sent[key]
            self.asked.append(Asked(key, to, kind, at, blocked.decision))
            if not blocked.retry_after:
                self.chat_of.pop(to, None)
            return blocked.retry_after or 0.2
        except linq.APIStatusError:
            self.asked.append(Asked(key, to, kind, at, LET_THROUGH))
            return 0.05
        self.asked.append(Asked(key, to, kind, at, LET_THROUGH, key in self.wire.overruled))
        return None

    def call(self, key: str, to: str, kind: str) -> None:
        message: Any = {"parts": [{"type": "text", "value": "Hello"}], "idempotency_key": key}
        chat_id = self.chat_of.get(to)
        if to in self.job.shared:
            self.client.messages.create(to=[to], message=message)
        elif chat_id is None:
            line = self.dice.choice(self.job.lines)
            chat = self.client.chats.create(from_=line, to=[to], message=message).chat
            self.chat_of[to] = chat.id
        elif kind == "chat":
            self.client.chats.messages.send(chat_id, message=message)
        else:
            self.client.chats.send_voicememo(chat_id, voice_memo_url=MEMO)


WAYS = {"decide": Sender, "transport": TransportSender}


def run(jobs: Sequence[Job]) -> list[tuple[list[Asked], dict[str, float]]]:
    """Carry out several jobs at once, a thread for each. Raises RuntimeError, which can cross processes."""
    import linq.resources  # noqa: F401 (which the SDK does when first used; two threads at once block each other)

    try:
        with ThreadPoolExecutor(len(jobs)) as threads:
            return list(threads.map(lambda job: WAYS[job.way](job).run(), jobs))
    except Exception:
        raise RuntimeError(traceback.format_exc()) from None
