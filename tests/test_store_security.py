"""The claims of docs/security.md about the store: what a guard's user needs, and what a neighbour can do there."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from sendguard import Lease, Reason, SendGuard, SendGuardError, SendGuardTransport, StoreUnavailable
from sendguard.simulator import Simulator
from sendguard.store import scripts
from tests import traffic
from tests.servers import Server, free_port, redis_binary, valkey_binary
from tests.support import SECRET, payload, standard_headers, wait_until

PAGE = (Path(__file__).parent.parent / "docs" / "security.md").read_text("utf-8")
LINE, FLAGGED, PERSON = "+12025550101", "+12025550102", "+14155550123"
POOL, PASSWORD = "guarded", "guards-password"


def rule_of(page: str) -> list[str]:
    """The rule that the page tells, for the tests' pool."""
    found = re.search(r"```\nACL SETUSER (sendguard .*?)```", page, re.DOTALL)
    assert found
    text = found[1].replace("\\\n", " ")
    return text.replace("POOL", POOL).replace("PASSWORD", PASSWORD).split()


def extra_of(page: str, first: str) -> list[str]:
    """What the page says to add, by the first command of it."""
    found = re.search(rf"`(\+{re.escape(first)}[^`]*)`", page)
    assert found
    return found[1].split()


RULE = rule_of(PAGE)
COMMANDS = [word.removeprefix("+") for word in RULE if word.startswith("+")]
FOR_ALERTS = extra_of(PAGE, "xgroup")
REFUSED = {"command client|setinfo", "command client", "command function|load", "command function"}
"""What a guard does without: its client's name, and functions."""
FOR_A_CLUSTER = extra_of(PAGE, "cluster")


@pytest.fixture(scope="module", params=[valkey_binary, redis_binary], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(request.param(), tmp_path_factory.mktemp("acl"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def api() -> Iterator[Simulator]:
    with traffic.simulated() as api:
        yield api


@pytest.fixture
def user(server: Server) -> Iterator[Callable[..., str]]:
    """Makes the user of the page, with more rules after it; gives the URL to connect by."""

    def make(*more: str) -> str:
        server.client.flushall()
        server.client.script_flush()
        server.client.function_flush()
        server.client.execute_command("ACL", "SETUSER", *RULE, *more)
        return f"redis://sendguard:{PASSWORD}@127.0.0.1:{server.port}/0"

    yield make
    server.client.execute_command("ACL", "DELUSER", "sendguard")


def denials(server: Server) -> list[str]:
    """What the server refused since it was last asked: "command get", "key sendguard:..."."""
    found = [f"{entry['reason']} {entry['object']}" for entry in server.client.acl_log()]
    server.client.acl_log_reset()
    return found


def test_the_users_rule_is_enough_for_all_that_a_guard_does(
    server: Server, user: Callable[..., str], api: Simulator
) -> None:
    """S22: a user with the rule of the page runs every operation; what is refused to it does no harm."""
    denials(server)
    traffic.run(user(), POOL, api)
    assert {denial.lower() for denial in denials(server)} <= REFUSED
    assert server.client.keys(f"sendguard:{{{POOL}}}:*")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_users_rule_holds_no_command_too_many(
    server: Server, user: Callable[..., str], api: Simulator, command: str
) -> None:
    """S23: a user without any one of those commands cannot do all that a guard does."""
    url = user(f"-{command}")
    denials(server)
    try:
        traffic.run(url, POOL, api)
        failed = False
    except (SendGuardError, AssertionError, KeyError):
        failed = True
    refused = [denial for denial in denials(server) if denial.lower() == f"command {command}"]
    assert refused or failed, "the guard does without it"
    assert refused, "it failed of something else"


@pytest.mark.parametrize("missing", [None, *FOR_ALERTS])
def test_the_rule_of_a_process_that_alerts(
    server: Server, user: Callable[..., str], api: Simulator, missing: str | None
) -> None:
    """S33: an alerter needs those commands besides, all of them, and no more."""
    url = user(*(word for word in FOR_ALERTS if word != missing))
    denials(server)
    with contextlib.suppress(*() if missing is None else (SendGuardError, AssertionError)):
        traffic.run_alerts(url, POOL, api)
    refused = {denial.lower() for denial in denials(server)} - REFUSED
    assert refused == (set() if missing is None else {f"command {missing.removeprefix('+')}"})


@pytest.mark.parametrize("allowed", [True, False])
def test_the_rule_of_a_process_that_borrows(server: Server, user: Callable[..., str], allowed: bool) -> None:
    """S34: a lease needs XREAD besides, and no more; without it nothing is lent."""
    url = user(*["+xread"] * allowed)
    denials(server)
    with SendGuard(url, pool=POOL, timeout=5.0, refresh=None, lease=Lease(ttl=5.0)) as guard:
        guard.observe(LINE, status="ACTIVE")
        loans = guard._flows.lending.loans
        if allowed:
            wait_until(lambda: loans.hears)
        else:
            wait_until(lambda: any("xread" in denial.lower() for denial in denials(server)))
        before = server.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(7):
            assert guard.decide(PERSON).allowed
        asked = server.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert (asked < 7) is allowed
        assert bool(loans._loans) is allowed
    refused = {denial.lower() for denial in denials(server)} - REFUSED
    assert refused <= {"command xread"}


def test_the_user_reaches_no_other_pool_and_no_command_of_an_administrator(
    server: Server, user: Callable[..., str]
) -> None:
    """S24: the rule keeps a guard's user from another pool's keys, in scripts too, and from what would harm all."""
    url = user()
    with SendGuard(server.url, pool="another", timeout=5.0, refresh=None) as another:
        another.observe(LINE, status="FLAGGED")
    kept = server.client.dump("sendguard:{another}:lines")
    theirs = "sendguard:{another}:lines"
    with SendGuard(url, pool="another", timeout=5.0, refresh=None) as intruder:
        for call in (intruder.lines, intruder.transitions, lambda: intruder.observe(LINE, status="ACTIVE")):
            with pytest.raises(StoreUnavailable):
                call()
        assert intruder.decide(PERSON).reason is Reason.STORE_UNAVAILABLE
    forbidden: list[tuple[Any, ...]] = [
        ("HGETALL", theirs), ("HGET", theirs, LINE), ("DEL", theirs), ("SET", "x", "1"), ("GET", f"sendguard:{POOL}:x"),
        ("EVAL", "return redis.call('HGET', KEYS[1], ARGV[1])", 1, theirs, LINE),
        ("EVAL", f"return redis.call('DEL', '{theirs}')", 0),
        ("EVAL", "return redis.call('FLUSHALL')", 0),
        ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("MONITOR",), ("CONFIG", "GET", "*"), ("RANDOMKEY",),
        ("ACL", "LIST"), ("SCRIPT", "FLUSH"), ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("SAVE",), ("CLIENT", "LIST"),
        ("FUNCTION", "FLUSH"), ("FUNCTION", "LOAD", "REPLACE", scripts.LIBRARY.source),
        ("MIGRATE", "h", "1", theirs, 0, 1), ("RENAME", theirs, "x"), ("DUMP", theirs), ("SELECT", "1"),
        ("PUBLISH", "a", "b"),
    ]  # fmt: skip
    with redis.Redis.from_url(url) as client:
        for command in forbidden:
            with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't (run|access)"):
                client.execute_command(*command)
    assert server.client.dump("sendguard:{another}:lines") == kept


def test_a_user_without_scripts_works_where_an_administrator_loads_the_functions(
    server: Server, user: Callable[..., str], api: Simulator
) -> None:
    """S35: with the functions loaded, as the page says, the user needs neither `eval` nor `evalsha`."""
    url = user("-eval", "-evalsha")
    with SendGuard(url, pool=POOL, timeout=5.0, refresh=None) as guard:
        assert guard.decide(PERSON).reason is Reason.STORE_UNAVAILABLE
    server.client.function_load(scripts.LIBRARY.source)
    denials(server)
    traffic.run(url, POOL, api)
    assert {denial.lower() for denial in denials(server)} <= REFUSED - {"command function|load", "command function"}


def test_a_user_without_eval_works_while_somebody_else_loads_the_scripts(
    server: Server, user: Callable[..., str], api: Simulator
) -> None:
    """S25: where an administrator loads the scripts, the user needs no EVAL, and can run no script of its own."""
    url = user("-eval")
    with SendGuard(url, pool=POOL, timeout=5.0, refresh=None) as guard:
        assert guard.decide(PERSON).reason is Reason.STORE_UNAVAILABLE
        for script in vars(scripts).values():
            if isinstance(script, scripts.Script):
                assert server.client.script_load(script.source) == script.sha
        guard.observe(LINE, status="ACTIVE")
        assert guard.decide(PERSON).allowed
    traffic.run(url, POOL, api)
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ResponseError, match=r"(?i)perm"):
        client.eval("return 1", 0)


def test_the_rule_of_a_cluster(tmp_path: Path, api: Simulator) -> None:
    """S26: in a cluster the user needs to ask for the slots, and no more."""
    node = Server(valkey_binary(), tmp_path / "node", "--cluster-enabled", "yes")
    try:
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        wait_until(lambda: "cluster_state:ok" in node.client.execute_command("CLUSTER", "INFO"))
        node.client.execute_command("ACL", "SETUSER", *RULE)
        url = f"redis+cluster://sendguard:{PASSWORD}@127.0.0.1:{node.port}"
        with SendGuard(url, pool=POOL, timeout=5.0, refresh=None) as guard, pytest.raises(StoreUnavailable):
            guard.lines()
        node.client.execute_command("ACL", "SETUSER", "sendguard", *FOR_A_CLUSTER)
        traffic.run(url, POOL, api)
        assert node.client.execute_command("ACL", "DRYRUN", "sendguard", "ASKING") in ("OK", b"OK", True)
    finally:
        node.stop()


# A neighbour ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    with SendGuard(valkey.url, pool=pool, timeout=5.0, webhook_secret=SECRET, refresh=None) as guard:
        guard.observe(LINE, status="ACTIVE")
        guard.observe(FLAGGED, status="FLAGGED")
        yield guard


def test_who_may_write_the_pools_keys_is_its_master(valkey: Server, pool: str, guard: SendGuard) -> None:
    """S27: nothing in the store is signed: a neighbour who can write a pool's keys can clear a flag."""
    key = f"sendguard:{{{pool}}}:lines"
    assert guard.decide(PERSON, from_number=FLAGGED).reason is Reason.FLAGGED
    with redis.Redis.from_url(valkey.url) as client:
        record = client.hget(key, LINE)
        assert record is not None
        client.hset(key, FLAGGED, record)
    assert guard.decide(PERSON, from_number=FLAGGED).allowed


GARBAGE: list[Any] = [
    *("", "\x00" * 40, "|" * 20, "y11!!", "n11!a|b!1|1|1|1|", "-1", "9" * 40, "+1:99:", b"\xff\xfe{}", "x" * 100_000),
    *("n\1\1\1" + "\0" * 18 + "a|b", "N\1\1\1" + "\0" * 18 + ";!"),
]
CHAT = "chat-1"


def _api(request: httpx.Request) -> httpx.Response:
    """Knows no chat, and takes every message."""
    return httpx.Response(404 if request.method == "GET" else 202, json={}, request=request)


def _reads(guard: SendGuard, number: int) -> list[Callable[[], object]]:
    """Everything that reads the store. number: of this use, as an event is read once."""
    failed = {"event_type": "message.failed", "event_id": f"f{number}", "data": {"code": 4002, "chat_id": CHAT}}
    bodies = [
        json.dumps(event).encode() for event in (failed, payload("message.received") | {"event_id": f"r{number}"})
    ]
    client = httpx.Client(transport=SendGuardTransport(guard, httpx.MockTransport(_api)), base_url="http://api/v3")
    hello = {"message": {"parts": [{"type": "text", "value": "Hello"}], "idempotency_key": "k"}}
    flows = guard._flows
    return [
        guard.lines,
        guard.transitions,
        lambda: guard.decide(PERSON, idempotency_key="k"),
        lambda: guard.report(guard.decide(PERSON), "not_sent"),
        *(lambda body=body: guard.handle_webhook(body, standard_headers(body, time.time())) for body in bodies),
        lambda: guard._drive(flows.run(flows.protocol.sweep([LINE], time.time(), None))),
        lambda: guard._drive(flows.run(flows.protocol.lease("t", ttl=1, interval=1e-6, give_back=False, now=None))),
        lambda: client.post(f"/chats/{CHAT}/messages", json=hello),
    ]


@pytest.mark.parametrize("other_type", [False, True], ids=["same type", "another type"])
def test_garbage_in_the_store_fails_closed(valkey: Server, pool: str, other_type: bool) -> None:
    """S28: whatever a neighbour leaves in a key, a guard answers, denies or says that the store failed."""
    number = 0
    with SendGuard(valkey.url, pool=pool, timeout=5.0, webhook_secret=SECRET, refresh=60) as guard:
        kinds = _one_of_each(valkey.client, pool, guard)
        for key, kind in kinds.items():
            for garbage in GARBAGE:
                number += 1
                _spoil(valkey.client, key, ("string" if kind == "hash" else "hash") if other_type else kind, garbage)
                for read in _reads(guard, number):
                    guard._store.breaker.worked()
                    with contextlib.suppress(SendGuardError):
                        read()
                decision = guard.decide(PERSON, from_number=FLAGGED)
                assert not decision.allowed, (key, garbage, decision)
            valkey.client.delete(*valkey.client.keys(f"sendguard:{{{pool}}}:*"))
            _one_of_each(valkey.client, pool, guard)


def _one_of_each(client: Any, pool: str, guard: SendGuard) -> dict[str, str]:
    """One key of every sort that a pool holds, with its type."""
    guard._store.breaker.worked()
    guard.observe(LINE, status="ACTIVE")
    guard.observe(FLAGGED, status="FLAGGED", health="CRITICAL")
    guard.report(guard.decide(PERSON, idempotency_key="k"), "not_sent")
    guard.decide(PERSON, idempotency_key="k")
    protocol = guard._flows.protocol
    guard._drive(guard._flows.run(protocol.remember_chat(CHAT, protocol.chat_with(LINE, PERSON))))
    guard._drive(guard._flows.run(protocol.sweep([LINE, FLAGGED], time.time(), None)))
    guard._drive(guard._flows.run(protocol.lease("x", ttl=60, interval=1e-6, give_back=False, now=None)))
    sorts: dict[str, str] = {}
    for key in client.keys(f"sendguard:{{{pool}}}:*"):
        sorts.setdefault(key.split(":")[2], key)
    assert {"lines", "index", "r", "i", "c", "s", "transitions", "meta", "poll"} <= set(sorts)
    return {key: client.type(key) for key in sorts.values()}


def _spoil(client: Any, key: str, kind: str, garbage: Any) -> None:
    client.delete(key)
    if kind == "string":
        client.set(key, garbage)
    elif kind == "hash":
        client.hset(
            key, mapping={LINE: garbage, FLAGGED: garbage, "polled_at": garbage, "suspects": garbage, garbage: garbage}
        )
    elif kind == "zset":
        client.zadd(key, {garbage: 1, LINE: -1, FLAGGED: float("inf")})
    else:
        client.xadd(key, {"change": garbage, "source": garbage, "event": garbage})


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, pool: str) -> None:
    """S29: `rediss://` checks the server's certificate and its name unless the URL says otherwise."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    server = Server(
        redis_binary(), tmp_path / "tls", *options, "--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificate)
    )
    trusted = f"?ssl_ca_certs={certificate}"
    try:
        for url, answers in (
            (f"rediss://localhost:{port}/0{trusted}", True),
            (f"rediss://localhost:{port}/0", False),
            (f"rediss://127.0.0.1:{port}/0{trusted}", False),
        ):
            with SendGuard(url, pool=pool, timeout=5.0, refresh=None) as guard:
                if answers:
                    assert guard.lines() == ()
                else:
                    with pytest.raises(StoreUnavailable):
                        guard.lines()
    finally:
        server.stop()
