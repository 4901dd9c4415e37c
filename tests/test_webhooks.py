"""Law 10: nothing unauthenticated changes state. What is let in, what is refused, and that refusing is all it does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendguard.errors import WebhookRejected
from sendguard.linq.events import LineUpdate, WebhookEvent
from sendguard.linq.webhooks import MAX_BODY, read_webhook, verify

NOW = 1_771_439_700.0
SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
OTHER = "whsec_" + base64.b64encode(b"another key of that size!").decode()
PLAIN = "an-older-secret!"
BODY = (Path(__file__).parent / "payloads" / "status_updated.reputation.json").read_bytes()
FLAGGED = WebhookEvent(
    "6f1c2a3b-0000-4000-8000-000000000104",
    "phone_number.status_updated",
    LineUpdate("+12025550101", 1_771_439_705.0, status="FLAGGED", health="CRITICAL"),
)


def key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


def standard(
    body: bytes = BODY, secret: str = SECRET, timestamp: object = int(NOW), id_: str = "msg_1"
) -> dict[str, str]:
    """Signed here from the specification's text, not by the library that the code under test uses."""
    signed = f"{id_}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()
    return {"webhook-id": id_, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def older(body: bytes = BODY, key: bytes = SECRET.encode(), timestamp: object = int(NOW)) -> dict[str, str]:
    signature = hmac.new(key, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Webhook-Timestamp": str(timestamp), "X-Webhook-Signature": signature}


Signer = Callable[..., dict[str, str]]
SCHEMES = pytest.mark.parametrize("sign", [standard, older])


def reason(body: Any, headers: Any, secrets: Any = (SECRET,), now: float = NOW) -> str:
    with pytest.raises(WebhookRejected) as caught:
        read_webhook(body, headers, secrets, now)
    assert caught.value.__context__ is None, "an error in the context would carry the body or the secret along"
    return caught.value.reason


@SCHEMES
def test_law_10_an_authentic_webhook_is_read(sign: Signer) -> None:
    assert verify(BODY, sign(), [SECRET], NOW) == json.loads(BODY)
    assert read_webhook(BODY, sign(), [SECRET], NOW) == FLAGGED
    assert read_webhook(BODY.decode(), sign(), [SECRET], NOW) == FLAGGED


def test_law_10_the_known_answer_of_the_standard_webhooks_specification() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert verify(b'{"test": 2432232314}', headers, [secret], 1614265330) == {"test": 2432232314}


@pytest.mark.parametrize("key", [SECRET.encode(), key_of(SECRET)])
def test_law_10_the_older_scheme_takes_the_secret_as_text_and_as_its_bytes(key: bytes) -> None:
    assert read_webhook(BODY, older(key=key), [SECRET], NOW) == FLAGGED


def test_law_10_the_older_scheme_takes_a_secret_without_whsec() -> None:
    assert read_webhook(BODY, older(key=PLAIN.encode()), [PLAIN], NOW) == FLAGGED
    assert reason(BODY, older(key=PLAIN.encode()), [PLAIN + "x"]) == "the signature does not match"


def test_law_10_either_scheme_is_enough() -> None:
    good, bad = standard(), {"X-Webhook-Timestamp": "rubbish", "X-Webhook-Signature": "rubbish"}
    assert read_webhook(BODY, {**good, **bad}, [SECRET], NOW) == FLAGGED
    assert read_webhook(BODY, {**standard(secret=OTHER), **older()}, [SECRET], NOW) == FLAGGED
    assert read_webhook(BODY, {"webhook-id": "msg_1", **older()}, [SECRET], NOW) == FLAGGED


@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET], (PLAIN, SECRET), ["", SECRET]])
@SCHEMES
def test_law_10_any_secret_of_a_rotation_will_do(sign: Signer, secrets: list[str]) -> None:
    assert read_webhook(BODY, sign(), secrets, NOW) == FLAGGED


def test_law_10_any_signature_of_a_rotation_will_do() -> None:
    headers = standard()
    theirs = standard(secret=OTHER)["webhook-signature"]
    headers["webhook-signature"] = f"v1a,abc {theirs} {headers['webhook-signature']} junk"
    assert read_webhook(BODY, headers, [SECRET], NOW) == FLAGGED


@pytest.mark.parametrize("version", ["v2", "V1", "v1a", ""])
def test_law_10_only_version_one_of_a_signature_counts(version: str) -> None:
    headers = standard()
    headers["webhook-signature"] = headers["webhook-signature"].replace("v1", version)
    assert reason(BODY, headers) == "the signature does not match"


@SCHEMES
def test_law_10_another_secret_is_refused(sign: Signer) -> None:
    assert reason(BODY, sign(), [OTHER, PLAIN]) == "the signature does not match"


@pytest.mark.parametrize("secrets", [[], (), None, "", [""], ["whsec_"], ["whsec_ ", " "], [None], 5])
@SCHEMES
def test_law_10_no_secret_lets_nothing_in(sign: Signer, secrets: Any) -> None:
    for known in (b"", b"whsec_", b" "):
        assert reason(BODY, older(key=known), secrets) == "no webhook secret is configured"
    assert reason(BODY, sign(), secrets) == "no webhook secret is configured"


def test_law_10_a_secret_that_is_not_base64_leaves_no_weak_key() -> None:
    weak = "whsec_-_-_-_-_QQ=="  # read leniently, this is the one byte "A"
    assert reason(BODY, standard(secret="whsec_QQ=="), [weak]) == "the signature does not match"


@pytest.mark.parametrize("off", [-300, -299.5, 0, 299.5, 300])
@SCHEMES
def test_law_10_up_to_five_minutes_off_is_accepted(sign: Signer, off: float) -> None:
    assert read_webhook(BODY, sign(), [SECRET], NOW + off) == FLAGGED


@pytest.mark.parametrize(
    ("off", "word"), [(-300.001, "new"), (-1e9, "new"), (300.001, "old"), (301, "old"), (1e9, "old")]
)
@SCHEMES
def test_law_10_more_than_five_minutes_off_is_refused(sign: Signer, off: float, word: str) -> None:
    assert reason(BODY, sign(), now=NOW + off) == f"the timestamp is too {word}"


@SCHEMES
def test_law_10_a_clock_that_is_not_a_number_lets_nothing_in(sign: Signer) -> None:
    for now in (math.nan, math.inf, -math.inf):
        assert reason(BODY, sign(), now=now).startswith("the timestamp is too")


@SCHEMES
def test_law_10_a_tampered_body_is_refused(sign: Signer) -> None:
    for body in (BODY.replace(b"FLAGGED", b"ACTIVE"), BODY + b" ", BODY[:-1], b""):
        assert reason(body, sign()) == "the signature does not match"


def test_law_10_a_tampered_id_or_timestamp_is_refused() -> None:
    assert reason(BODY, {**standard(), "webhook-id": "msg_2"}) == "the signature does not match"
    assert reason(BODY, {**standard(), "webhook-timestamp": str(int(NOW) + 1)}) == "the signature does not match"
    assert reason(BODY, {**older(), "X-Webhook-Timestamp": str(int(NOW) + 1)}) == "the signature does not match"


def test_law_10_headers_come_in_every_form() -> None:
    pairs = [*standard().items()]
    asgi = [(name.encode(), value.encode()) for name, value in pairs]
    shouted = [(name.upper(), value) for name, value in pairs]
    for headers in (pairs, asgi, shouted, dict(shouted), iter(asgi), tuple(asgi), [*asgi, (b"x-other", b"\xff")]):
        assert read_webhook(BODY, headers, [SECRET], NOW) == FLAGGED


@pytest.mark.parametrize("headers", [None, 5, "abc", b"abc", [1], [("a",)], [("a", "b", "c")], object()])
def test_law_10_headers_that_are_not_headers_are_refused(headers: Any) -> None:
    assert reason(BODY, headers) == "the headers are not readable"


def test_law_10_missing_and_repeated_headers_are_refused() -> None:
    assert reason(BODY, {}) == "there are no signature headers"
    assert reason(BODY, {"X-Webhook-Event": "phone_number.released"}) == "there are no signature headers"
    for sign in (standard, older):
        for name in sign():
            without = {key: value for key, value in sign().items() if key != name}
            assert reason(BODY, without) == f"the header {name.lower()} is missing"
            assert reason(BODY, [*sign().items(), (name.upper(), "x")]) == f"the header {name.lower()} is repeated"


@pytest.mark.parametrize("value", ["", "é", b"\xff", None, 5, "\ud800"])
@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_law_10_malformed_header_values_are_refused(name: str, value: Any) -> None:
    assert reason(BODY, {**standard(), name: value}) == f"the header {name} is malformed"


BAD_TIMESTAMPS = ["x", "-1", "+1", " 1", "1 ", "1.0", "1e9", "0x1", "1_0", "00", "01", "1234567890123", "1\n", "nan"]


@pytest.mark.parametrize("timestamp", [*BAD_TIMESTAMPS, f"0{int(NOW)}", f"{int(NOW)}.0"])
@SCHEMES
def test_law_10_a_timestamp_is_plain_digits_even_if_signed(sign: Signer, timestamp: str) -> None:
    assert reason(BODY, sign(timestamp=timestamp)).endswith("timestamp is malformed")


def test_law_10_a_timestamp_past_the_calendar_is_refused() -> None:
    assert reason(BODY, standard(timestamp=999_999_999_999)) == "the timestamp is too new"


@pytest.mark.parametrize("signature", ["g" * 64, "ab", "a" * 63, "a" * 65, "a" * 64 + "\n", "sha256=" + "a" * 64])
def test_law_10_an_older_signature_is_64_hex_digits(signature: str) -> None:
    headers = {**older(), "X-Webhook-Signature": signature}
    assert reason(BODY, headers) == "the header x-webhook-signature is malformed"


NOT_OBJECTS = [b"", b"{", b"[]", b"null", b"1", b'"x"', b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000,
               b'{"a": ' + b"1" * 5000 + b"}", b"\xef\xbb\xbf{}", b"{'a': 1}"]  # fmt: skip


@pytest.mark.parametrize("body", NOT_OBJECTS, ids=range(len(NOT_OBJECTS)))
@SCHEMES
def test_law_10_a_signed_body_that_is_not_a_json_object_is_refused(sign: Signer, body: bytes) -> None:
    assert reason(body, sign(body)) == "the body is not a JSON object"


@SCHEMES
def test_law_10_a_body_is_verified_before_it_is_parsed(sign: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object) -> object:
        raise AssertionError("parsed before it was verified")

    monkeypatch.setattr("sendguard.linq.webhooks.json.loads", parsed)
    assert reason(b"{", sign()) == "the signature does not match"


def test_law_10_a_signed_body_with_odd_json_is_still_only_json() -> None:
    body = b'{"event_id": "\\ud800", "event_type": "message.received", "data": {"x": NaN, "y": 1e999}}'
    assert read_webhook(body, standard(body), [SECRET], NOW) == WebhookEvent("msg_1", "message.received", None)


@pytest.mark.parametrize("body", [None, 5, ["x"], {"a": 1}, object()])
def test_law_10_a_body_of_another_type_is_refused(body: Any) -> None:
    assert reason(body, standard()) == "the body is neither bytes nor text"


def test_law_10_a_body_that_is_not_utf_8_is_refused() -> None:
    assert reason(b'{"a": "\xff"}', standard(b'{"a": "\xff"}')) == "the body is not UTF-8"
    assert reason('{"a": "\ud800"}', standard()) == "the body is not UTF-8"


def test_law_10_a_body_over_one_mebibyte_is_refused_before_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = b'{"a": "' + b"x" * (MAX_BODY - 9) + b'"}'
    assert len(full) == MAX_BODY
    assert verify(full, standard(full), [SECRET], NOW)
    assert verify(full, older(full), [SECRET], NOW)
    over = full + b" "
    headers = {**standard(over), **older(over)}
    wide = '{"a": "' + "é" * (MAX_BODY // 2) + '"}'
    monkeypatch.setattr("sendguard.linq.webhooks.hmac.digest", None)
    monkeypatch.setattr("sendguard.linq.webhooks.Webhook", None)
    assert reason(over, headers) == "the body is too large"
    assert reason(over.decode(), headers) == "the body is too large"
    assert reason(wide, headers) == "the body is too large"


def test_an_event_without_an_id_is_known_by_what_is_signed() -> None:
    body = b'{"event_type": "chat.created", "data": {}}'
    digest = hashlib.sha256(body).hexdigest()
    assert read_webhook(body, standard(body, id_="msg_9"), [SECRET], NOW).event_id == "msg_9"
    assert read_webhook(body, older(body), [SECRET], NOW).event_id == digest
    unsigned_id = {**older(body), "webhook-id": "made up"}
    assert read_webhook(body, unsigned_id, [SECRET], NOW).event_id == digest


def test_an_event_without_a_time_is_as_old_as_its_signature() -> None:
    body = b'{"event_type": "phone_number.assigned", "data": {"phone_number": "+12025550101"}}'
    event = read_webhook(body, standard(body), [SECRET], NOW + 200)
    assert event.news == LineUpdate("+12025550101", NOW, assigned=True)


def test_law_10_the_event_header_is_not_signed_so_it_changes_nothing() -> None:
    body = b'{"phone_number": "+12025550101", "changed_at": "2026-03-01T12:00:00Z"}'
    headers = {**older(body), "X-Webhook-Event": "phone_number.released"}
    event = read_webhook(body, headers, [SECRET], NOW)
    assert (event.event_type, event.news) == ("phone_number.released", None)
    assert read_webhook(BODY, {**older(), "X-Webhook-Event": "phone_number.released"}, [SECRET], NOW) == FLAGGED


def test_law_10_a_line_event_without_a_line_is_refused() -> None:
    body = b'{"event_type": "phone_number.status_updated", "data": {"phone_number": "secret content"}}'
    assert reason(body, standard(body)) == "data.phone_number is not an E.164 number"


TEXTS = st.text(max_size=60) | st.sampled_from([str(int(NOW)), "v1,", "v1,AAAA", "a" * 64, "0" * 12])
VALUES = st.none() | st.integers() | TEXTS | st.binary(max_size=60)
NAMES = st.sampled_from(sorted({*standard(), *older(), "x-webhook-event"})) | VALUES
HEADERS = st.none() | st.dictionaries(NAMES, VALUES) | st.lists(st.tuples(NAMES, VALUES)) | st.lists(VALUES)
BODIES = st.binary() | st.text(st.characters()) | st.none() | st.just(BODY)
SECRETS = st.none() | TEXTS | st.lists(TEXTS | st.just(SECRET) | st.none(), max_size=3)


@given(BODIES, HEADERS, SECRETS)
def test_law_10_whatever_comes_is_only_ever_rejected(body: Any, headers: Any, secrets: Any) -> None:
    with pytest.raises(WebhookRejected):
        read_webhook(body, headers, secrets, NOW)


@given(HEADERS.filter(lambda h: h is not None), st.sampled_from([standard, older]))
def test_law_10_rubbish_in_place_of_any_header_never_crashes(extra: Any, sign: Signer) -> None:
    pairs = [*sign().items(), *(extra.items() if isinstance(extra, dict) else extra)]
    try:
        outcome: object = read_webhook(BODY, pairs, [SECRET], NOW)
    except WebhookRejected as rejected:
        outcome = rejected.reason
    assert outcome == FLAGGED or isinstance(outcome, str)
    assert outcome == FLAGGED or all(word not in str(outcome) for word in (SECRET, "12025550101"))


KINDS = ["phone_number.status_updated", "phone_number.assigned", "phone_number.released", "message.received",
         "message.sent", "message.failed", "chat.created", "", None, 5]  # fmt: skip
FIELDS = ["phone_number", "new_status", "new_reputation", "new_health_status", "changed_at", "chat", "handles",
          "owner_handle", "handle", "is_me", "parts", "type", "value", "message", "sent_at", "reconciled_at", "code",
          "failed_at", "chat_id", "status", "sender_handle", "from_handle", "id", "is_group"]  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
    | st.sampled_from(["+12025550101", "STOP", "text", "ACTIVE", "2026-02-18T18:35:05Z", "0001-01-01T00:00:00Z",
                       "9999-12-31T23:59:59-23:59", "\ud800"])
)  # fmt: skip
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)
)
DATA = st.dictionaries(st.sampled_from(FIELDS) | st.text(st.characters(), max_size=3), JSON, max_size=10)
ENVELOPES = DATA | st.fixed_dictionaries(
    {"event_type": st.sampled_from(KINDS), "data": DATA | JSON}, optional={"event_id": JSON, "created_at": JSON}
)


@given(ENVELOPES | JSON, st.sampled_from([standard, older]))
def test_law_10_signed_json_of_any_shape_is_read_or_rejected(payload: Any, sign: Signer) -> None:
    body = json.dumps(payload).encode()
    try:
        event = read_webhook(body, sign(body), [SECRET], NOW)
    except WebhookRejected:
        return
    assert event.event_id
    repr(event).encode()
    if isinstance(event.news, LineUpdate):
        assert math.isfinite(event.news.at)
        assert event.news.status is None or event.news.status
