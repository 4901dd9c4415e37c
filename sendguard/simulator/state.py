"""The simulated account: its lines, chats, opt-outs and subscriptions, and how they change. No I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from sendguard.models import Health, LineStatus

from . import shapes
from .audits import Audits
from .health import HealthModel
from .model import (
    ApiError,
    Attachment,
    Chat,
    Event,
    Json,
    LineType,
    SentRecord,
    SimulatedLine,
    Subscription,
    WebhookGeneration,
    invalid,
    new_id,
)

STOP_WORDS = frozenset({"STOP", "UNSUBSCRIBE", "OPTOUT", "CANCEL", "END", "QUIT"})
_OPT_OUT = re.compile(r"opt[ -]?out", re.IGNORECASE)
_HEALTH_ORDER = (Health.HEALTHY, Health.AT_RISK, Health.CRITICAL)


def is_opt_out(text: str) -> bool:
    """True for a whole message that opts its writer out, by Linq's newest rule."""
    text = text.strip()
    return text in STOP_WORDS or _OPT_OUT.fullmatch(text) is not None


class Account:
    """Everything that the simulated account knows at one time. Every method that needs the time takes it as `now`.

    publish: called with each event, in order. The caller holds one lock around every call.
    """

    def __init__(
        self,
        lines: Iterable[str],
        line_types: Mapping[str, LineType],
        health_model: HealthModel | None,
        webhook_generation: WebhookGeneration,
        publish: Callable[[Event], None],
    ) -> None:
        self.lines = {number: SimulatedLine(number, line_types.get(number, "iMessage")) for number in lines}
        self.health_model = health_model
        self.webhook_generation: WebhookGeneration = webhook_generation
        self.publish = publish
        self.audits = Audits()
        self.chats: dict[str, Chat] = {}
        self.chat_of_message: dict[str, str] = {}
        self.opted_out: set[str] = set()
        self.attachments: dict[str, Attachment] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.answers: dict[str, tuple[int, Json]] = {}
        self.pair_sends: dict[tuple[str, tuple[str, ...]], list[float]] = {}
        self.sends: list[SentRecord] = []
        self.replays: list[SentRecord] = []
        self._changed_ms: dict[str, int] = {}
        self._chats_by_recipients: dict[tuple[str, ...], list[Chat]] = {}
        self._order = 0

    def line(self, number: str) -> SimulatedLine:
        """A line of the account. Raises ValueError if it has no such line."""
        if number not in self.lines:
            raise ValueError(f"number: {number} is not a line of the simulated account")
        return self.lines[number]

    # Lines

    def flip(self, number: str, status: LineStatus | None, health: Health | None, now: float) -> str:
        """Change a line as an operator of the test wishes, and tell. Returns the event's id."""
        line = self.line(number)
        status, health = status or line.status, health or line.health
        if self.health_model:
            line.strain, line.strain_at = self.health_model.threshold(status, health), now
        return self._change(line, status, health, now)

    def strain(self, line: SimulatedLine, now: float, added: float = 0.0) -> None:
        """Let the health model judge a line, `added` strain included."""
        model = self.health_model
        if model is None:
            return
        line.strain = model.decayed(line.strain, now - line.strain_at) + added
        line.strain_at = now
        status, health = model.judge(line.status, line.health, line.strain)
        if (status, health) != (line.status, line.health):
            self._change(line, status, health, now)

    def tick(self, now: float) -> None:
        """Let the health model judge every line."""
        for line in self.lines.values():
            self.strain(line, now)

    def _change(self, line: SimulatedLine, status: LineStatus, health: Health, now: float) -> str:
        before = (line.status, line.health)
        line.status, line.health = status, health
        changed_at = self._changed_at(line.number, now)
        data = shapes.status_updated(line, before, changed_at, self.webhook_generation)
        return self._tell("phone_number.status_updated", line.number, data, now)

    def _changed_at(self, number: str, now: float) -> str:
        """Now, but at least a millisecond after the line's last change."""
        self._changed_ms[number] = max(int(now * 1000), self._changed_ms.get(number, 0) + 1)
        if number in self.lines:
            self.lines[number].changed_ms = self._changed_ms[number]
        return shapes.iso_ms(self._changed_ms[number])

    def assign(self, number: str, line_type: LineType, now: float) -> str:
        """Give the account a line, and tell. A line that it already has keeps its state."""
        self.lines.setdefault(number, SimulatedLine(number, line_type))
        data = {"phone_number": number, "changed_at": self._changed_at(number, now)}
        return self._tell("phone_number.assigned", number, data, now)

    def release(self, number: str, now: float) -> str:
        """Take a line from the account, and tell. Its chats stay readable."""
        self.line(number)
        data = {"phone_number": number, "changed_at": self._changed_at(number, now)}
        del self.lines[number]
        return self._tell("phone_number.released", number, data, now)

    def next_order(self) -> int:
        """A number larger than every one before."""
        self._order += 1
        return self._order

    def available(self, now: float, line_type: str | None = None) -> list[SimulatedLine]:
        """The lines that may send now, best first: the healthiest, then the least recently used."""
        fit = [
            line
            for line in self.lines.values()
            if line.can_send(now) and (line_type is None or line.line_type.lower() == line_type.lower())
        ]
        return sorted(fit, key=lambda line: (_HEALTH_ORDER.index(line.health), line.used))

    def pick(self, excluded: Collection[str], now: float, line_type: str | None = None) -> SimulatedLine:
        """The best line for a new chat. Raises ApiError: 409 2015, 503 4004 or 400 1005."""
        fit = self.available(now, line_type)
        if not fit and line_type is not None:
            raise ApiError(503, 4004, f"No available {line_type} line")
        if not fit:
            raise ApiError(409, 2015, "No eligible sending line")
        fit = [line for line in fit if line.number not in excluded]
        if not fit:
            raise invalid("exclude_from leaves out every available line")
        return fit[0]

    # Chats

    def chat(self, chat_id: str) -> Chat:
        """A chat. Raises ApiError 404 2001."""
        if chat_id not in self.chats:
            raise ApiError(404, 2001, "Chat not found")
        return self.chats[chat_id]

    def chats_with(self, recipients: tuple[str, ...]) -> list[Chat]:
        """The chats with exactly these recipients, the most recently active first."""
        return sorted(self._chats_by_recipients.get(recipients, ()), key=lambda chat: -chat.active)

    def open_chat(self, line: SimulatedLine, recipients: tuple[str, ...], now: float) -> Chat:
        """A new chat, told as `chat.created`."""
        chat = Chat(new_id(), line.number, line.line_type, recipients, now, now)
        self.chats[chat.id] = chat
        self._chats_by_recipients.setdefault(recipients, []).append(chat)
        self._tell("chat.created", line.number, shapes.chat(chat, opted_out=self.has_opted_out(chat)), now)
        return chat

    def touch(self, chat: Chat, message_id: str, now: float) -> None:
        """Note a message in a chat, whoever wrote it."""
        chat.updated_at, chat.active, chat.last_message_id = now, self.next_order(), message_id
        self.chat_of_message[message_id] = chat.id

    def has_opted_out(self, chat: Chat) -> bool:
        """True for a single chat whose recipient opted out; groups are never marked."""
        return not chat.is_group and chat.recipients[0] in self.opted_out

    def receive(self, sender: str, number: str, text: str, now: float) -> str:
        """A person writes to a line. Returns the id of the `message.received` event."""
        line = self.line(number)
        (self.opted_out.add if is_opt_out(text) else self.opted_out.discard)(sender)
        chat = next((chat for chat in self.chats_with((sender,)) if chat.line == number), None)
        chat = chat or self.open_chat(line, (sender,), now)
        message_id, parts = new_id(), [{"type": "text", "value": text}]
        self.touch(chat, message_id, now)
        data = shapes.message_event(message_id, chat, parts, now, sender=sender, opted_out=self.has_opted_out(chat))
        old = shapes.message_event_2025(message_id, chat, parts, now, sender=sender)
        return self._tell("message.received", number, data, now, old)

    def tell_sent(self, chat: Chat, message_id: str, parts: list[Json], key: str | None, now: float) -> None:
        """Publish `message.sent`."""
        opted_out = self.has_opted_out(chat)
        data = shapes.message_event(message_id, chat, parts, now, opted_out=opted_out, idempotency_key=key)
        old = shapes.message_event_2025(message_id, chat, parts, now)
        self._tell("message.sent", chat.line, data, now, old)

    def fail_message(self, message_or_chat_id: str, code: int, now: float) -> str:
        """Publish `message.failed` for a message, or for the last one of a chat. Returns the event's id."""
        chat = self.chats.get(self.chat_of_message.get(message_or_chat_id, message_or_chat_id))
        if chat is None:
            raise ValueError(f"message_or_chat_id: the simulator knows no message or chat {message_or_chat_id}")
        message_id = chat.last_message_id if message_or_chat_id == chat.id else message_or_chat_id
        data = {
            "code": code,
            "reason": "Phone not available" if code == 4002 else "Delivery failed",
            "chat_id": chat.id,
            "message_id": message_id,
            "failed_at": shapes.iso(now),
            "service": chat.line_type,
            "preferred_service": "auto",
        }
        return self._tell("message.failed", chat.line, data, now)

    def _tell(self, kind: str, number: str, data: Json, now: float, data_2025: Json | None = None) -> str:
        event = Event(kind, number, data, now, data_2025)
        self.publish(event)
        return event.id
