"""Law 10 by fuzzing: hostile deliveries to a real store. `benchmarks/fuzz_webhooks.py` runs the same for long.

None raises anything but WebhookRejected; none that is unsigned changes a key; after each that is signed, whatever is in
it, lines are read and decisions made as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, seed, settings

from tests import hostile
from tests.bombarded import Bombarded
from tests.servers import Server
from tests.support import PAYLOADS, older_headers, standard_headers

EXAMPLES = 1500


@pytest.fixture
def bombarded(valkey: Server) -> Iterator[Bombarded]:
    with Bombarded(valkey.url.replace("/0", "/1"), "fuzz") as bombarded:
        yield bombarded


def whole(body: bytes) -> hostile.Delivery:
    return hostile.Delivery(body, standard_headers(body, hostile.NOW), whole=True)


def test_law_10_no_forgery_is_taken_or_changes_a_key(bombarded: Bombarded) -> None:
    @seed(1)
    @settings(max_examples=EXAMPLES, database=None)
    @given(hostile.forgeries)
    def forge(delivery: hostile.Delivery) -> None:
        assert not hostile.may_be_authentic(delivery)
        bombarded.take(delivery)

    forge()
    assert not any(outcome.startswith("accepted") for outcome in bombarded.outcomes)
    assert len(bombarded.outcomes) > 12, "the forgeries are all refused for the same few reasons"


def test_law_10_no_signed_content_corrupts_the_pool(bombarded: Bombarded) -> None:
    @seed(1)
    @settings(max_examples=EXAMPLES, database=None)
    @given(hostile.signed)
    def deliver(delivery: hostile.Delivery) -> None:
        bombarded.take(delivery)

    deliver()
    bombarded.heal()
    outcomes = bombarded.outcomes
    assert outcomes["accepted, nothing changed"] + outcomes["accepted"] > EXAMPLES / 5, "too little came through"
    assert outcomes["accepted"] + outcomes["accepted, a line changed"] > EXAMPLES / 15, "too little did anything"


@pytest.mark.parametrize("path", hostile.ORIGINALS, ids=lambda path: path.stem)
def test_law_10_every_real_payload_signed_and_unsigned(bombarded: Bombarded, path: Path) -> None:
    body = path.read_bytes()
    bombarded.take(hostile.Delivery(body, {}))
    bombarded.take(hostile.Delivery(body + b" ", standard_headers(body, hostile.NOW)))
    bombarded.take(hostile.Delivery(body, older_headers(body, hostile.NOW - 301)))
    bombarded.take(whole(body))
    assert sum(bombarded.outcomes.values()) == 4


@pytest.mark.parametrize("name", ["x" * 129, "x\r\nERROR a forged line", "+1" * 50_000, "\u00e9", " "])
def test_law_10_what_names_an_event_is_kept_and_logged_only_if_it_is_short_and_plain(
    bombarded: Bombarded, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level("DEBUG", "sendguard")
    update = json.loads((PAYLOADS / "status_updated.reputation.json").read_bytes())
    bombarded.take(whole(json.dumps({**update, "event_id": name}).encode()))
    assert bombarded.outcomes == {"accepted, a line changed": 1}
    assert bombarded.guard.transitions(count=100)[-1].event_id == "msg_1"
    body = json.dumps({**update, "event_type": name}).encode()
    headers = {**standard_headers(body, hostile.NOW, message_id="m" * 60_000), "X-Webhook-Event": name}
    bombarded.take(hostile.Delivery(body, headers, whole=True))
    assert "webhook 'unknown' is of no use" in caplog.messages
