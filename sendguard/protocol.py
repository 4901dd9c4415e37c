"""The store's language: a request becomes a script's keys and arguments, its reply becomes a model. Pure: no I/O.

The layout of KEYS and ARGV is told at the head of each script in `store/lua`.
"""

from __future__ import annotations

import binascii
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from sendguard.lease import Lease
from sendguard.linq.events import Consent, LineUpdate, MessageFailed, MessageSeen
from sendguard.models import Decision, Health, Line, LineStatus, Reason, SendKind
from sendguard.policy import LIMIT_NAMES, Policy
from sendguard.receipt import Receipt, receipt_text
from sendguard.replies import fields
from sendguard.request import Chat, Request, check_number, check_recipients
from sendguard.store import scripts
from sendguard.store.scripts import Call, Command
from sendguard.store.units import NEVER, limit_args, micros

POLL_COOLDOWN_CODES = frozenset({2027, 4002})
"""Error codes after which a line rests: temporarily ineligible; the sending phone is not available."""

_CHAT = re.compile(r"(\+[0-9]+)\|([\w-]{16})(\|g)?", re.ASCII)
_POOL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIERS = {Health.HEALTHY: "1", Health.AT_RISK: "2", Health.CRITICAL: "3"}
LINE_TYPES = {None: "", "iMessage": "1", "RCS": "2"}
"""The line types that may be asked for, as the scripts take them."""
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_REASONS = {reason.value: reason for reason in Reason}
_STATUSES = {status.value: status for status in LineStatus}
_HEALTHS = {health.value: health for health in Health}


class Protocol:
    """The keys of one pool and the arguments of one policy, with which every call of a guard is built.

    Raises ValueError naming `pool` if its name is not 1 to 64 letters, digits, dots, dashes or underscores.
    """

    def __init__(
        self,
        pool: str,
        policy: Policy,
        hash_key: str | bytes | None,
        *,
        record: bool = True,
        lease: Lease | None = None,
    ) -> None:
        if not isinstance(pool, str) or not _POOL.fullmatch(pool):
            raise ValueError("pool must be 1 to 64 letters, digits, '.', '_' or '-'")
        self.pool = pool
        self.policy = policy
        self._recorded = "1" if record else ""
        self.prefix = f"sendguard:{{{pool}}}:"
        secret = f"sendguard:{pool}" if hash_key is None else hash_key
        secret = secret.encode() if isinstance(secret, str) else secret
        self._hasher = hashlib.blake2b(key=hashlib.blake2b(secret).digest(), digest_size=12)
        limits = [arg for name in LIMIT_NAMES for arg in limit_args(name, getattr(policy, name))]
        self._overrides = {
            check_number("overrides", number): "".join(
                f"{arg}|" for name in LIMIT_NAMES for arg in (limit_args(name, own[name]) if name in own else ("", ""))
            )
            for number, own in sorted(policy.overrides.items())
        }
        digest = hashlib.blake2b(repr(self._overrides).encode(), digest_size=8).hexdigest()
        self._overrides_key = f"{self.prefix}overrides:{digest}"
        self.index = tuple(f"{self.prefix}index:{kind}" for kind in "123")
        self._decisions = f"{self.prefix}decisions"
        self._meta = f"{self.prefix}meta"
        self._keys = (f"{self.prefix}lines", *self.index, self._overrides_key)
        self._deciding_keys = (*self._keys, self._decisions)
        self._transitions = f"{self.prefix}transitions"
        self._revocations = f"{self.prefix}revocations"
        self._span = "0" if lease is None else str(micros(lease.ttl))
        self._most = "0" if lease is None else str(lease.sends)
        policy_fields = (
            *limits,
            "".join(_TIERS[health] for health in policy.new_conversations_on),
            policy.on_flagged,
            "1" if self._overrides else "0",
            str(micros(policy.cool_down)),
        )
        self._policy = "".join(f"{field}|" for field in policy_fields)
        self._asked = lru_cache(maxsize=256)(self._settings_of)

    def _call(
        self,
        script: scripts.Script,
        now: float | None,
        keys: tuple[str, ...],
        args: tuple[str, ...],
        repeatable: bool = True,
    ) -> Call:
        clock = "" if now is None else str(micros(now))
        return Call(script, self._keys, keys, (self._policy,), (clock, *args), repeatable)

    def key(self, name: str) -> str:
        """A key of the pool."""
        return f"{self.prefix}{name}"

    def digest(self, text: str) -> str:
        """A handle, or any other text that must not be stored as it is, as a keyed hash of 16 characters."""
        hasher = self._hasher.copy()
        hasher.update(text.encode("utf-8", "surrogatepass"))
        return binascii.b2a_base64(hasher.digest(), newline=False).translate(_URL_SAFE).decode()

    def conversation(self, request: Request) -> str:
        """The digest of a request's recipients."""
        return request.conversation or self.digest(",".join(request.recipients))

    def _answer(self, conversation: str, key: str) -> str:
        return self.digest(f"{conversation} {key}")

    def _key(self, kind: str, digest: str) -> str:
        return f"{self.prefix}{kind}:{digest}"

    def overrides(self) -> tuple[Command, ...]:
        """What puts the policy's overrides into the store, where a script found them missing."""
        fields = [text for item in self._overrides.items() for text in item]
        fields += ["", "1"]  # by which a script sees that they are there
        return (
            Command(("HSET", self._overrides_key, *fields)),
            Command(("EXPIRE", self._overrides_key, str(30 * 86_400))),
        )

    # Decisions -------------------------------------------------------------------------------------------------------

    def decide(
        self,
        request: Request,
        *,
        max_wait: float,
        waiter: bool,
        now: float | None,
        conversation: str | None = None,
        borrower: tuple[str, int] | None = None,
    ) -> Call:
        """One decision. max_wait: seconds that the caller would hold a slot for; a waiter's answer is remembered.

        conversation: its digest, from a caller who has it. borrower: the process that more sends of it are lent to, and
        its turn.
        """
        digest = conversation or self.conversation(request)
        key = request.idempotency_key
        remember = waiter or key is not None
        keys: tuple[str, ...] = (f"{self.prefix}r:{digest}",)
        calls_back = borrower is not None or request.place == "sent"
        if remember or calls_back:
            answer = "" if not remember else self._answer(digest, request.decision_id if key is None else key)
            keys = (*keys, self._key("i", answer), self._revocations) if calls_back else (*keys, self._key("i", answer))
        binds = len(request.recipients) <= 1 and not request.override_optout
        settings_of = self._asked if now is None else self._settings_of
        settings = settings_of(request.place, request.kind, request.line_type, remember, max_wait, binds, now)
        args: tuple[str, ...] = (request.decision_id,)
        if borrower is not None or request.from_number or request.exclude:
            lends = "" if borrower is None else f"{borrower[0]}|{borrower[1]}|{self._span}|{self._most}"
            args = (request.decision_id, request.from_number or "", lends, *request.exclude)
        return Call(scripts.DECIDE, self._deciding_keys, keys, settings, args, remember)

    def _settings_of(
        self,
        place: str,
        kind: SendKind,
        line_type: str | None,
        remember: bool,
        max_wait: float,
        binds: bool,
        now: float | None,
    ) -> tuple[str, ...]:
        """What a decision has in common with others: the policy, the clock, and what is asked."""
        asked = (
            place or kind.value,
            LINE_TYPES[line_type],
            "1" if remember else "0",
            str(micros(max_wait)),
            "1" if binds else "0",
            self._recorded,
        )
        return self._policy, "" if now is None else str(micros(now)), "|".join(asked)

    def dry_run(self, request: Request, *, max_wait: float, now: float | None) -> Call:
        """What `decide` would do now, as its record; nothing is written, so the overrides ride along."""
        call = self.decide(request, max_wait=max_wait, waiter=False, now=now)
        own = "=" + "".join(f"{number}={limits};" for number, limits in self._overrides.items())
        return call._replace(
            script=scripts.DRY_RUN, args=(request.decision_id, request.from_number or "", own, *request.exclude)
        )

    def decision(self, reply: bytes | str, request: Request, conversation: str | None = None) -> Decision:
        """The answer of `decide`, under the policy's mode. conversation: as there."""
        allowed, line, reason, wait, status, health, starts, previous, decision_id, tat, cost, at, _ = fields(reply)
        granted = allowed == "1"
        named = line or request.from_number
        may_send = granted or self._lets_pass(named)
        seconds = int(wait) / 1_000_000 if wait else None
        receipt = ""
        if granted:
            digest, key = conversation or self.conversation(request), request.idempotency_key
            answer = "" if key is None else self._answer(digest, key)
            receipt = receipt_text((line, at, starts, tat, cost, digest, decision_id, answer))
        return Decision(  # its fields in their order: by name they take three times as long
            may_send,
            _REASONS[reason],
            named if may_send else None,
            None if granted else seconds,
            _STATUSES.get(status),
            _HEALTHS.get(health),
            starts == "1",
            previous or None,
            decision_id,
            receipt,
            seconds or 0.0 if granted else 0.0,
        )

    def undecided(self, request: Request) -> Decision:
        """The answer while the store is out of reach, under the policy's mode."""
        number, may_send = request.from_number, self._lets_pass(request.from_number)
        return Decision(
            allowed=may_send,
            reason=Reason.STORE_UNAVAILABLE,
            from_number=number if may_send else None,
            decision_id=request.decision_id,
        )

    def _lets_pass(self, number: str | None) -> bool:
        """Whether a denied send may go all the same: a guard that only observes blocks none that has a line."""
        return self.policy.mode == "observe" and number is not None

    def remember_answer(self, decision: Decision, key: str) -> Command | None:
        """Give an allowed decision for ten minutes to whoever asks with this key, as if it had been asked with it."""
        taken = Receipt.parse(decision.receipt)
        if taken is None:
            return None
        line, at, starts, tat, cost, digest, decision_id, _ = taken
        previous = decision.previous_from_number or ""
        text = "|".join((line, decision.reason.value, starts, previous, decision_id, tat, cost, at, at, "1", ""))
        return Command(("SET", self._key("i", self._answer(digest, key)), text, "PX", "600000"))

    def settle(
        self, decision: Decision, *, unsent: bool, opted_out: bool, closed_for: float | None, now: float | None
    ) -> Call | None:
        """What became of an allowed decision; None where the decision took nothing. Raises ValueError."""
        taken = Receipt.parse(decision.receipt)
        if taken is None:
            return None
        line, at, starts, tat, cost, digest, decision_id, answer = taken
        closed = "" if closed_for is None else str(micros(closed_for))
        return self._call(
            scripts.SETTLE,
            now,
            (self._key("r", digest), self._key("s", decision_id), self._key("i", answer), self._revocations),
            (line, at, starts, tat, cost, "1" if unsent else "0", "1" if opted_out else "0", closed),
        )

    # Observations ----------------------------------------------------------------------------------------------------

    def observe(
        self,
        updates: Iterable[LineUpdate],
        *,
        source: str,
        event_id: str | None = None,
        rest: float = 0.0,
        now: float | None,
    ) -> Call:
        """What was learnt of lines, by a webhook (once for its event id) or a poll.

        rest: seconds for which a line that was not known is not sent on.
        """
        rows = [
            arg
            for update in updates
            for arg in (
                update.number,
                str(micros(update.at)),
                update.status or "",
                update.health or "",
                update.line_type or "",
                "" if update.assigned is None else "1" if update.assigned else "0",
                "",
                "",
            )
        ]
        return self._observe(rows, now, source, event_id=event_id, rest=rest)

    def observe_one(
        self,
        number: str,
        *,
        observed_at: float | None,
        source: str,
        status: str = "",
        health: str = "",
        now: float | None,
    ) -> Call:
        """What somebody says of one line; observed_at None for now."""
        at = "" if observed_at is None else str(micros(observed_at))
        return self._observe([number, at, status, health, "", "", "", ""], now, source)

    def pause(self, number: str, until: float | None, now: float | None) -> Call:
        """Pause a line that must be known; until None for good."""
        end = str(NEVER if until is None else min(micros(until), NEVER))
        return self._observe([number, "", "", "", "", "", end, ""], now, "operator", must_know=True)

    def resume(self, number: str, now: float | None) -> Call:
        """End a line's pause and its cooling down."""
        return self._observe([number, "", "", "", "", "", "0", ""], now, "operator", must_know=True)

    def cool_down(self, number: str, now: float | None) -> Call:
        """Rest a line for the policy's `cool_down` from now."""
        return self._observe([number, "", "", "", "", "", "", "-"], now, "outcome")

    def release(self, numbers: Iterable[str], at: float | None, now: float | None, source: str) -> Call:
        """Lines that are no longer the account's, as known at a time (None for now)."""
        when = "" if at is None else str(micros(at))
        rows = [arg for number in numbers for arg in (number, when, "", "", "", "0", "", "")]
        return self._observe(rows, now, source)

    def failed(self, news: MessageFailed, event_id: str, now: float | None) -> Call:
        """A failed message: its chat's line cools down."""
        row = ["@chat", str(micros(news.at)), "", "", "", "", "", "-"]
        return self._observe(row, now, "webhook", event_id=event_id, chat_id=news.chat_id)

    def _observe(
        self,
        rows: Sequence[str],
        now: float | None,
        source: str,
        *,
        event_id: str | None = None,
        chat_id: str | None = None,
        must_know: bool = False,
        rest: float = 0.0,
    ) -> Call:
        keys = (self._event_key(event_id), self._chat_key(chat_id), self._transitions, self._revocations, self._meta)
        flags = ("0" if event_id is None else "1", "1" if must_know else "0")
        return self._call(
            scripts.OBSERVE, now, keys, (*flags, source, event_id or "", str(micros(rest)), self._span, *rows)
        )

    def message(self, news: MessageSeen, event_id: str, now: float | None) -> Call:
        """A message that passed over a line."""
        sender = self._sender(news)
        return self._call(
            scripts.MESSAGE,
            now,
            (
                self._event_key(event_id),
                self._key("r", sender),
                self._chat_key(news.chat_id),
                self._revocations,
                self._meta,
            ),
            (
                "1",
                news.line,
                str(micros(news.at)),
                "1" if news.inbound else "0",
                news.consent.value if isinstance(news.consent, Consent) else "",
                "1" if news.history else "0",
                sender,
                "0" if news.chat_id is None else "1",
                "1" if news.is_group else "0",
            ),
        )

    def _sender(self, news: MessageSeen) -> str:
        if not news.inbound or news.sender is None:
            return ""
        try:
            return self.digest(",".join(check_recipients(news.sender)))
        except ValueError:
            return ""

    def _event_key(self, event_id: str | None) -> str:
        return self._key("e", "" if event_id is None else self.digest(event_id))

    def _chat_key(self, chat_id: str | None) -> str:
        return self._key("c", "" if chat_id is None else self.digest(chat_id))

    # Chats -----------------------------------------------------------------------------------------------------------

    def chat(self, chat_id: str) -> Command:
        """Ask what is known of a chat."""
        return Command(("GET", self._chat_key(chat_id)))

    def chat_of(self, reply: bytes | str | None) -> Chat | None:
        """What is known of a chat; None if that is not all that a decision needs."""
        found = _CHAT.fullmatch(reply.decode(errors="replace") if isinstance(reply, bytes) else reply or "")
        return Chat(found[1], found[2], bool(found[3])) if found else None

    def chat_with(self, line: str, recipients: Iterable[str]) -> Chat:
        """A chat whose line and recipients are known. Raises ValueError naming `to`."""
        found = check_recipients(recipients)
        return Chat(line, self.digest(",".join(found)), len(found) > 1)

    def remember_conversation(self, conversation: str, line: str, at: float) -> Command:
        """Put a conversation on a line where nothing is known of it; line "" for one who has opted out."""
        record = f"|{line}:\0\0" if line else f"-{micros(at)}|"
        return Command(("SET", self._key("r", conversation), record, "NX"))

    def remember_chat(self, chat_id: str, chat: Chat) -> Command:
        """Let every process know a chat, for 30 days."""
        return Command(
            (
                "SET",
                self._chat_key(chat_id),
                f"{chat.line}|{chat.conversation}" + "|g" * chat.is_group,
                "EX",
                str(30 * 86_400),
            )
        )

    def restore(self, lines: Iterable[Line], now: float | None, *, rest: float) -> Call:
        """Lines as a process remembers them, for a store that may have forgotten them.

        rest: seconds for which a line that it has forgotten is not sent on.
        """
        rows = [
            arg
            for line in lines
            for arg in (
                line.number,
                line.raw_status or "",
                _stamp(line.status_observed_at),
                line.raw_health or "",
                _stamp(line.health_observed_at),
                line.line_type or "",
                _stamp(line.paused_until),
                _stamp(line.cooling_down_until),
                str(line.daily_volume),
                str(line.new_conversations),
            )
        ]
        keys = (self._transitions, self._revocations)
        return self._call(scripts.RESTORE, now, keys, ("memory", str(micros(rest)), self._span, *rows))

    def transitions_from(self, first: str, count: int) -> Command:
        """Ask for a transition, by its id, and those that follow it."""
        return Command(("XRANGE", self._transitions, first, "+", "COUNT", str(count)))

    def last_transition(self) -> Command:
        """Ask for the newest transition."""
        return Command(("XREVRANGE", self._transitions, "+", "-", "COUNT", "1"))

    def numbers(self) -> Command:
        """Ask for the numbers of all lines that were ever known."""
        return Command(("HKEYS", self._keys[0]))

    def is_founded(self) -> Command:
        """Ask whether the pool knows any line; 0 where it does not."""
        return Command(("EXISTS", self._keys[0]))

    def transitions(self, after: str, count: int) -> Command:
        """Ask for the transitions that follow one, by its id ("0" for the oldest kept)."""
        return Command(("XRANGE", self._transitions, f"({after}", "+", "COUNT", str(count)))

    def decisions(self, after: str, count: int) -> Command:
        """Ask for the recorded decisions that follow one, by its entry's id ("0" for the oldest kept)."""
        return Command(("XRANGE", self._decisions, f"({after}", "+", "COUNT", str(count)))

    def decisions_before(self, before: str, count: int) -> Command:
        """Ask for the recorded decisions that precede one, the newest first ("" for the newest of all)."""
        end = f"({before}" if before else "+"
        return Command(("XREVRANGE", self._decisions, end, "-", "COUNT", str(count)))

    # The pool --------------------------------------------------------------------------------------------------------

    def lines(self, numbers: Iterable[str], now: float | None) -> Call:
        """How lines stand; all of them if none is named."""
        return self._call(scripts.LINES, now, (), tuple(numbers))

    def sweep(self, numbers: Iterable[str], at: float, now: float | None) -> Call:
        """Which lines a poll no longer lists. at: when its request was sent, Unix seconds."""
        return self._call(scripts.SWEEP, now, (self._meta,), (str(micros(at)), *numbers))

    def polled_at(self) -> Command:
        """Ask when the pool was last polled."""
        return Command(("HGET", self._meta, "polled_at"))

    def heard_at(self) -> Command:
        """Ask when the pool last took a webhook."""
        return Command(("HGET", self._meta, "heard_at"))

    def lease(self, token: str, *, ttl: float, interval: float, give_back: bool, now: float | None) -> Call:
        """Take or give back the lease on polling. ttl, interval: seconds."""
        args = (token, str(max(1, round(ttl * 1000))), str(micros(interval)), "1" if give_back else "0")
        return self._call(scripts.LEASE, now, (f"{self.prefix}poll", self._meta), args, repeatable=False)


def _stamp(at: float | None) -> str:
    """A time in the store's units; 0 for none, and what never comes for an endless one."""
    return str(0 if at is None else NEVER if at == math.inf else micros(at))
