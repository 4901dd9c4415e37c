"""Every example payload to exactly what a guard learns from it; and law 2's edge: what counts as carried."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sendguard.errors import LinqError, WebhookRejected
from sendguard.linq.events import Consent, LineUpdate, MessageFailed, MessageSeen, WebhookEvent
from sendguard.linq.payloads import is_e164, parse_event, parse_phone_numbers

PAYLOADS = Path(__file__).parent / "payloads"
FALLBACK_AT = 1_800_000_000.0
LINE, PERSON = "+12025550101", "+14155550123"
CHAT = "6f1c2a3b-0000-4000-8000-000000000400"
FLAGGED_AT, CREATED_AT, SENT_AT = 1_771_439_705.0, 1_771_439_706.12, 1_771_439_400.0


def load(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


def parse(payload: dict[str, Any], event_type: str | None = None) -> WebhookEvent:
    return parse_event(payload, event_type, "fallback", fallback_at=FALLBACK_AT)


def flagged(health: str | None) -> LineUpdate:
    return LineUpdate(LINE, FLAGGED_AT, status="FLAGGED", health=health)


def seen(consent: Consent | None, **other: Any) -> MessageSeen:
    fields = {"line": LINE, "inbound": True, "at": SENT_AT, "chat_id": CHAT, "sender": PERSON, **other}
    return MessageSeen(consent=consent, **fields)


EVENTS = {
    "status_updated.status_only": flagged(None),
    "status_updated.health_status": flagged("CRITICAL"),
    "status_updated.both": flagged("CRITICAL"),
    "status_updated.reputation": flagged("CRITICAL"),
    "status_updated.recovered": LineUpdate(LINE, 1_771_578_000.0, status="ACTIVE", health="AT_RISK"),
    "phone_number.assigned": LineUpdate("+12025550103", 1_772_366_400.0, assigned=True),
    "phone_number.released": LineUpdate("+12025550103", 1_773_057_600.0, assigned=False),
    "message.received": seen(Consent.OPT_IN),
    "message.received.stop": seen(Consent.OPT_OUT),
    "message.received.reconciled": seen(Consent.OPT_IN, history=True),
    "message.received.2025-01-01": seen(Consent.OPT_OUT),
    "message.sent": seen(None, inbound=False, sender=None),
    "message.failed.4002": MessageFailed(4002, CHAT, 1_771_439_460.0),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_example_webhook(name: str) -> None:
    payload = load(name)
    assert parse(payload) == WebhookEvent(payload["event_id"], payload["event_type"], EVENTS[name])


def test_no_example_webhook_is_left_out() -> None:
    prefixes = ("status_updated.", "phone_number.", "message.")
    assert {path.stem for path in PAYLOADS.glob("*.json") if path.stem.startswith(prefixes)} == {
        *EVENTS,
        "status_updated.seed_data_only",
    }


def test_data_without_an_envelope_is_a_status_update() -> None:
    expected = WebhookEvent("fallback", "phone_number.status_updated", flagged("CRITICAL"))
    assert parse(load("status_updated.seed_data_only")) == expected
    assert parse(load("status_updated.seed_data_only"), "phone_number.released") == expected
    assert parse({"data": load("status_updated.seed_data_only")}) == expected


def test_other_events_are_no_news() -> None:
    for kind in ("message.delivered", "chat.created", "environment.line_moved", "never.heard.of"):
        event = parse({"event_type": kind, "event_id": "e1", "data": {"phone_number": LINE, "new_status": "ACTIVE"}})
        assert event == WebhookEvent("e1", kind, None)
    assert parse({}) == WebhookEvent("fallback", "unknown", None)
    assert parse({}, "message.sent") == WebhookEvent("fallback", "message.sent", None)


def status_update(**data: Any) -> LineUpdate:
    news = parse({"event_type": "phone_number.status_updated", "data": {"phone_number": LINE, **data}}).news
    assert isinstance(news, LineUpdate)
    return news


STATES = [
    ("ACTIVE", "ACTIVE"), ("flagged", "FLAGGED"), (" Active ", "ACTIVE"), ("AT RISK", "AT RISK"), (None, None),
    ("", None),
    (7, "7"), (True, "TRUE"), (False, "FALSE"), (1.5, "1_5"), ([], "UNKNOWN"), ({}, "UNKNOWN"), ("?!", "UNKNOWN"),
    (" ", "UNKNOWN"), ("x" * 99, "X" * 32), (["ACTIVE"], "__ACTIVE__"), ("ACTIVE!", "ACTIVE_"),
    ("act\u0131ve", "ACT_VE"),
    ("ACTIVE\x00", "ACTIVE_"), ({"status": "ACTIVE"}, "__STATUS__ _ACTIVE__"), ("\ud800", "UNKNOWN"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), STATES)
def test_law_2_a_status_is_carried_as_spelt_and_nothing_odd_becomes_active(given: Any, expected: str | None) -> None:
    assert status_update(new_status=given).status == expected


def test_law_2_a_status_nested_too_deep_to_print_is_unknown() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert status_update(new_status=deep).status == "UNKNOWN"
    while deep:  # take it apart by hand, or freeing it recurses
        deep = deep[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, None),
        ({"new_reputation": "CRITICAL", "new_health_status": "HEALTHY"}, "CRITICAL"),
        ({"new_reputation": None, "new_health_status": "at_risk"}, "AT_RISK"),
        ({"new_reputation": "", "new_health_status": "AT_RISK"}, "AT_RISK"),
        ({"new_reputation": {"status": "critical"}}, "CRITICAL"),
        ({"new_reputation": {"doc_url": "x"}, "new_health_status": "AT_RISK"}, "AT_RISK"),
        ({"new_reputation": 3}, "3"),
        ({"previous_reputation": "CRITICAL", "health_status": "CRITICAL"}, None),
    ],
)
def test_law_2_health_is_the_newest_that_is_carried(data: dict[str, Any], expected: str | None) -> None:
    assert status_update(**data).health == expected


TIMES = [
    ("2026-02-18T18:35:05.123456Z", 1_771_439_705.123456), ("2026-02-18T18:35:05.123456789Z", 1_771_439_705.123456),
    ("2026-02-18T13:35:05-05:00", FLAGGED_AT), ("2026-02-18T18:35:05", FLAGGED_AT),
    ("2026-02-18 18:35:05+00:00", FLAGGED_AT),
    (None, CREATED_AT), ("", CREATED_AT), ("yesterday", CREATED_AT), (1_771_439_705, CREATED_AT), ({}, CREATED_AT),
    ("0001-01-01T00:00:00Z", CREATED_AT), ("0001-01-01T00:00:00+23:00", CREATED_AT),
    ("2026-13-01T00:00:00Z", CREATED_AT),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), TIMES)
def test_times_are_exact_to_the_microsecond_and_fall_back(given: Any, expected: float) -> None:
    payload = load("phone_number.assigned")
    payload["data"]["changed_at"] = given
    assert parse(payload).news == LineUpdate("+12025550103", expected, assigned=True)


def test_the_last_resort_of_a_time_is_the_callers() -> None:
    assert status_update(changed_at="never").at == FALLBACK_AT


@pytest.mark.parametrize("number", [None, "", 12025550101, "12025550101", "+02025550101", "+120255", LINE + "\n", {}])
@pytest.mark.parametrize("kind", ["status_updated", "assigned", "released"])
def test_an_event_of_no_line_is_rejected(kind: str, number: Any) -> None:
    payload = {"event_type": f"phone_number.{kind}", "data": {"phone_number": number, "new_status": "ACTIVE"}}
    with pytest.raises(WebhookRejected, match=r"data\.phone_number is not an E\.164 number$"):
        parse(payload)


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_an_event_whose_data_is_no_object_never_crashes(data: Any) -> None:
    assert parse({"event_type": "message.received", "data": data}).news is None
    assert parse({"event_type": "message.failed", "data": data}).news is None
    with pytest.raises(WebhookRejected):
        parse({"event_type": "phone_number.assigned", "data": data})


OPT_OUT_WORDS = ["STOP", "UNSUBSCRIBE", "OPTOUT", "CANCEL", "END", "QUIT", "OPT OUT", "OPT-OUT", "opt out", "Opt-Out",
                 "optout", "oPtOuT", "  STOP\n", "\tOpt Out "]  # fmt: skip
REPLIES = ["stop", "Stop", "STOP.", "STOP STOP", "please STOP", "Quit", "cancel", "end", "unsubscribe", "OPT  OUT",
           "OPT_OUT",
           "OPT\u00adOUT", "opt\nout", "START", "OPTIN", "UNSTOP", "", " ", "See you at ten", "STOPALL"]  # fmt: skip


def received(parts: Any, **chat: Any) -> MessageSeen:
    payload = load("message.received")
    payload["data"]["parts"] = parts
    payload["data"]["chat"].update(chat)
    news = parse(payload).news
    assert isinstance(news, MessageSeen)
    return news


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "value": value}


@pytest.mark.parametrize("word", OPT_OUT_WORDS)
def test_the_opt_out_words(word: str) -> None:
    assert received([text(word)]).consent is Consent.OPT_OUT


@pytest.mark.parametrize("word", REPLIES)
def test_any_other_word_opts_in(word: str) -> None:
    assert received([text(word)]).consent is Consent.OPT_IN


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([text("ST"), text("OP ")], Consent.OPT_OUT),
        ([text("STOP"), text("it")], Consent.OPT_IN),
        ([text("STOP"), {"type": "media", "url": "x"}], Consent.OPT_IN),
        ([{"type": "media", "value": "STOP"}], Consent.OPT_IN),
        ([text("STOP"), "STOP"], Consent.OPT_IN),
        ([text(5)], Consent.OPT_IN),
        ([], Consent.OPT_IN),
        (None, None),
        ("STOP", None),
    ],
)
def test_consent_is_of_the_whole_message(parts: Any, expected: Consent | None) -> None:
    assert received(parts).consent is expected


def test_a_group_is_never_marked_but_opts_in() -> None:
    for word, consent in (("STOP", None), ("Hello", Consent.OPT_IN)):
        group = received([text(word)], is_group=True)
        assert (group.is_group, group.consent) == (True, consent)


def test_the_event_type_decides_which_way_a_message_went() -> None:
    inbound, outbound = load("message.received.stop"), load("message.sent")
    inbound["data"].update(direction="outbound", is_from_me=True)
    outbound["data"].update(direction="inbound", is_from_me=False, parts=[text("STOP")])
    assert parse(inbound).news == EVENTS["message.received.stop"]
    assert parse(outbound).news == EVENTS["message.sent"]


def test_a_message_is_as_old_as_the_best_time_it_carries() -> None:
    payload = load("message.received.2025-01-01")
    data = payload["data"]
    data["created_at"] = "2026-02-18T18:35:05Z"
    assert parse(payload).news.at == SENT_AT
    del data["received_at"]
    assert parse(payload).news.at == FLAGGED_AT
    del data["created_at"]
    assert parse(payload).news.at == CREATED_AT
    data["message"]["sent_at"] = "2026-02-18T18:30:00Z"
    assert parse(payload).news.at == SENT_AT


def test_the_line_of_a_message_is_the_handle_that_is_ours() -> None:
    mine, theirs = {"handle": LINE, "is_me": True}, {"handle": PERSON, "is_me": False}
    for data in (
        {"from_handle": mine, "recipient_handle": theirs},
        {"from_handle": theirs, "recipient_handle": mine},
        {"handles": [theirs, mine]},
        {"handles": [None, 5, mine]},
        {"chat": {"handles": [theirs, mine]}},
        {"chat": {"owner_handle": {"handle": LINE}}},
    ):
        assert parse({"event_type": "message.sent", "data": data}).news == MessageSeen(LINE, False, FALLBACK_AT)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"chat": {"owner_handle": {"handle": "me@example.com"}}},
        {"chat": {"owner_handle": None}, "from_handle": {"handle": PERSON, "is_me": False}},
        {"chat": "x", "handles": {"handle": LINE}},
        {"from_handle": {"handle": LINE, "is_me": "true"}},
    ],
)
def test_a_message_of_no_line_is_no_news(data: dict[str, Any]) -> None:
    assert parse({"event_type": "message.received", "data": data}).news is None


@pytest.mark.parametrize("code", [None, "4002", 4002.0, True, []])
def test_a_failure_without_a_code_is_no_news(code: Any) -> None:
    assert parse({"event_type": "message.failed", "data": {"code": code}}).news is None


def test_a_failure_may_lack_all_but_its_code() -> None:
    assert parse({"event_type": "message.failed", "data": {"code": 4001}}).news == MessageFailed(
        4001, None, FALLBACK_AT
    )


def polled(number: str, health: str | None, line_type: str | None = None) -> LineUpdate:
    return LineUpdate(number, 5.0, health=health, line_type=line_type, assigned=True)


POLLS = {
    "plain": (polled(LINE, None), polled("+12025550102", None)),
    "health_status": (polled(LINE, "HEALTHY"), polled("+12025550102", "AT_RISK"), polled("+12025550103", "CRITICAL")),
    "both": (polled(LINE, "HEALTHY"), polled("+12025550102", "CRITICAL")),
    "reputation": (polled(LINE, "HEALTHY", "iMessage"), polled("+12025550102", "AT_RISK", "RCS")),
}


@pytest.mark.parametrize("name", POLLS)
def test_law_2_every_example_poll_carries_no_status(name: str) -> None:
    assert parse_phone_numbers(load(f"phone_numbers.{name}"), 5.0) == POLLS[name]


@pytest.mark.parametrize(
    ("entry", "status", "health"),
    [
        ({"status": "FLAGGED"}, "FLAGGED", None),
        ({"status": {"status": "ACTIVE"}}, None, None),
        ({"status": None}, None, None),
        ({"status": ""}, None, None),
        ({"status": 1}, None, None),
        ({"reputation": "critical", "health_status": {"status": "HEALTHY"}}, None, "CRITICAL"),
        ({"reputation": None, "health_status": "AT_RISK"}, None, "AT_RISK"),
        ({"reputation": {"status": None}, "health_status": {"status": "AT_RISK"}}, None, "AT_RISK"),
    ],
)
def test_law_2_a_poll_changes_only_what_it_carries(
    entry: dict[str, Any], status: str | None, health: str | None
) -> None:
    update = LineUpdate(LINE, 5.0, status=status, health=health, assigned=True)
    assert parse_phone_numbers({"phone_numbers": [{"phone_number": LINE, **entry}]}, 5.0) == (update,)


def test_an_entry_without_a_number_is_left_out_and_logged_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    entries = [{"phone_number": "not-a-number"}, "secret", None, {"phone_number": LINE}]
    with caplog.at_level(logging.WARNING, "sendguard.linq"):
        assert parse_phone_numbers({"phone_numbers": entries}, 5.0) == (LineUpdate(LINE, 5.0, assigned=True),)
    assert [record.name for record in caplog.records] == ["sendguard.linq"] * 3
    assert "not-a-number" not in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("payload", [None, [], "x", {}, {"phone_numbers": None}, {"phone_numbers": {"a": 1}}])
def test_a_poll_without_a_list_is_an_error(payload: Any) -> None:
    with pytest.raises(LinqError, match="phone_numbers: not a list"):
        parse_phone_numbers(payload, 5.0)


def test_an_empty_poll_is_no_error() -> None:
    assert parse_phone_numbers({"phone_numbers": []}, 5.0) == ()


@pytest.mark.parametrize("number", ["+1202555", "+12025550101", "+999999999999999"])
def test_e164(number: str) -> None:
    assert is_e164(number)


NOT_E164 = ["", "+120255", "+1234567890123456", "+0202555010", "12025550101", "+1202555010١", f"{LINE}\n", f" {LINE}"]


@pytest.mark.parametrize("number", NOT_E164)
def test_not_e164(number: str) -> None:
    assert not is_e164(number)


@pytest.mark.parametrize("line_type", ["a!b", "a|b", "", "x" * 33, 7, None, ["RCS"]])
def test_a_line_type_that_is_no_short_name_was_not_carried(line_type: Any) -> None:
    entry = {"phone_number": "+12025550101", "line_type": line_type}
    (update,) = parse_phone_numbers({"phone_numbers": [entry]}, 1.0)
    assert update.line_type is None
    (known,) = parse_phone_numbers({"phone_numbers": [{**entry, "line_type": "iMessage"}]}, 1.0)
    assert known.line_type == "iMessage"
