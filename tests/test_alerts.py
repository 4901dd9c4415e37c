"""Alerts: each change is told once, whatever the processes, crashes and channels; the rules, quiet times, audits."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from sendguard import AsyncSendGuard, Policy, SendGuard, TokenBucket
from sendguard.alerts import Alert, Alerter, Rule, Severity
from sendguard.alerts.text import without_handles
from sendguard.models import Health, LineStatus
from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import ConfigError, Settings
from sendguard.simulator import Simulator
from tests.inbox import Inbox, Process, settled
from tests.servers import Server
from tests.serving import Served
from tests.support import SECRET, ManualClock, iso, payload, raw_client, standard_headers, wait_until

A, B, C, D, E = (f"+1202555010{index}" for index in range(1, 6))
MINUTE, DAY = 60.0, 86_400.0
ALERTS_PAGE = Path(__file__).parent.parent / "docs" / "alerts.md"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator([A, B, C], webhook_secret=SECRET) as made:
        yield made


@pytest.fixture
def valkey_guard(valkey: Server, pool: str) -> Iterator[Callable[..., SendGuard]]:
    """Makes guards on Valkey with its clock."""
    guards: list[SendGuard] = []

    def make(**options: Any) -> SendGuard:
        guards.append(SendGuard(valkey.url, **{"pool": pool, "timeout": 5.0, **options}))
        return guards[-1]

    yield make
    for guard in guards:
        guard.close()


def work(*alerters: Alerter) -> None:
    """Let alerters do all that is due now, here and at once."""
    busy = True
    while busy:
        steps = [part._step() for alerter in alerters for part in alerter._work]
        busy = 0.0 in steps


FALL_AND_RISE = (
    ("health", "AT_RISK"),
    ("health", "CRITICAL"),
    ("status", "FLAGGED"),
    ("status", "ACTIVE"),
    ("health", "HEALTHY"),
)


def told(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.severity.value, alert.title) for alert in alerts]


# What is told --------------------------------------------------------------------------------------------------------


def test_each_severity_is_told_over_http(new_guard: Callable[..., SendGuard], inbox: Inbox) -> None:
    guard = new_guard(clock=None)
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    with guard.alerter([inbox.url()], interval=0.02, audit_wait=0):
        for count, (field, value) in enumerate(FALL_AND_RISE, 1):
            guard.observe(A, **{field: value})  # type: ignore[arg-type]
            assert settled(lambda: len(inbox.received), count, still=0.05) == count
    assert [(message["title"], message["type"]) for message in inbox.received] == [
        (f"{A} is AT_RISK", "info"),
        (f"{A} is CRITICAL", "warning"),
        (f"{A} is FLAGGED", "failure"),
        (f"{A} is ACTIVE again", "success"),
        (f"{A} is HEALTHY again", "success"),
    ]


@pytest.mark.parametrize(
    ("learnt", "expected"),
    [
        ({"status": "ACTIVE", "health": "HEALTHY"}, []),
        ({"status": "FLAGGED"}, [("page", f"{A} is FLAGGED")]),
        ({"health": "AT_RISK"}, [("info", f"{A} is AT_RISK")]),
        ({"health": "CRITICAL"}, [("warning", f"{A} is CRITICAL")]),
        ({"status": "SUSPENDED"}, [("page", f"{A} is SUSPENDED")]),
        ({"health": "POOR"}, [("info", f"{A} is POOR")]),
    ],
)
def test_the_first_learning_of_a_line_alerts_only_what_is_bad(
    guard: SendGuard, learnt: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], audit_wait=0)
    work(alerter)
    guard.observe(A, **learnt)  # type: ignore[arg-type]
    guard.pause(A)
    work(alerter)
    assert told(alerts) == expected


def test_the_text_of_a_flagged_line_has_all_that_a_person_needs(guard: SendGuard, clock: ManualClock) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append])
    work(alerter)
    for number in (A, B, C):
        guard.observe(number, status="ACTIVE", health="HEALTHY")
    guard.observe(C, health="CRITICAL")
    guard.observe(D, status="FLAGGED")
    guard.observe(E, health="AT_RISK")
    guard.pause(E)
    for index in range(3):
        guard.decide(f"+1415555010{index}", from_number=A)
    at = clock()
    clock.advance(30)
    guard.observe(A, status="FLAGGED", observed_at=at)
    work(alerter)
    page = next(alert for alert in alerts if alert.number == A)
    assert (page.number, page.since, page.reminder, page.repeats) == (A, at, False, 0)
    assert page.transition is not None
    assert (page.transition.change.old, page.transition.change.new) == ("ACTIVE", "FLAGGED")
    assert page.line is not None
    assert (page.line.status, page.line.health) == (LineStatus.FLAGGED, Health.HEALTHY)
    assert page.text == EXPECTED_PAGE.format(A=A, B=B, pool=guard.pool, request=page.request)
    assert page.request.startswith(
        f"Subject: Line {A} is FLAGGED\n\nHello,\n\nour line {A} turned FLAGGED at 2026-02-13"
    )


EXPECTED_PAGE = """\
Line {A} of pool {pool}: status FLAGGED (before: ACTIVE), since 2026-02-13 16:26:40 UTC, told by operator.
It is FLAGGED and HEALTHY; it carried 3 messages in the last 24 hours and started 3 conversations in the last 24 hours.

What the guard does now:
- No send leaves on it, from any process, until it is ACTIVE or an operator clears it.
- Its chats fail over: the next send to each moves to another line, as a new conversation there.
- Voice memos, and sends that ask for this very line, are held.

1 of 4 other lines can take new conversations:
- {B}: HEALTHY, 0 of 7,000 messages, 0 of 50 new conversations

What to do:
- Send the request below to your Linq representative.
- Leave the line alone until it is ACTIVE; what sends without asking the guard must be stopped by hand.
- Watch the lines that take over: a jump to several times their usual volume harms them too.

Request to your Linq representative, ready to send:

{request}"""


@pytest.mark.parametrize(
    ("policy", "state", "expected"),
    [
        (Policy(on_flagged="hold"), {"status": "FLAGGED"}, "Its chats are held until it is ACTIVE."),
        (Policy(), {"health": "CRITICAL"}, "at most 1 send per 60 seconds, all"),
        (Policy(), {"health": "CRITICAL"}, "It starts no new conversation"),
        (Policy(), {"health": "AT_RISK"}, "at most 10 sends per 60 seconds, in bursts of up to 5"),
        (Policy(critical=TokenBucket(0, per=60)), {"health": "CRITICAL"}, "no send leaves on it"),
        (Policy(overrides={A: {"at_risk": None}}), {"health": "AT_RISK"}, "sends are not paced"),
        (Policy(mode="observe"), {"status": "FLAGGED"}, "blocks no send"),
    ],
)
def test_the_text_says_what_the_policy_does(
    new_guard: Callable[..., SendGuard], policy: Policy, state: dict[str, str], expected: str
) -> None:
    guard = new_guard(policy=policy)
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], audit_wait=0)
    work(alerter)
    guard.observe(A, **state)  # type: ignore[arg-type]
    work(alerter)
    assert expected in alerts[0].text


def test_a_text_of_the_api_loses_recipients_and_keeps_lines() -> None:
    text = f"83 new in 24 hours, 4.1 times; worst: +14155550123, (415) 555-0124, jo@example.com; line {A}"
    assert without_handles(text, {A}) == (
        f"83 new in 24 hours, 4.1 times; worst: [removed], ([removed], [removed]; line {A}"
    )


# Once, whatever the processes ----------------------------------------------------------------------------------------


def webhook(number: str, event_id: str, **new: str) -> tuple[bytes, dict[str, str]]:
    event = payload("status_updated.reputation")
    event["event_id"] = event_id
    event["data"] |= {"phone_number": number, "changed_at": iso(time.time()), **new}
    body = json.dumps(event).encode()
    return body, standard_headers(body, time.time())


def test_many_processes_that_see_one_webhook_and_poll_tell_each_change_once(
    valkey: Server, pool: str, valkey_guard: Callable[..., SendGuard], simulator: Simulator, inbox: Inbox
) -> None:
    processes = [Process(valkey.url, pool, [inbox.url()], audit_wait=0) for _ in range(3)]
    keys = {"api_key": simulator.api_key, "api_base_url": simulator.base_url}
    guards = [valkey_guard(webhook_secret=SECRET, **keys) for _ in range(3)]
    try:
        simulator.flip(B, health="CRITICAL")
        deliveries = [webhook(A, "evt-1", new_status="FLAGGED", new_reputation="HEALTHY")] * 6
        threads = [
            threading.Thread(target=lambda guard=guards[i % 3], each=each: guard.handle_webhook(*each))
            for i, each in enumerate(deliveries)
        ] + [threading.Thread(target=guard.sync_lines) for guard in guards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert settled(lambda: len(inbox.received), 2) == 2
    finally:
        for process in processes:
            process.stop()
    assert sorted(inbox.titles) == [f"{A} is FLAGGED", f"{B} is CRITICAL"]
    flagged = next(message for message in inbox.received if message["title"] == f"{A} is FLAGGED")
    assert "told by webhook" in flagged["message"]
    assert "your event evt-1" in flagged["message"]


def test_what_a_killed_process_took_and_did_not_raise_is_claimed_and_told_once(
    valkey: Server, pool: str, valkey_guard: Callable[..., SendGuard], inbox: Inbox
) -> None:
    doomed = Process(valkey.url, pool, [inbox.url()], dies_at="raise", claim_after=0.3)
    valkey_guard().observe(A, status="FLAGGED")
    doomed.hear("raise")
    doomed.kill()
    others = [Process(valkey.url, pool, [inbox.url()], claim_after=0.3) for _ in range(2)]
    assert settled(lambda: len(inbox.received), 1) == 1
    for other in others:
        other.stop()
    assert inbox.arrived == 1


def test_a_process_killed_while_it_tells_is_replaced(
    valkey: Server, pool: str, valkey_guard: Callable[..., SendGuard], inbox: Inbox
) -> None:
    inbox.hold.clear()
    doomed = Process(valkey.url, pool, [inbox.url(rto="20")], claim_after=0.5)
    valkey_guard().observe(A, status="FLAGGED")
    wait_until(lambda: inbox.arrived == 1)
    other = Process(valkey.url, pool, [inbox.url(rto="20")], claim_after=0.5)
    threading.Event().wait(1.0)  # two claim times: who is alive keeps what it tells
    assert inbox.arrived == 1
    doomed.kill()
    wait_until(lambda: inbox.arrived == 2)
    inbox.hold.set()
    assert settled(lambda: inbox.arrived, 2) == 2
    other.stop()


def test_only_a_crash_between_telling_and_marking_can_double(
    valkey: Server, pool: str, valkey_guard: Callable[..., SendGuard], inbox: Inbox
) -> None:
    doomed = Process(valkey.url, pool, [inbox.url()], dies_at="told", claim_after=0.3)
    valkey_guard().observe(A, status="FLAGGED")
    doomed.hear("told")
    doomed.kill()
    other = Process(valkey.url, pool, [inbox.url()], claim_after=0.3)
    assert settled(lambda: len(inbox.received), 2) == 2
    other.stop()


def test_a_slow_process_whose_work_was_claimed_tells_nothing(
    new_guard: Callable[..., SendGuard], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = new_guard()
    alerts: list[Alert] = []

    def call(alert: Alert) -> None:
        alerts.append(alert)

    rules = {"page": Rule(quiet=0)}  # which would hold a second one back as well
    slow, other = (guard.alerter(callbacks=[call], claim_after=0.1, rules=rules) for _ in range(2))
    work(slow, other)
    guard.observe(A, status="FLAGGED")
    raise_it = slow._flows._raise

    def overtaken(*args: Any) -> Any:
        threading.Event().wait(0.15)
        work(other)
        assert len(alerts) == 1
        return raise_it(*args)

    monkeypatch.setattr(slow._flows, "_raise", overtaken)
    work(slow)
    assert len(alerts) == 1


def test_a_lost_store_is_heard_again(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard()
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append])
    work(alerter)
    for key in raw_client(guard).keys(f"sendguard:{{{guard.pool}}}:*"):
        raw_client(guard).delete(key)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert told(alerts) == [("page", f"{A} is FLAGGED")]


def test_alerters_of_another_name_tell_everything_again(guard: SendGuard) -> None:
    one: list[Alert] = []
    two: list[Alert] = []
    alerters = guard.alerter(callbacks=[one.append]), guard.alerter(callbacks=[two.append], name="other")
    work(*alerters)
    guard.observe(A, status="FLAGGED")
    work(*alerters)
    assert told(one) == told(two) == [("page", f"{A} is FLAGGED")]


def test_strange_entries_of_the_stream_stop_nothing(guard: SendGuard) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append])
    work(alerter)
    raw_client(guard).xadd(guard._flows.protocol.key("transitions"), {"what": "ever"})
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert len(alerts) == 1


# Channels ------------------------------------------------------------------------------------------------------------


def test_a_hanging_channel_slows_no_decision_and_no_other_channel(
    valkey_guard: Callable[..., SendGuard], inbox: Inbox
) -> None:
    hanging = Inbox()
    hanging.hold.clear()
    guard = valkey_guard()
    guard.observe(B, status="ACTIVE", health="HEALTHY")
    quickest = min(_seconds(lambda: guard.decide("+14155550123")) for _ in range(20))
    alerter = guard.alerter([hanging.url(rto="20"), inbox.url()], interval=0.02).start()
    guard.observe(A, status="FLAGGED")
    wait_until(lambda: hanging.arrived and inbox.received)
    assert min(_seconds(lambda: guard.decide("+14155550123")) for _ in range(50)) < quickest + 0.01
    guard.observe(A, status="ACTIVE")
    wait_until(lambda: len(inbox.received) == 2)
    assert (hanging.arrived, hanging.received) == (1, [])
    hanging.hold.set()
    wait_until(lambda: len(hanging.received) == 2)
    assert hanging.titles == [f"{A} is FLAGGED", f"{A} is ACTIVE again"]
    alerter.stop()
    hanging.close()


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_a_failing_channel_is_tried_again_and_the_others_are_told_once(
    guard: SendGuard, clock: ManualClock, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Inbox()
    failing.statuses = [503, 429]
    alerter = guard.alerter([failing.url(), inbox.url()])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    for waited, arrived in ((0, 1), (0.9, 1), (0.2, 2), (1.9, 2), (0.4, 3), (600, 3)):
        clock.advance(waited)
        work(alerter)
        assert failing.arrived == arrived
    assert (failing.titles, inbox.titles) == ([f"{A} is FLAGGED"],) * 2
    assert inbox.arrived == 1
    assert "urls[0] (json) failed (HTTP 503), again in 1 s" in caplog.text
    failing.close()


def test_a_channel_that_was_told_of_a_recovery_hears_no_older_alert_after_it(
    guard: SendGuard, clock: ManualClock, inbox: Inbox
) -> None:
    inbox.statuses = [503]
    alerter = guard.alerter([inbox.url()])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    clock.advance(0.5)
    guard.observe(A, status="ACTIVE")
    work(alerter)
    clock.advance(60)
    work(alerter)
    assert inbox.titles == [f"{A} is ACTIVE again"]


def test_alerts_that_cannot_be_told_for_hours_are_given_up(
    guard: SendGuard, clock: ManualClock, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.statuses = [500] * 9
    alerter = guard.alerter([inbox.url()])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    clock.advance(7 * 3600)
    work(alerter)
    assert inbox.arrived == 1
    assert "was never told to urls[0] (json): given up" in caplog.text


def test_rules_route_each_severity_and_a_recovery_goes_where_the_alarm_went(
    guard: SendGuard, clock: ManualClock, inbox: Inbox
) -> None:
    rules = {"page": Rule(urls=[inbox.url("pager", line="{line}")]), Severity.INFO: Rule(urls=())}
    alerter = guard.alerter([inbox.url("chat")], rules=rules, audit_wait=0)
    work(alerter)
    for field, value in FALL_AND_RISE:
        guard.observe(A, **{field: value})  # type: ignore[arg-type]
        clock.advance(1)
    work(alerter)
    assert sorted((message["path"].partition("?")[0], message["title"]) for message in inbox.received) == [
        ("/chat", f"{A} is CRITICAL"),
        ("/chat", f"{A} is HEALTHY again"),
        ("/pager", f"{A} is ACTIVE again"),
        ("/pager", f"{A} is FLAGGED"),
    ]


def test_a_url_may_name_the_line(guard: SendGuard, inbox: Inbox) -> None:
    alerter = guard.alerter([inbox.url("of-{line}")])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert inbox.received[0]["path"] in (f"/of-{A}", f"/of-%2B{A[1:]}")


def test_no_secret_of_a_url_is_logged(
    guard: SendGuard, inbox: Inbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    inbox.statuses = [401, 500, 200]
    good = f"json://user:hush-1@127.0.0.1:{inbox.port}/hush-2?+X-Token=hush-3"
    nobody = "json://user:hush-4@127.0.0.1:1/hush-5"
    for url in ("slack://hush-6", "hush-7", "nosuch://hush-8/hush-9"):
        with pytest.raises(ValueError, match=r"^urls\[0\].* is no URL that apprise can use$"):
            guard.alerter([url])
    alerter = guard.alerter([good, nobody], rules={"info": Rule(urls=["json://hush-0/hush-0"])})
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert "urls[0] (json) failed (HTTP 401)" in caplog.text
    assert "urls[1] (json) failed (connection error)" in caplog.text
    out = capfd.readouterr()
    assert "hush" not in caplog.text + out.out + out.err + repr(alerter._flows._plan)
    keys = raw_client(guard).keys(f"sendguard:{{{guard.pool}}}:*")
    assert b"hush" not in b" ".join(keys)


def test_what_apprise_logs_for_others_is_left_alone(caplog: pytest.LogCaptureFixture, guard: SendGuard) -> None:
    guard.alerter(["json://127.0.0.1"])
    logging.getLogger("apprise").warning("not ours")
    assert "not ours" in caplog.text


def test_an_exception_in_a_callback_is_logged_and_the_others_still_run(
    guard: SendGuard, caplog: pytest.LogCaptureFixture
) -> None:
    alerts: list[Alert] = []

    def broken(_: Alert) -> None:
        raise RuntimeError("broken on purpose")

    alerter = guard.alerter(callbacks=[broken, alerts.append])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert len(alerts) == 1
    assert caplog.text.count("RuntimeError: broken on purpose") == 1


def test_callbacks_that_look_alike_are_all_called(guard: SendGuard) -> None:
    alerts: list[list[Alert]] = [[], []]
    alerter = guard.alerter(callbacks=[lambda alert, kept=kept: kept.append(alert) for kept in alerts])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    assert [len(kept) for kept in alerts] == [1, 1]


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_ready_client_that_decodes_replies_will_do(valkey: Server, pool: str, protocol: int) -> None:
    alerts: list[Alert] = []
    with redis.Redis.from_url(valkey.url, decode_responses=True, protocol=protocol) as client:
        guard = SendGuard(client, pool=pool)
        alerter = guard.alerter(callbacks=[alerts.append])
        work(alerter)
        guard.observe(A, status="FLAGGED")
        work(alerter)
        guard.observe(A, status="ACTIVE")
        work(alerter)
    assert told(alerts) == [("page", f"{A} is FLAGGED"), ("recovery", f"{A} is ACTIVE again")]


def test_a_store_that_is_away_for_a_while_loses_no_alert(
    valkey: Server, pool: str, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    down = threading.Event()

    class Broken(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            if down.is_set():
                raise redis.ConnectionError("down")
            return super().execute_command(*args, **options)

    guard = SendGuard(Broken.from_url(valkey.url), pool=pool)
    with SendGuard(valkey.url, pool=pool, timeout=5) as other, guard.alerter([inbox.url()], interval=0.02):
        down.set()
        other.observe(A, status="FLAGGED")
        wait_until(lambda: "the store failed: ConnectionError" in caplog.text)
        assert inbox.arrived == 0
        down.clear()
        assert settled(lambda: inbox.arrived, 1) == 1
    assert caplog.text.count("the store failed") == 1


def test_the_async_alerter_awaits_callbacks_and_tells_urls(valkey: Server, pool: str, inbox: Inbox) -> None:
    alerts: list[tuple[str, bool]] = []

    async def awaited(alert: Alert) -> None:
        await asyncio.sleep(0)
        alerts.append((alert.title, threading.current_thread() is threading.main_thread()))

    def plain(alert: Alert) -> None:
        alerts.append((alert.title, threading.current_thread() is threading.main_thread()))

    async def run() -> None:
        guard = AsyncSendGuard(valkey.url, pool=pool, timeout=5)
        async with guard, guard.alerter([inbox.url()], callbacks=[awaited, plain], interval=0.02):
            await guard.observe(A, status="FLAGGED")
            while len(alerts) < 2 or not inbox.received:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert sorted(alerts) == [(f"{A} is FLAGGED", False), (f"{A} is FLAGGED", True)]


def test_the_async_alerter_stops_though_a_channel_hangs(valkey: Server, pool: str, inbox: Inbox) -> None:
    inbox.hold.clear()

    async def run() -> float:
        async with AsyncSendGuard(valkey.url, pool=pool, timeout=5) as guard:
            alerter = guard.alerter([inbox.url(rto="30")], interval=0.02).start()
            await guard.observe(A, status="FLAGGED")
            while not inbox.arrived:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await alerter.stop(timeout=0.1)
            return time.monotonic() - began

    assert asyncio.run(asyncio.wait_for(run(), 20)) < 2


# Quiet times ---------------------------------------------------------------------------------------------------------


def test_the_same_is_told_again_only_after_the_quiet_time_and_once_in_a_fleet(
    new_guard: Callable[..., SendGuard], clock: ManualClock
) -> None:
    guards = [new_guard(), new_guard()]
    alerts: list[Alert] = []

    def call(alert: Alert) -> None:
        alerts.append(alert)

    alerters = [guard.alerter(callbacks=[call], audit_wait=0) for guard in guards]
    work(*alerters)
    for _ in range(4):  # a flapping line
        for health in ("AT_RISK", "HEALTHY"):
            guards[0].observe(A, health=health)
            work(*reversed(alerters))
            clock.advance(MINUTE)
    assert told(alerts) == [("info", f"{A} is AT_RISK"), ("recovery", f"{A} is HEALTHY again")]
    clock.advance(8 * MINUTE)
    work(*alerters)
    assert told(alerts[2:]) == [("recovery", f"{A} is HEALTHY again")]
    assert alerts[2].repeats == 6
    assert "Its health changed 6 times since 2026-02-13 16:28:40 UTC without an alert" in alerts[2].text
    clock.advance(2 * DAY)
    work(*alerters)
    assert len(alerts) == 3


def test_a_line_that_goes_on_flapping_is_told_once_each_quiet_time(guard: SendGuard, clock: ManualClock) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], audit_wait=0)
    work(alerter)
    began = clock()
    for minute in range(48):
        guard.observe(A, health="AT_RISK" if minute % 2 == 0 else "HEALTHY")
        work(alerter)
        clock.advance(MINUTE)
    minutes = [round((alert.since - began) / MINUTE) for alert in alerts]
    assert [(minute, alert.repeats) for minute, alert in zip(minutes, alerts, strict=True)] == [
        (0, 0),
        (1, 0),
        (15, 14),
        (30, 14),
        (45, 14),
    ]


def test_what_stays_bad_after_it_was_held_back_is_told_when_the_quiet_time_is_over(
    guard: SendGuard, clock: ManualClock
) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], rules={"page": Rule(quiet=600)})
    work(alerter)
    for status in ("FLAGGED", "ACTIVE", "FLAGGED"):
        guard.observe(A, status=status)
        work(alerter)
        clock.advance(MINUTE)
    assert [alert.severity.value for alert in alerts] == ["page", "recovery"]
    clock.advance(7 * MINUTE)
    work(alerter)
    assert [alert.severity.value for alert in alerts] == ["page", "recovery", "page"]
    assert alerts[2].since == clock() - 8 * MINUTE


def test_another_severity_and_another_line_are_told_at_once(guard: SendGuard, clock: ManualClock) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], audit_wait=0)
    work(alerter)
    for number, health in ((A, "AT_RISK"), (A, "HEALTHY"), (A, "AT_RISK"), (A, "CRITICAL"), (B, "AT_RISK")):
        guard.observe(number, health=health)
        work(alerter)
        clock.advance(1)
    titles = [f"{A} is AT_RISK", f"{A} is HEALTHY again", f"{A} is CRITICAL", f"{B} is AT_RISK"]
    assert [alert.title for alert in alerts] == titles
    assert alerts[2].repeats == 1
    clock.advance(DAY)
    work(alerter)
    assert len(alerts) == 4


def test_a_quiet_time_of_zero_tells_every_one(guard: SendGuard, clock: ManualClock) -> None:
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append], rules={"page": Rule(quiet=0), "recovery": Rule(quiet=0)})
    work(alerter)
    for status in ("FLAGGED", "ACTIVE") * 3:
        guard.observe(A, status=status)
        work(alerter)
        clock.advance(1)
    assert len(alerts) == 6


# Reminders -----------------------------------------------------------------------------------------------------------


def test_a_line_flagged_for_a_day_without_news_is_reminded_of_once_a_day_in_the_fleet(
    new_guard: Callable[..., SendGuard], clock: ManualClock
) -> None:
    guards = [new_guard(), new_guard()]
    alerts: list[Alert] = []

    def call(alert: Alert) -> None:
        alerts.append(alert)

    alerters = [guard.alerter(callbacks=[call]) for guard in guards]
    work(*alerters)
    guards[0].observe(A, status="FLAGGED")
    guards[0].observe(B, status="ACTIVE")
    work(*alerters)
    days = []
    for hours in (23, 2, 22, 2, 1):
        clock.advance(hours * 3600)
        work(*alerters)
        work(*alerters)
        days.append(len(alerts) - 1)
    assert days == [0, 1, 1, 2, 2]
    assert alerts[1].reminder
    assert alerts[1].title == f"{A} is still FLAGGED, with no news for 25 hours"
    assert f"our line {A} has been FLAGGED since at least" in alerts[1].request
    guards[1].observe(A, status="FLAGGED")  # news
    clock.advance(DAY - 60)
    work(*alerters)
    assert len(alerts) == 3
    guards[1].observe(A, status="ACTIVE")
    clock.advance(2 * DAY)
    work(*alerters)
    assert [alert.title for alert in alerts[3:]] == [f"{A} is ACTIVE again"]


# Audits --------------------------------------------------------------------------------------------------------------


def audited(make: Callable[..., SendGuard], simulator: Simulator) -> SendGuard:
    return make(api_key=simulator.api_key, api_base_url=simulator.base_url)


@pytest.mark.parametrize("health", ["AT_RISK", "CRITICAL"])
def test_a_weak_line_is_audited_once_and_the_alert_tells_what_drives_it(
    valkey_guard: Callable[..., SendGuard], simulator: Simulator, health: str
) -> None:
    alerts: list[Alert] = []

    def call(alert: Alert) -> None:
        alerts.append(alert)

    guards = [audited(valkey_guard, simulator) for _ in range(3)]
    alerters = [guard.alerter(callbacks=[call], interval=0.02).start() for guard in guards]
    simulator.flip(A, health=health)
    guards[0].observe(A, health=health)
    guards[0].observe(B, status="FLAGGED")
    assert settled(lambda: len(alerts), 2) == 2
    for alerter in alerters:
        alerter.stop()
    page, weak = alerts  # the page did not wait for the other line's audit
    assert (page.severity, page.audit) == (Severity.PAGE, None)
    assert [(audit.line, audit.health.value) for audit in simulator.audits] == [(A, health)]
    assert weak.audit is not None
    assert (weak.audit.problem, weak.audit.report is not None) == (None, True)
    assert EXPECTED_AUDIT in weak.text


EXPECTED_AUDIT = """
Linq's reputation audit:
- Primary driver: new_conversation_rate
- new_conversation_rate: The line opens more conversations a day than is healthy. (83 new conversations in 24 hours)
- volume_spike: Volume jumped. (4.1 times the usual day)
- To do: Spread first contacts: Open fewer than fifty a day on one line.
- To do: Ramp volume gradually: Raise it over days.
"""


def test_an_alert_does_not_wait_longer_for_an_audit_than_told(
    valkey_guard: Callable[..., SendGuard], simulator: Simulator
) -> None:
    simulator.audit.takes = 3600
    alerts: list[Alert] = []
    guard = audited(valkey_guard, simulator)
    with guard.alerter(callbacks=[alerts.append], interval=0.02, audit_wait=1.5):
        guard.observe(A, health="AT_RISK")
        began = time.monotonic()
        wait_until(lambda: alerts)
    assert 1.4 < time.monotonic() - began < 10
    assert "Linq's reputation audit is not part of this: it did not finish in time." in alerts[0].text


def test_a_cooldown_is_kept_and_the_last_report_shown(
    new_guard: Callable[..., SendGuard], simulator: Simulator, clock: ManualClock
) -> None:
    simulator.audit.takes = 0
    guard = audited(new_guard, simulator)
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append])

    def later() -> None:
        for _ in range(3):
            work(alerter)
            clock.advance(1.1)

    work(alerter)
    guard.observe(A, health="AT_RISK")
    later()
    guard.observe(A, health="CRITICAL")
    later()
    guard.observe(A, health="AT_RISK")
    later()
    clock.advance(900)
    work(alerter)
    assert (len(simulator.audits), simulator.audits_refused) == (1, [A, A])
    assert [alert.title for alert in alerts] == [f"{A} is AT_RISK", f"{A} is CRITICAL", f"{A} is AT_RISK"]
    assert alerts[1].audit is not None
    assert alerts[1].audit.report is not None
    assert "is not part of this: Linq starts no new audit of this line before 2026-02-13 17:2" in alerts[1].text
    assert "\nThe last one, of 2026-02-13 16:26:4" in alerts[1].text
    assert "- Primary driver: new_conversation_rate" in alerts[1].text


def test_a_short_cooldown_is_waited_out(
    new_guard: Callable[..., SendGuard], simulator: Simulator, clock: ManualClock
) -> None:
    simulator.audit.takes, simulator.audit.cooldown = 0, 0.5
    guard = audited(new_guard, simulator)
    guard._linq().reputation_audit(A)  # by somebody else
    alerts: list[Alert] = []
    alerter = guard.alerter(callbacks=[alerts.append])
    work(alerter)
    guard.observe(A, health="AT_RISK")
    work(alerter)
    assert (simulator.audits_refused, alerts) == ([A], [])
    threading.Event().wait(0.5)
    for _ in range(3):
        clock.advance(1.1)
        work(alerter)
    assert len(simulator.audits) == 2
    assert alerts[0].audit is not None
    assert alerts[0].audit.problem is None


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda simulator: setattr(simulator.audit, "fails", True), "ended without a report"),
        (lambda simulator: simulator.release(A), "got HTTP 403, code 2006"),
    ],
)
def test_an_audit_that_fails_does_not_keep_the_alert_back(
    new_guard: Callable[..., SendGuard],
    simulator: Simulator,
    clock: ManualClock,
    break_it: Callable[[Simulator], object],
    problem: str,
) -> None:
    simulator.audit.takes = 0
    break_it(simulator)
    alerts: list[Alert] = []
    guard = audited(new_guard, simulator)
    alerter = guard.alerter(callbacks=[alerts.append])
    work(alerter)
    guard.observe(A, health="AT_RISK")
    for _ in range(3):
        work(alerter)
        clock.advance(1.1)
    assert alerts[0].audit is not None
    assert problem in str(alerts[0].audit.problem)


# The arguments, and the sidecar --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "urls, rules or callbacks"),
        ({"urls": "json://x"}, "urls must be a list"),
        ({"urls": [1]}, "urls must be a list"),
        ({"callbacks": [1]}, "callbacks"),
        ({"callbacks": [asyncio.sleep]}, "callbacks must be plain functions"),
        ({"rules": {"flagged": Rule()}}, "rules may name page, warning, info, recovery"),
        ({"rules": {"page": 5}}, r"rules\['page'\] must be a Rule"),
        ({"rules": {"page": Rule(urls=["nosuch://x"])}}, r"rules\['page'\]\.urls\[0\]"),
        ({"audit_wait": -1}, "audit_wait"),
        ({"remind_after": "1"}, "remind_after"),
        ({"claim_after": 0}, "claim_after"),
        ({"interval": 0}, "interval"),
        ({"name": "a b"}, "name"),
    ],
)
def test_a_wrong_argument_is_named(guard: SendGuard, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        guard.alerter(**{"callbacks": [] if not options else [print], **options})


@pytest.mark.parametrize("quiet", [-1, 86_401, True, "1"])
def test_a_quiet_time_out_of_range_is_named(quiet: Any) -> None:
    with pytest.raises(ValueError, match=r"^quiet"):
        Rule(quiet=quiet)


def test_the_snippet_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENDGUARD_STORE", "SENDGUARD_POOL"):
        monkeypatch.delenv(name, raising=False)
    (snippet,) = re.findall(r"^```py\n(.*?)^```", ALERTS_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert isinstance(names["guard"], SendGuard)
    assert callable(names["note"])


def test_without_apprise_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['apprise'] = None\n"
        "from sendguard import SendGuard\n"
        "SendGuard().alerter(callbacks=[print])\n"
        "try: SendGuard().alerter(['json://x'])\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("urls need the extra: pip install 'sendguard[alerts]'\n", "")


def test_the_sidecar_tells_of_a_webhook(valkey: Server, pool: str, inbox: Inbox) -> None:
    told = {"store": valkey.url, "pool": pool, "timeout": 5, "webhook_secret": SECRET, "alert_urls": inbox.url()}
    settings = Settings.model_validate({**told, "poll_interval": 0})
    with Served(create_app(settings)) as sidecar:
        body, headers = webhook(A, "evt-2", new_status="FLAGGED", new_reputation="HEALTHY")
        assert httpx.post(f"{sidecar.url}/webhooks/linq", content=body, headers=headers).status_code == 200
        wait_until(lambda: inbox.received)
    assert inbox.titles == [f"{A} is FLAGGED"]


def test_the_sidecar_takes_urls_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SENDGUARD_ALERT_URLS", "json://a/hush,b mailto://u:hush@example.com?to=a@x.org,b@x.org, xml://c"
    )
    monkeypatch.setenv("SENDGUARD_ALERT_PAGE_URLS", "json://pager")
    settings = Settings.load(poll_interval=0)
    shown = [url.get_secret_value() for url in settings.alert_urls]
    assert shown == ["json://a/hush,b", "mailto://u:hush@example.com?to=a@x.org,b@x.org", "xml://c"]
    assert "hush" not in repr(settings)
    alerter = settings.alerter(settings.guard())
    assert alerter is not None
    routes = alerter._flows._plan.routes
    assert [channel.label for channel in routes[Severity.PAGE, "status"]] == ["rules['page'].urls[0] (json)"]
    assert len(routes[Severity.INFO, "health"]) == 3


def test_the_sidecar_without_urls_alerts_nobody() -> None:
    settings = Settings(poll_interval=0)
    assert settings.alerter(settings.guard()) is None


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("alert_urls", "alert_urls[0] (nosuch) is no URL that apprise can use"),
        ("alert_page_urls", "alert_page_urls[0] (nosuch) is no URL that apprise can use"),
    ],
)
def test_the_sidecar_names_the_setting_that_is_wrong(field: str, problem: str) -> None:
    settings = Settings.model_validate({"poll_interval": 0, field: ["nosuch://hush"]})
    with pytest.raises(ConfigError) as caught:
        settings.alerter(settings.guard())
    assert caught.value.problems == [problem]


def test_what_the_store_keeps_of_alerts_goes_away(guard: SendGuard) -> None:
    alerter = guard.alerter(callbacks=[print])
    work(alerter)
    guard.observe(A, status="FLAGGED")
    work(alerter)
    client: redis.Redis = raw_client(guard)
    left = [key for key in client.keys(f"sendguard:{{{guard.pool}}}:alerts:*") if b":alert:" in key]
    assert left
    assert all(0 < client.ttl(key) <= 7 * DAY for key in left)
