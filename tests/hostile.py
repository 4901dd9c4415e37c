"""Deliveries of webhooks that mean harm, for Hypothesis: what a forger sends, and what a signer could be made to sign.

`forgeries` never touch the guard's secret. `signed` ones are signed with it, whatever is in them, and some are tampered
with afterwards; `may_be_authentic` tells which of those a guard could be right to take.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support import OTHER_SECRET, PAYLOADS, SECRET

NOW = 1_771_439_700
LINE, PERSON = "+12025550101", "+14155550123"
PLAIN = "an older secret, as text"
SECRETS: dict[str, tuple[str, ...]] = {
    "one": (SECRET,),
    "several": (OTHER_SECRET, SECRET, PLAIN),
    "blank": (" ", "whsec_", "whsec_ "),
    "none": (),
}
"""The sets of secrets that guards are given."""

ORIGINALS = tuple(sorted(PAYLOADS.glob("*.json")))
_STANDARD = ("webhook-id", "webhook-timestamp", "webhook-signature")
_OLDER = ("X-Webhook-Timestamp", "X-Webhook-Signature")


_Pair = tuple[Any, Any]


class Delivery(NamedTuple):
    """What comes in. secrets: which of SECRETS the guard that it comes to has. whole: signed, and not tampered with."""

    body: Any
    headers: Any
    secrets: str = "one"
    whole: bool = False

    def __repr__(self) -> str:
        return f"Delivery{repr(tuple(self))[:4000]}"


# Bodies --------------------------------------------------------------------------------------------------------------

RAW = {
    "@NAN@": "NaN", "@INF@": "-Infinity", "@EXP@": "1e999", "@ZERO@": "-0.0", "@HUGE@": "9" * 400,
    "@DIGITS@": "9" * 5000, "@LISTS@": "[" * 400 + "]" * 400, "@DEEP@": "[" * 100_000 + "]" * 100_000,
    "@OBJECTS@": '{"handle":' * 900 + "1" + "}" * 900, "@OPEN@": '{"a": [', "@LONG@": '"' + "+1" * 50_000 + '"',
    "@LONE@": '"\\ud800"', "@PAIR@": '"\\ud83d\\ude00"', "@NUL@": '"\\u0000"',
    "@TWICE@": '{"handle": "+12025550101", "handle": null, "is_me": true, "is_me": "true"}',
}  # fmt: skip
"""JSON that `json.dumps` does not write, put in place of a text."""

WIDE, ARABIC = "".join(map(chr, range(0xFF10, 0xFF1A))), "".join(map(chr, range(0x660, 0x66A)))
"""The ten digits, which `str.isdigit` and a careless pattern take for those of a number."""

HOSTILE: list[Any] = [
    *RAW, None, True, False, 0, -1, 4002, 2027, 2**63, 1.5, "", " ", "\x00", "\n", "null", "x" * 300, "\u00e9" * 99,
    "ACTIVE", "FLAGGED", "active ", "AT_RISK", "ACTIVE|FLAGGED", "y11!x!", "a|b|c|d", "}:r:{", "STOP", "opt-out",
    "START", LINE, PERSON, f"{LINE}\n", f" {LINE}", "+1" * 9, f"+1{WIDE}", f"+{ARABIC[1:]}1", f"{LINE[:-1]}{WIDE[1]}",
    "12025550101", "+0123456789", "a@b.example", "x\r\nERROR a forged line of the log", "\U0001f4a3", "1969-12-31",
    "2026-02-18T18:35:05Z", "2026-02-18T18:35:05.9999999Z", "2026-W08-3T00:00:00+00:00:00.000001",
    "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "message.failed",
    "message.received", "phone_number.released", "phone_number.assigned", "phone_number.status_updated",
    [], {}, [[]], [None], [{}], ["text"], {"status": "ACTIVE"}, {"status": ["ACTIVE"]}, {"handle": 5},
    {"handle": LINE, "is_me": True}, {"a": {"b": []}}, [{"type": "text", "value": "STOP"}], [{"type": "text"}] * 50,
]  # fmt: skip
"""What is put in place of any value."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value, itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy of `value` in which what stands at `path` is changed."""
    if not path:
        return change(value)
    key, *rest = path
    if isinstance(value, dict):
        return {name: _changed(inner, tuple(rest), change) if name == key else inner for name, inner in value.items()}
    return [_changed(inner, tuple(rest), change) if i == key else inner for i, inner in enumerate(value)]


_ORIGINAL_VALUES = [json.loads(path.read_text("utf-8")) for path in ORIGINALS]
_ORIGINAL_PLACES = [list(_places(value)) for value in _ORIGINAL_VALUES]
_WEBHOOKS = [i for i, value in enumerate(_ORIGINAL_VALUES) if "event_id" in value]
_OF_LINES = [i for i in _WEBHOOKS if "phone_number" in _ORIGINAL_VALUES[i]["data"]]
_CHOICES = st.sampled_from([*range(len(ORIGINALS)), *_WEBHOOKS * 3, *_OF_LINES * 8])
_HARM = st.sampled_from(HOSTILE)
_JSON = st.recursive(
    _HARM | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
_CHANGES = st.sampled_from(["replace", "replace", "replace", "wrap", "drop", "add"])


def _mutation(kind: str, harm: Any) -> Callable[[Any], Any]:
    if kind == "wrap":
        return lambda value: [value, harm]
    if kind == "add":
        return lambda value: {**value, "phone_number": harm} if isinstance(value, dict) else {"": value}
    return lambda _: None if kind == "drop" else harm


def _name_of(content: bytes) -> str:
    """An id of its own for each content, as an event that was seen before is dropped."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


_EVENTS = st.fixed_dictionaries({
    "event_type": st.sampled_from([
        "phone_number.status_updated", "phone_number.assigned", "phone_number.released", "message.received",
        "message.sent", "message.failed", "chat.created",
    ]),
    "data": _JSON | st.fixed_dictionaries({
        "phone_number": st.just(LINE), "new_status": _JSON, "new_reputation": _JSON, "changed_at": _JSON,
    }),
})  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> Any:
    """One of the real payloads, with one to three changes at any place."""
    chosen = draw(_CHOICES)
    value, places = _ORIGINAL_VALUES[chosen], _ORIGINAL_PLACES[chosen]
    for _ in range(draw(st.integers(1, 3))):
        harm = draw(_HARM | _JSON)
        value = _changed(value, draw(st.sampled_from(places)), _mutation(draw(_CHANGES), harm))
        places = list(_places(value))
    if isinstance(value, dict) and value.get("event_id") == _ORIGINAL_VALUES[chosen].get("event_id"):
        value = {**value, "event_id": _name_of(repr(value).encode("utf-8", "surrogatepass"))}
    return value


_RAW_PATTERN = re.compile('"(@[A-Z]+@)"')


def _written(value: Any, *, ascii_only: bool) -> bytes:
    text = json.dumps(value, ensure_ascii=ascii_only)
    return _RAW_PATTERN.sub(lambda found: RAW.get(found[1], found[0]), text).encode("utf-8", "surrogatepass")


_SPLICES = st.sampled_from([
    b"", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"}", b"{", b'"', b"\\", b",", b"\xef\xbb\xbf", b"[" * 2000,
    b"NaN", b'"phone_number":"+12025550199",', b'"event_type":"phone_number.released",', b"\\ud800", b"\\u0000",
    b"1" * 4301, b" " * 999,
])  # fmt: skip


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    body = _written(
        draw(st.one_of(_mutated(), _mutated(), _mutated(), _EVENTS, _JSON)), ascii_only=draw(st.integers(0, 5)) > 0
    )
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(_SPLICES) + body[at + draw(st.integers(0, 4)) :]
    return draw(st.binary(max_size=64)) if draw(st.integers(0, 15)) == 0 else body


bodies: st.SearchStrategy[bytes] = _bodies()
"""Bodies of a delivery as bytes."""


# Headers -------------------------------------------------------------------------------------------------------------


def _keys(secret: str) -> list[bytes]:
    text = secret.removeprefix("whsec_")
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        decoded = b""
    return [secret.encode(), decoded]


def _standard_signature(key: bytes, message_id: bytes, timestamp: bytes, body: bytes) -> str:
    return base64.b64encode(hmac.digest(key, b".".join((message_id, timestamp, body)), "sha256")).decode()


def _older_signature(key: bytes, timestamp: bytes, body: bytes) -> str:
    return hmac.digest(key, timestamp + b"." + body, "sha256").hex()


def _signed_headers(body: bytes, secret: str, schemes: str, at: int) -> list[_Pair]:
    """Signed from the schemes' own texts. schemes: of "so", the ones to sign by."""
    pairs: list[_Pair] = []
    as_text, decoded = _keys(secret)
    stamp = str(at)
    if "s" in schemes:
        name = _name_of(body)
        signature = "v1," + _standard_signature(decoded, name.encode(), stamp.encode(), body)
        pairs += zip(_STANDARD, (name, stamp, signature), strict=True)
    if "o" in schemes:
        pairs += zip(_OLDER, (stamp, _older_signature(as_text, stamp.encode(), body)), strict=True)
    return pairs


_ODD_VALUES = st.sampled_from([
    "", " ", "\u00e9", "\ud800", b"\xff\xfe", b"", None, 5, 1.0, ["x"], "v1,", "v1", "v1,AAAA", ",", "v2," + "A" * 44,
    "a" * 64, "g" * 64, "0", "-1", "1e9", "NaN", "9" * 12, "9" * 400, "".join(WIDE[int(digit)] for digit in str(NOW)),
    f"{NOW} ", f"+{NOW}", f"{NOW}.0", f"0{NOW}", "x" * 70_000, "v1,AAAA " * 2000, "phone_number.released",
    "\r\nX-Webhook-Event: phone_number.released",
])  # fmt: skip
_ODD_NAMES = st.sampled_from(
    [*_STANDARD, *_OLDER, "X-Webhook-Event", "webhook_id", "WEBHOOK-ID\u2028", b"\xff", b"webhook-id", "", 5]
)
_NOT_HEADERS = st.sampled_from([None, 5, "abc", b"abc", [1], [("a",)], [("a", "b", "c")], [None], object()])
_CASES: list[Callable[[Any], Any]] = [str.lower, str.upper, str.title, str.encode]


def _tampered_pair(draw: st.DrawFn, name: Any, value: Any) -> list[_Pair]:
    match draw(st.sampled_from(["drop", "repeat", "replace", "recase", "surround", "encode"])):
        case "drop":
            return []
        case "repeat":
            return [(name, value), (name, value)]
        case "replace":
            return [(name, draw(_ODD_VALUES))]
        case "recase":
            return [(draw(st.sampled_from(_CASES))(name) if isinstance(name, str) else name, value)]
        case "surround":
            return [(name, f"v1,{'A' * 44} {value} v2,x")]
    return [(name, value.encode() if isinstance(value, str) and value.isascii() else value)]


def _tampered(draw: st.DrawFn, pairs: list[_Pair]) -> list[_Pair]:
    """Headers after somebody had a hand in them."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(pairs)))
        if at == len(pairs):
            pairs = [*pairs, (draw(_ODD_NAMES), draw(_ODD_VALUES))]
        else:
            pairs = [*pairs[:at], *_tampered_pair(draw, *pairs[at]), *pairs[at + 1 :]]
    return pairs


def _as_given(draw: st.DrawFn, pairs: list[_Pair]) -> Any:
    """Headers in one of the forms that frameworks hand them over."""
    form = draw(st.integers(0, 3))
    if form == 0:
        return dict(pairs)
    return tuple(pairs) if form == 1 else pairs


_TIMES = st.sampled_from([0, 0, 0, 299, -299, 301, -301, 10**6, -(10**6), 10**10])
_FORGERS_SECRETS = st.sampled_from(["whsec_", "", "secret", "whsec_AAAA", "whsec_Zm9yZ2VyLCBhdCB5b3VyIHNlcnZpY2U="])
_GUARDS = st.sampled_from(["one", "several"] * 4 + ["blank", "none"])
_SCHEMES = st.sampled_from(["s", "o", "so", ""])


@st.composite
def _forgeries(draw: st.DrawFn) -> Delivery:
    body: Any = draw(bodies)
    pairs = _signed_headers(body, draw(_FORGERS_SECRETS), draw(_SCHEMES), NOW + draw(_TIMES))
    pairs = _tampered(draw, pairs) if draw(st.booleans()) else pairs
    headers = draw(_NOT_HEADERS) if draw(st.integers(0, 15)) == 0 else _as_given(draw, pairs)
    kind = draw(st.integers(0, 12))
    if kind == 0:
        body = body.decode("latin-1")
    elif kind == 1:
        body = draw(st.sampled_from([None, 5, [], {}, bytearray(b"{}"), memoryview(b"{}"), b"x" * 1_048_577, "\ud800"]))
    return Delivery(body, headers, draw(_GUARDS))


@st.composite
def _signed(draw: st.DrawFn) -> Delivery:
    body = draw(bodies)
    guard = draw(st.sampled_from(["one", "several"]))
    secret = draw(st.sampled_from(SECRETS[guard]))
    schemes = "o" if secret == PLAIN else draw(st.sampled_from(["s", "o", "so"]))
    pairs = _signed_headers(body, secret, schemes, NOW)
    if draw(st.integers(0, 3)):
        return Delivery(body, _as_given(draw, pairs), guard, whole=True)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(_SPLICES) + body[at + 1 :]
    return Delivery(body, _as_given(draw, _tampered(draw, pairs)), draw(_GUARDS))


forgeries: st.SearchStrategy[Delivery] = _forgeries()
"""Deliveries made without the secret."""
signed: st.SearchStrategy[Delivery] = _signed()
"""Deliveries with hostile content that were signed with the secret; a quarter of them is tampered with afterwards."""


# The oracle ----------------------------------------------------------------------------------------------------------


def _values(headers: Any) -> list[bytes]:
    """Every value in headers of any form that could be a part of a signature."""
    try:
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    except TypeError:
        return []
    found = [pair[1] for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2]
    return [value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
            for value in found if isinstance(value, bytes | str)]  # fmt: skip


def may_be_authentic(delivery: Delivery) -> bool:
    """Whether some key of the guard signed this very body with some of the values beside it, in either scheme.

    It errs towards yes: it asks neither which header a value stands in nor whether it stands there once.
    """
    body = delivery.body.encode("utf-8", "surrogatepass") if isinstance(delivery.body, str) else delivery.body
    keys = [key for secret in SECRETS[delivery.secrets] if secret.strip() for key in _keys(secret) if len(key) > 6]
    values = _values(delivery.headers)
    if not isinstance(body, bytes | bytearray) or not keys:
        return False
    shown = b"\n".join(values)
    for stamp in {value for value in values if value.isdigit() and abs(int(value[:20]) - NOW) <= 300}:
        for key in keys:
            if _older_signature(key, stamp, bytes(body)).encode() in shown.lower():
                return True
            if any(_standard_signature(key, name, stamp, bytes(body)).encode() in shown for name in set(values)):
                return True
    return False


def fingerprint(delivery: Delivery) -> str:
    """A delivery in few characters, to count different ones by."""
    return _name_of(repr(tuple(delivery)).encode("utf-8", "surrogatepass"))
