"""`SendGuard`: carries out the steps of `flows`, and nothing else. `async_guard` is its twin for asyncio."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import redis

from sendguard.alerts.alerter import Alerter
from sendguard.alerts.channels import Callback
from sendguard.alerts.models import Rule, Severity
from sendguard.alerts.plan import Plan
from sendguard.background import Background, Finished, after_fork
from sendguard.flows import keep_failed
from sendguard.lease import Lease
from sendguard.linq.client import LinqClient
from sendguard.linq.poller import Poller
from sendguard.middleware.guarded import F, Options, guard_function
from sendguard.middleware.sending import Sending
from sendguard.models import (
    Change,
    Decision,
    DecisionRecord,
    Explanation,
    Health,
    Line,
    LineStatus,
    Outcome,
    SendKind,
    Transition,
)
from sendguard.parts import new_guard_parts
from sendguard.policy import Policy
from sendguard.request import Request
from sendguard.steps import ASKS_STORE, Act, AskAudit, Flow, Join, Poll, Step, Wait
from sendguard.store import Store

if TYPE_CHECKING:
    from sendguard.metrics import Metrics

T = TypeVar("T")
Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]


def environment() -> dict[str, Any]:
    """The constructor's arguments that the environment gives."""
    get = os.environ.get
    secrets = [secret.strip() for secret in get("LINQ_WEBHOOK_SECRET", "").split(",")]
    found: dict[str, Any] = {
        "store": get("SENDGUARD_STORE"),
        "pool": get("SENDGUARD_POOL"),
        "hash_key": get("SENDGUARD_HASH_KEY"),
        "webhook_secret": [secret for secret in secrets if secret] or None,
        "api_key": get("LINQ_API_KEY") or get("LINQ_API_V3_API_KEY"),
        "api_base_url": get("LINQ_API_V3_BASE_URL"),
    }
    for name, argument in (("SENDGUARD_TIMEOUT", "timeout"), ("SENDGUARD_LEASE_TTL", "lease")):
        if value := get(name):
            try:
                found[argument] = float(value)
            except ValueError:
                raise ValueError(f"{name} must be a number of seconds") from None
    if "lease" in found:
        try:
            found["lease"] = Lease(ttl=found["lease"])
        except ValueError as error:
            raise ValueError(f"SENDGUARD_LEASE_TTL: {error}") from None
    return {name: value for name, value in found.items() if value}


class SendGuard:
    """Stands between sending code and the Linq API: tells for each send which line may carry it now.

    store: where the pool's state is kept: `memory://` (this guard alone), `redis://`, `rediss://`, `unix://`, or a
    ready `redis.Redis`. pool: the lines that are chosen among; guards with the same store and pool share all they know.
    policy: the limits. webhook_secret: the signing secret of the webhook subscription, or several, newest first.
    hash_key: the secret under which recipients' handles are hashed, the same in every process; without it a key that
    follows from the pool's name, which hides handles from a reader of logs but not from one who can guess and compare.
    api_key, api_base_url: for polls; the base URL as the official SDK takes it, what precedes /v3.
    timeout: seconds that a call may take whatever the store does, but for what it says itself (waits, polls).
    clock: a callable returning Unix seconds, for tests and simulations; without it time is the store's, one clock for
    all processes. record_decisions: whether each decision is written to the record that `decisions` and `explain` read.
    metrics: what counts for Prometheus, a `sendguard.metrics.Metrics`; None counts nothing.
    lease: what this process may borrow from the store, to decide several sends of a conversation in memory; None:
    nothing, each decision is the store's. `memory://` needs none. See docs/leases.md.

    refresh: seconds between looks at the pool in the background (a thread that starts with the first call; one command
    a look), by which this process notices that the store forgot something, and knows the lines while it is out of
    reach; None: neither. `memory://` needs none.

    Safe to share between threads. Raises ValueError naming an argument that is wrong; nothing is connected to yet.
    """

    def __init__(
        self,
        store: str | redis.Redis = "memory://",
        *,
        pool: str = "default",
        policy: Policy | None = None,
        webhook_secret: str | Sequence[str] | None = None,
        hash_key: str | bytes | None = None,
        api_key: str | None = None,
        api_base_url: str | None = None,
        timeout: float = 0.25,
        clock: Callable[[], float] | None = None,
        refresh: float | None = 1.0,
        record_decisions: bool = True,
        metrics: Metrics | None = None,
        lease: Lease | None = None,
    ) -> None:
        self._flows = new_guard_parts(
            pool, policy, hash_key, webhook_secret, clock, timeout, refresh, record_decisions, metrics, lease
        )
        self._store = Store(store, key=self._flows.protocol.prefix, timeout=timeout)
        self._api = (api_key, api_base_url)
        self._timeout = timeout
        self._unkept = self._flows.works_on(self._store, store)
        self._keeping: list[Background] = []
        after_fork(self, SendGuard._forked)
        self._client: LinqClient | None = None
        self.pool = pool

    @classmethod
    def from_env(cls, **overrides: Any) -> SendGuard:
        """A guard from the environment; keyword arguments, as the constructor's, come first.

        Reads SENDGUARD_STORE, SENDGUARD_POOL, SENDGUARD_HASH_KEY, SENDGUARD_TIMEOUT, SENDGUARD_LEASE_TTL (seconds; a
        `Lease` of so long), LINQ_WEBHOOK_SECRET (several:
        comma-separated, newest first), LINQ_API_KEY or LINQ_API_V3_API_KEY, LINQ_API_V3_BASE_URL.
        """
        return cls(**{**environment(), **overrides})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pool={self.pool!r})"

    def __enter__(self) -> SendGuard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that this guard opened, and end what it does in the background."""
        begun, self._unkept = bool(self._keeping), False
        for work in self._keeping:
            work.ask_to_stop()
        if begun:
            self._drive(self._flows.close())
        for work in self._keeping:
            work.stop(2 * self._timeout)
        self._store.close()
        if self._client is not None:
            self._client.close()

    @property
    def degraded_since(self) -> float | None:
        """Since when this process decides without the store, in Unix seconds; None while it does not.

        Only with `Policy(on_store_error="degraded")`.
        """
        degraded = self._flows.degraded
        return None if degraded is None else degraded.since

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Wait):
            return time.sleep(step.seconds)
        if isinstance(step, Act):
            return step.run()
        if isinstance(step, Poll):
            return self._linq().phone_numbers(step.at)
        if isinstance(step, AskAudit):
            return self._linq().reputation_audit(step.number, step.audit_id)
        if isinstance(step, Join):
            return bool(wait((step.work,), step.seconds).done)  # type: ignore[arg-type]  # none of asyncio's here
        return None  # Renew: the shell has done it

    def _forked(self) -> None:
        self._keeping, self._unkept = [], bool(self._flows.background())

    def _keep(self) -> None:
        """Start what is done in the background, for as long as somebody holds this guard."""
        self._unkept = False
        guard = weakref.ref(self)

        def step(number: int) -> float:
            found = guard()
            if found is None:
                raise Finished
            return found._drive(found._flows.background()[number].step())

        self._keeping = [
            Background(partial(step, i), failed=keep_failed, rest=work.rest, name=work.name).start()
            for i, work in enumerate(self._flows.background())
        ]

    def _linq(self) -> LinqClient:
        if self._client is None:
            self._client = LinqClient(api_key=self._api[0], base_url=self._api[1])
        return self._client

    def _drive(self, flow: Flow[T]) -> T:
        if self._unkept:
            self._keep()
        expires: float | None = None
        try:
            step = next(flow)
            while True:
                try:
                    if isinstance(step, ASKS_STORE):
                        expires = expires or time.monotonic() + self._timeout
                        result = self._store.run(step, expires)
                    else:
                        expires, result = None, self._perform(step)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    def decide(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Decision:
        """Decide one send, in one round trip, and take what it costs if it is allowed.

        to: an E.164 number or e-mail address, or several (a group, in any order). kind: "chat" or "voice_memo".
        from_number: ask about that very line instead of having one chosen. exclude: lines not to start a conversation
        on (an existing conversation stays where it is). line_type: start one only on an "iMessage" line (also
        one whose type the API never told) or an "RCS" line. idempotency_key: a retry with the same key, within a day,
        gets the same answer and takes nothing more, as long as that line may be sent on.

        Never raises on a denial: a store out of reach gives the reason `store_unavailable`. Raises ValueError naming an
        argument that is wrong.
        """
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return self._drive(self._flows.decide(request))

    def dry_run(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        max_wait: float = 0.0,
    ) -> DecisionRecord:
        """What `decide` would answer now, and why: nothing is taken, and nothing is written to the store.

        max_wait: seconds that the caller would wait for a slot. The other arguments are those of `decide`. Raises
        ValueError naming an argument that is wrong, and `StoreUnavailable`, as there is nothing to tell then.
        """
        request = Request.of(to, kind, from_number, exclude, line_type, None)
        return self._drive(self._flows.dry_run(request, max_wait))

    def choose_from_number(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
        max_wait: float = 0.0,
    ) -> str:
        """The line to send from now, E.164.

        max_wait: seconds to wait for a line that is throttled. Waiters are served in the order they came, and each asks
        the store once for its slot and once when it has come; a line that turns FLAGGED meanwhile is not returned.
        The other arguments are those of `decide`.

        Raises SendBlocked with the decision if no line may carry the send (within `max_wait`); ValueError naming an
        argument that is wrong.
        """
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return self._drive(self._flows.number(request, max_wait))

    def sending(
        self,
        to: str | Iterable[str],
        *,
        kind: SendKind | str = SendKind.CHAT,
        from_number: str | None = None,
        exclude: Iterable[str] = (),
        line_type: str | None = None,
        idempotency_key: str | None = None,
        max_wait: float = 0.0,
    ) -> Sending:
        """A block of sending code: `with guard.sending(to) as send:` sends from `send.from_number`.

        Arguments as `choose_from_number`. Decides when the block is entered, and raises SendBlocked there; settles when
        it is left. An exception that shows that the message never left gives back what the decision took; one that
        may have left does not; an error code of the API is learnt from, as `report` does.
        """
        request = Request.of(to, kind, from_number, exclude, line_type, idempotency_key)
        return Sending(self, request, max_wait)

    @overload
    def guarded(self, function: F, /, **options: Unpack[Options]) -> F: ...
    @overload
    def guarded(self, /, **options: Unpack[Options]) -> Callable[[F], F]: ...
    def guarded(self, function: F | None = None, /, **options: Unpack[Options]) -> F | Callable[[F], F]:
        """Put the guard in front of every call of a function that sends: `@guard.guarded`, or with options.

            @guard.guarded(to="recipient", max_wait=5)
            def send_hello(recipient: str, text: str, from_number: str = "") -> None: ...

        Each call decides for the recipients among its arguments, hands the line to the function's `from_number`, and
        settles as `sending` does. A caller who gives a `from_number` asks for that very line.

        to: the parameter that holds the recipients ("to"). into: the one that receives the line ("from_number").
        idempotency_key: the one that holds the send's key, unique among all sends of the pool: text, a number or a
        UUID. kind, exclude, line_type, max_wait (seconds): as `choose_from_number` takes them.

        Wrong use raises TypeError or ValueError here, saying what to write. A call raises SendBlocked if no line may
        carry it, ValueError naming an argument that is wrong; the function is not called then.
        """

        def decorate(function: F) -> F:
            return guard_function(self, function, options)

        return decorate if function is None else decorate(function)

    def report(self, decision: Decision, outcome: Outcome | str) -> None:
        """Tell what became of a decided send. Reporting a decision again changes nothing of what it took.

        outcome: "sent", "not_sent" (what it took is given back; a token only if it was the last of its bucket),
        "unknown", or an `Outcome` with the API's error code: 2027 and 4002 cool the line down, 2006 releases it, 2024
        marks the recipient as opted out until they write, 1007 closes the pair for `retry_after` seconds.

        Raises StoreUnavailable if the store did not answer; ValueError if `outcome` is none of these.
        """
        self._drive(self._flows.report(decision, outcome))

    def handle_webhook(self, body: bytes | str, headers: Headers) -> tuple[Change, ...]:
        """Verify one webhook delivery, drop it if its event was seen before, and apply it.

        body: exactly as received. headers: any mapping or pairs, names in any case. Returns what changed; empty for a
        duplicate, for news that is old, and for an event that a guard has no use for. When this returns, every process
        decides by what it told: answer 2xx only then.

        Raises WebhookRejected (answer 4xx; the reason leaks nothing) for anything that is not an authentic, readable
        delivery; StoreUnavailable (answer 5xx, the API delivers again) if the store did not answer.
        """
        return self._drive(self._flows.handle_webhook(body, headers))

    def sync_lines(self) -> tuple[Change, ...]:
        """Poll GET /v3/phone_numbers once and apply it: health, line types, new lines and lines that are gone.

        What it learnt counts as known from the moment its request was sent. A list that is empty, or that lost more
        than half of the lines, releases only lines that the next poll misses too. Returns what changed.

        Raises LinqError if the API refused or was out of reach, StoreUnavailable, or ValueError if no API key is known.
        """
        return self._drive(self._flows.sync_lines())

    def observe(
        self,
        number: str,
        *,
        status: LineStatus | str | None = None,
        health: Health | str | None = None,
        observed_at: float | None = None,
        source: str = "operator",
    ) -> Line:
        """Tell the guard what is known of a line; a number that it does not know joins the pool.

        status, health: what to set; what is not given stays. observed_at: Unix seconds at which it held, None for now;
        an observation older than what is known changes nothing. source: who says so, for the log.
        Returns the line as it now stands.

        Raises ValueError naming an argument that is wrong; StoreUnavailable; UnknownLine if the line was released.
        """
        return self._drive(self._flows.observe(number, status, health, observed_at, source))

    def lines(self) -> tuple[Line, ...]:
        """Every line of the pool as it stands, by number. Raises StoreUnavailable."""
        return self._drive(self._flows.lines())

    def pause(self, number: str, *, until: float | None = None) -> Line:
        """Stop every send on a line until an operator resumes it.

        A paused line keeps its conversations and goes on learning from webhooks and polls.

        number: the line, E.164. until: Unix seconds at which it resumes by itself; None means only `resume` ends it.
        Returns the line as it now stands. Idempotent: pausing a paused line moves `until`.

        Raises ValueError if `number` is not E.164, `UnknownLine` if the pool has no such line,
        `StoreUnavailable` if the store did not answer within the guard's timeout (seconds).
        """
        return self._drive(self._flows.pause(number, until))

    def resume(self, number: str) -> Line:
        """End a line's pause, and its cooling down. It does not clear FLAGGED: `observe` does.

        Returns the line as it now stands. Idempotent. Raises as `pause`.
        """
        return self._drive(self._flows.resume(number))

    def transitions(self, after: str = "0", *, count: int = 1000) -> tuple[Transition, ...]:
        """What changed of the lines, oldest first: status, health, assignment, line type, pauses and cooling down.

        after: the `transition_id` of the last one known; "0" for the oldest kept (about the last 10,000). count: how
        many at most, 1 to 10000. Every change stands there once, in the order in which it was applied.

        Raises ValueError naming the argument that is wrong, `StoreUnavailable`.
        """
        return self._drive(self._flows.transitions(after, count))

    def decisions(self, after: str = "0", *, count: int = 1000) -> tuple[DecisionRecord, ...]:
        """The decisions of every process as the store recorded them, oldest first.

        after: the `entry_id` of the last one known; "0" for the oldest kept (about the last 10,000). count: how many at
        most, 1 to 10000. A decision that was denied for `store_unavailable` stands nowhere.

        Raises ValueError naming the argument that is wrong, `StoreUnavailable`.
        """
        return self._drive(self._flows.decisions(after, count))

    def explain(self, decision_id: str) -> Explanation:
        """Why a decision was what it was, from its record, and how the pool's lines stand now.

        Raises `UnknownDecision` if the record has none of this id, ValueError if it is not one, `StoreUnavailable`.
        """
        return self._drive(self._flows.explain(decision_id))

    def measure(self) -> None:
        """Tell the metrics how the lines stand: call it before each export, in the process that exports the gauges.

        A store out of reach raises nothing; `sendguard_store_up` is 0 then. Raises ValueError if the guard was made
        without metrics.
        """
        self._drive(self._flows.measure())

    def poller(self, *, interval: float = 60.0) -> Poller:
        """A background thread that polls every `interval` seconds, one process of the fleet at a time.

        Use it as a context manager, or call `start` and `stop`.
        """
        return Poller(lambda token, ttl: self._drive(self._flows.poll_if_due(token, interval, ttl)), interval)

    def alerter(
        self,
        urls: Sequence[str] = (),
        *,
        rules: Mapping[Severity | str, Rule] | None = None,
        callbacks: Sequence[Callback] = (),
        audit_wait: float = 60.0,
        remind_after: float = 86_400.0,
        claim_after: float = 30.0,
        interval: float = 1.0,
        name: str = "alerts",
    ) -> Alerter:
        """Background threads that tell people when a line turns FLAGGED, CRITICAL or AT_RISK, and when it recovers.

        Use it as a context manager, or call `start` and `stop`. Every process of a fleet may run it with the same
        arguments: each alert is told once. A channel that fails or hangs delays neither the others nor any decision.

        urls: apprise URLs (`pip install 'sendguard[alerts]'`); `{line}` in one stands for the line's number.
        rules: by severity ("page", "warning", "info", "recovery") its own URLs and quiet time. callbacks: functions
        that are given each `Alert`; one process of the fleet calls them. audit_wait: seconds that an alert waits for
        Linq's reputation audit of an AT_RISK or CRITICAL line; 0 starts none. remind_after: seconds FLAGGED without
        news after which, and after every so many more, a reminder is told; 0 for none. claim_after: seconds after
        which other processes take over what one was at that died. interval: seconds between looks for news.
        name: alerters of one name share the work; one of another name tells everything again.

        Raises ValueError naming the argument that is wrong.
        """
        plan = Plan.of(urls, rules, callbacks, audit_wait, remind_after, claim_after, interval, name)
        return Alerter(self._flows, plan, self._drive)
