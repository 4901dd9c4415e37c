"""The command `sendguard`: what it prints, what it changes, and how it ends, on a real store and the simulator."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from typer.main import get_command
from typer.testing import CliRunner, Result

from sendguard import AsyncSendGuard, Lease, LinqError, Outcome, Policy, SendGuard, TokenBucket
from sendguard.cli.app import app
from sendguard.cli.checks import of_clock
from sendguard.cli.session import Code
from sendguard.cli.show import span
from sendguard.linq.client import LinqClient
from sendguard.linq.subscriptions import EVENTS, checked_target
from sendguard.middleware.webhooks import WebhookApp
from sendguard.sidecar.models import LineBody
from sendguard.simulator import Simulator
from sendguard.store.scripts import LIBRARY
from tests.servers import Server, valkey_binary
from tests.serving import Served
from tests.support import SECRET, raw_client, standard_headers, wait_until
from tests.support import payload as payload_named

A, B, C = (f"+1202555010{i}" for i in range(1, 4))
PERSON = "+14155550123"
DEAD = "redis://127.0.0.1:1/0"
PAGE = (Path(__file__).parent.parent / "docs" / "cli.md").read_text("utf-8")

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def environment(valkey: Server, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SENDGUARD_", "LINQ_", "FORCE_COLOR", "PYTHONUNBUFFERED")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SENDGUARD_STORE", valkey.url)
    monkeypatch.setenv("SENDGUARD_POOL", pool)
    monkeypatch.setenv("SENDGUARD_TIMEOUT", "5")


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    with SendGuard(valkey.url, pool=pool, timeout=5) as made:
        yield made


@pytest.fixture
def linq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator([A, B], webhook_secret=SECRET) as simulator:
        monkeypatch.setenv("LINQ_API_KEY", simulator.api_key)
        monkeypatch.setenv("LINQ_API_V3_BASE_URL", simulator.base_url)
        yield simulator


def run(*arguments: str, code: Code = Code.DONE) -> Result:
    """Run the command in this process; what ends it is its own exit and nothing else."""
    result = CliRunner().invoke(app, arguments, prog_name="sendguard")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result


def refused(*arguments: str, code: Code = Code.USAGE) -> str:
    """Run what must fail with one line on standard error and nothing else; the line."""
    result = run(*arguments, code=code)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("sendguard: ")
    return result.stderr.removeprefix("sendguard: ").rstrip("\n")


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    # Tests that run in the background hand down that SIGINT is ignored.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{start}; from sendguard.cli import main; main()", *arguments]
    return subprocess.Popen(command, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


# Lines ---------------------------------------------------------------------------------------------------------------


def test_lines_are_listed_worst_first(guard: SendGuard) -> None:
    names = ["healthy", "at_risk", "critical", "cooling", "paused", "flagged"]
    numbers = {name: f"+1202555020{i}" for i, name in enumerate(names)}
    for number in numbers.values():
        guard.observe(number, status="ACTIVE", health="HEALTHY")
    guard.observe(numbers["at_risk"], health="AT_RISK")
    guard.observe(numbers["critical"], health="CRITICAL")
    guard.observe(numbers["flagged"], status="FLAGGED")
    guard.pause(numbers["paused"])
    guard.report(guard.decide(PERSON, from_number=numbers["cooling"]), Outcome(code=2027))
    rows = run("lines").stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == [numbers[name] for name in reversed(names)]
    text = "\n".join(rows)
    assert rows[0].split() == ["LINE", "STATUS", "HEALTH", "SENDS", "TODAY", "NEW", "HEARD", "USED"]
    assert all(row == row.rstrip() for row in rows)
    assert "\x1b" not in text
    assert "no: flagged" in rows[1]
    assert "no: paused" in rows[2]
    assert re.search(r"in \d+ \w+: cooling down", rows[3])
    assert re.search(r"now +0/7000 +0/50 +[\d.]+ s ago +-$", rows[6])
    told = json.loads(run("lines", "--json").stdout)["lines"]
    assert [line["number"] for line in told] == [numbers[name] for name in reversed(names)]
    assert sorted(told, key=str) == sorted(
        (LineBody.of(line).model_dump(mode="json") for line in guard.lines()), key=str
    )


def test_the_pool_and_the_store_are_named_on_the_command_line_or_in_a_file(
    guard: SendGuard, valkey: Server, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.observe(A, status="ACTIVE")
    monkeypatch.setenv("SENDGUARD_POOL", f"{pool}-other")
    assert A not in run("lines").stdout
    assert A in run("lines", "--pool", pool).stdout
    monkeypatch.delenv("SENDGUARD_POOL")
    monkeypatch.delenv("SENDGUARD_STORE")
    file = tmp_path / "sidecar.toml"
    # What only a sidecar must have is no matter here.
    file.write_text(f'store = "{valkey.url}"\npool = "{pool}"\nhost = "0.0.0.0"\n[policy]\ndaily_volume = "none"\n')
    table = run("lines", "--config", str(file)).stdout
    assert A in table
    assert "/7000" not in table
    assert "host" in refused("serve", "--check", "--config", str(file))


def test_a_store_that_nobody_shares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory:" in refused("lines", "--store", "memory://")
    monkeypatch.delenv("SENDGUARD_STORE")
    assert "SENDGUARD_STORE" in refused("choose", PERSON)


def test_pause_and_resume(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE")
    assert "no: paused" in run("pause", A).stdout
    assert guard.lines()[0].paused
    assert re.search(r"ACTIVE +HEALTHY +now", run("resume", A).stdout)
    assert not guard.lines()[0].paused
    end = time.time() + 3600
    for text in (str(int(end)), f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(end))}Z"):
        run("pause", A, "--until", text)
        assert guard.lines()[0].paused_until == int(end)
    run("pause", A, "--until", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end)))
    assert guard.lines()[0].paused_until == int(end)


def test_pause_refuses_what_it_cannot_do(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE")
    assert refused("pause", A, "--until", "soon").startswith("--until must be ISO 8601")
    assert refused("pause", A, "--until", "2020-01-01") == "--until must be in the future"
    assert refused("pause", "12") == "number must be an E.164 phone number such as +12025550101"
    assert refused("pause", B, code=Code.NO) == f"the pool has no line {B}"
    assert refused("resume", B, code=Code.NO) == f"the pool has no line {B}"
    assert not guard.lines()[0].paused


def test_watch_takes_looks_and_outlives_an_outage(guard: SendGuard) -> None:
    guard.observe(A, status="FLAGGED")
    looks = run("watch", "--count", "2", "--interval", "0.1").stdout
    assert looks.count(A) == 2
    assert looks.count("1 lines, 1 FLAGGED") == 2
    assert run("watch", "--store", DEAD, "--count", "2", "--interval", "0.1").stdout.count("the store failed") == 2


def test_watch_redraws_a_terminal_until_ctrl_c(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    ours, theirs = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    watching = process("watch", "--interval", "0.1", stdin=theirs, stdout=theirs, stderr=theirs, env=terminal)
    os.close(theirs)
    seen = bytearray()

    def shows(text: bytes) -> bool:
        seen.extend(os.read(ours, 65536))
        return text in seen

    wait_until(lambda: shows(b"HEALTHY"))
    assert b"\x1b[" in seen
    assert b"FLAGGED" not in seen
    guard.observe(A, status="FLAGGED")
    wait_until(lambda: shows(b"FLAGGED"))
    watching.send_signal(signal.SIGINT)
    draining = threading.Thread(target=_drain, args=(ours,))
    draining.start()
    assert watching.wait(20) == Code.DONE
    draining.join()
    os.close(ours)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:  # the other side is gone
        return


# Polls ---------------------------------------------------------------------------------------------------------------


def test_poll_tells_what_changed(linq: Simulator) -> None:
    first = run("poll").stdout
    assert f"{A}  assigned  - -> true" in first
    assert first.endswith("6 changes; 2 lines\n")
    linq.flip(B, health="CRITICAL")
    assert run("poll").stdout == f"{B}  health  HEALTHY -> CRITICAL\n1 changes; 2 lines\n"
    assert run("poll").stdout == "0 changes; 2 lines\n"
    linq.release(A)
    linq.release(B)
    held = run("poll")
    assert held.stdout == "0 changes; 2 lines\n"
    assert held.stderr == "sendguard: poll: 2 lines are gone from the list at once; waiting for a second poll\n"
    assert "0 lines" in run("poll").stdout


@pytest.mark.usefixtures("linq")
def test_a_poll_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_KEY", "hush-hush")
    assert refused("poll", code=Code.API) == "GET /v3/phone_numbers got HTTP 401, code 2004"
    assert refused("webhooks", "list", code=Code.API).endswith("HTTP 401, code 2004")
    monkeypatch.delenv("LINQ_API_KEY")
    assert refused("poll").startswith("api_key is missing")
    assert refused("webhooks", "list").startswith("api_key is missing")


# One send ------------------------------------------------------------------------------------------------------------


def test_choose_prints_the_line_and_takes_what_it_costs(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE", health="AT_RISK")
    assert run("choose", PERSON).stdout == f"{A}\n"
    assert guard.lines()[0].daily_volume == 1
    told = json.loads(run("choose", PERSON, "--json").stdout)
    assert (told["from_number"], told["reason"], told["health"]) == (A, "sticky", "AT_RISK")
    assert told["decision_id"] == guard.decisions()[-1].decision_id
    for _ in range(3):
        run("choose", PERSON)
    denied = refused("choose", PERSON, code=Code.NO)
    assert re.fullmatch(r"denied: throttled, retry after \d\.\d{3} s \(decision [0-9a-f]{24}\)", denied)
    told = json.loads(run("choose", PERSON, "--json", code=Code.NO).stdout)
    assert (told["allowed"], told["reason"], told["from_number"]) == (False, "throttled", None)


def test_choose_takes_every_argument_of_a_decision(guard: SendGuard) -> None:
    for number in (A, B, C):
        guard.observe(number, status="ACTIVE")
    assert run("choose", PERSON, "--exclude", A, "--exclude", B).stdout == f"{C}\n"
    assert run("choose", PERSON, "--from", B, "--kind", "voice_memo").stdout == f"{B}\n"
    assert run("choose", PERSON, "+14155550124", "--idempotency-key", "k").stdout in (f"{A}\n", f"{B}\n")
    records = guard.decisions()
    assert [record.kind for record in records] == ["chat", "voice_memo", "chat"]
    assert refused("choose", "+14155550125", "--line-type", "RCS", code=Code.NO).startswith("denied: no_lines (")
    run("choose", PERSON, "+14155550124", "--idempotency-key", "k")
    assert guard.decisions()[-1].remembered == "repeated"


def test_explain_tells_of_a_decision_that_a_process_made_by_itself(valkey: Server, pool: str) -> None:
    with SendGuard(valkey.url, pool=pool, timeout=5, lease=Lease(ttl=30)) as guard:
        guard.observe(A, status="ACTIVE")
        lending = guard._flows.lending
        assert lending is not None
        wait_until(lambda: lending.loans.hears)
        decisions = [guard.decide(PERSON) for _ in range(4)]
        wait_until(lambda: guard.decisions()[-1].decision_id == decisions[-1].decision_id)
        told = run("explain", decisions[-1].decision_id).stdout
    assert "decided by the process itself, from what it was lent" in told
    assert "sticky" in told


def test_choose_waits_for_a_slot(valkey: Server, pool: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[policy]\nat_risk = { tokens = 5, per = 1, burst = 1 }\n")
    policy = Policy(at_risk=TokenBucket(tokens=5, per=1, burst=1))
    with SendGuard(valkey.url, pool=pool, timeout=5, policy=policy) as guard:
        guard.observe(A, status="ACTIVE", health="AT_RISK")
        for _ in range(2):
            assert run("choose", PERSON, "--config", str(file), "--max-wait", "5").stdout == f"{A}\n"
        assert [record.remembered for record in guard.decisions()][-1] == "confirmed"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["choose"], "Missing argument 'TO...'."),
        (["choose", "hello"], "to must hold E.164 phone numbers or e-mail addresses"),
        (["choose", PERSON, "--from", "me"], "from_number must be an E.164"),
        (["choose", PERSON, "--exclude", "me"], "exclude must be an E.164"),
        (["choose", PERSON, "--kind", "letter"], "kind must be 'chat' or 'voice_memo'"),
        (["choose", PERSON, "--line-type", "SMS"], "line_type must be 'iMessage', 'RCS' or None"),
        (["choose", PERSON, "--max-wait", "-1"], "Invalid value for '--max-wait'"),
        (["choose", PERSON, "--dry-run", "--idempotency-key", "k"], "--idempotency-key cannot be used with --dry-run"),
        (["choose", PERSON, "--sotre", "x"], "No such option: --sotre"),
        (["lines", "--store", "redis://u:hush/hush@h/0"], "store: must be a URL"),
        (["lines", "--store", "ftp://h"], "store must be a URL with one of the schemes"),
        (["lines", "--pool", "a b"], "pool must be 1 to 64"),
        (["lines", "--config", "/nowhere/x.toml"], "/nowhere/x.toml: No such file"),
        (["lines", "more"], "Got unexpected extra argument"),
        (["events", "--after", "x"], "after must be the id of a transition"),
        (["explain", "x"], "decision_id must be"),
        (["watch", "--interval", "0"], "Invalid value for '--interval'"),
        (["webhooks"], "Missing command."),
        (["webhooks", "subscribe", "http://example.com/x", "--show-secret"], "url must be an https URL"),
        (["webhooks", "subscribe", "https://u:p@h/x", "--show-secret"], "url must have neither credentials"),
        (["webhooks", "subscribe", "https://h/x"], "Linq shows the signing secret only once"),
        (["demo", "--seconds", "1"], "Invalid value for '--seconds'"),
        (["nonsense"], "No such command 'nonsense'."),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_KEY", "key")
    line = refused(*arguments)
    assert line.startswith(text)
    assert "hush" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["lines"],
        ["choose", PERSON],
        ["choose", PERSON, "--dry-run"],
        ["explain", "0" * 24],
        ["events"],
        ["pause", A],
        ["resume", A],
        ["poll"],
    ],
)
@pytest.mark.usefixtures("linq")
def test_a_store_out_of_reach_has_its_exit_code(arguments: list[str]) -> None:
    assert "store" in refused(*arguments, "--store", DEAD, code=Code.STORE)


def test_linq_out_of_reach_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_KEY", "key")
    monkeypatch.setenv("LINQ_API_V3_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("sendguard.linq.client.backoff", lambda *_: 0.0)
    assert refused("poll", code=Code.API) == "GET /v3/phone_numbers failed: ConnectError"


def dumps(url: str) -> dict[bytes, bytes | None]:
    """Every key of the store, whosever it is."""
    with redis.Redis.from_url(url) as client:
        return {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]


def test_a_dry_run_tells_and_changes_no_byte(guard: SendGuard, valkey: Server, tmp_path: Path) -> None:
    guard.observe(A, status="FLAGGED")
    guard.observe(B, status="ACTIVE", health="AT_RISK")
    for _ in range(5):
        guard.decide(PERSON)
    file = tmp_path / "policy.toml"
    file.write_text(f'[policy.overrides."{B}"]\nat_risk = "none"\n')
    before = dumps(valkey.url)
    denied = run("choose", PERSON, "--dry-run", code=Code.NO).stdout.splitlines()
    assert re.fullmatch(r"dry run: it would be denied: throttled on \S+ \(ACTIVE, AT_RISK\), retry after .*", denied[0])
    assert denied[2].split()[:2] == [B, "throttled"]
    told = json.loads(run("choose", "+14155550124", "--dry-run", "--json", code=Code.NO).stdout)
    assert [line["number"] for line in told["considered"]] == [B]
    assert (told["allowed"], told["reason"], told["from_number"]) == (False, "throttled", B)
    slot = run("choose", "+14155550124", "--dry-run", "--max-wait", "60").stdout
    assert re.search(rf"allowed on {re.escape(B)}.*: new_conversation, in a slot \d", slot)
    # A policy whose overrides the store does not hold is asked about as well.
    assert "allowed on" in run("choose", PERSON, "--dry-run", "--config", str(file)).stdout
    assert dumps(valkey.url) == before
    refused("choose", PERSON, code=Code.NO)
    assert dumps(valkey.url) != before


def test_a_dry_run_says_what_observe_mode_lets_pass(guard: SendGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    guard.observe(A, status="FLAGGED")
    monkeypatch.setenv("SENDGUARD_POLICY__MODE", "observe")
    assert "block nothing" in run("choose", PERSON, "--dry-run", code=Code.NO).stdout


# Why -----------------------------------------------------------------------------------------------------------------


def test_explain_tells_the_record_and_apart_from_it_what_holds_now(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    guard.decide(PERSON)
    guard.observe(A, status="FLAGGED")
    for number in (B, C):
        guard.observe(number, status="ACTIVE", health="HEALTHY")
    decision = guard.decide(PERSON, idempotency_key="k")
    guard.decide(PERSON, idempotency_key="k")
    guard.observe(C, health="CRITICAL")
    text = run("explain", decision.decision_id).stdout
    record, again, now = text.split("\n\n")
    assert record.startswith("The record of 20")
    assert (
        f"allowed on {B} (ACTIVE, HEALTHY): failover, moved from {A}; decision {decision.decision_id}, chat" in record
    )
    assert re.search(rf"{re.escape(A)} +flagged +-\n{re.escape(B)} +taken +at once", record)
    assert "the same answer was given again" in again
    assert now.startswith("Not in the record, as they stand now: the 1 lines that were not looked at")
    assert re.search(rf"{re.escape(C)} +ACTIVE +CRITICAL", now)
    assert A not in now
    told = json.loads(run("explain", decision.decision_id, "--json").stdout)
    assert [record["remembered"] for record in told["record"]] == [None, "repeated"]
    assert told["record"][0]["considered"][0] == {"number": A, "reason": "flagged", "free_at": None}
    assert [line["number"] for line in told["now"]["lines"]] == [A, B, C]
    assert told["now"]["at"] > told["record"][0]["decided_at"]


def test_explain_of_what_is_not_recorded() -> None:
    assert refused("explain", "0" * 24, code=Code.NO) == f"the record has no decision {'0' * 24}"


def test_explain_names_the_worst_of_many_lines(guard: SendGuard) -> None:
    for i in range(30):
        guard.observe(f"+1202555{i:04d}", status="ACTIVE")
    guard.observe("+12025550029", status="FLAGGED")
    text = run("explain", guard.decide(PERSON).decision_id).stdout
    assert "... and 9 more" in text
    assert text.partition("as they stand now")[2].splitlines()[2].startswith("+12025550029")


def test_events_are_printed_in_order(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE", health="HEALTHY")
    guard.observe(A, status="FLAGGED", source="webhook")
    guard.pause(A)
    guard.pause(A, until=time.time() + 100)
    rows = run("events").stdout.splitlines()
    assert len(rows) == len(guard.transitions())
    assert f"{A}  status  ACTIVE -> FLAGGED  (webhook)" in rows[2]
    assert f"{A}  paused_until  - -> until resumed  (operator)" in rows[3]
    assert re.search(r"paused_until  until resumed -> 20\d\d-", rows[4])
    assert run("events", "--last", "1").stdout.splitlines() == rows[-1:]
    assert run("events", "--last", "0").stdout == ""
    told = [json.loads(row) for row in run("events", "--json").stdout.splitlines()]
    assert [each["transition_id"] for each in told] == [each.transition_id for each in guard.transitions()]
    assert (told[2]["line"], told[2]["old"], told[2]["new"], told[2]["source"]) == (A, "ACTIVE", "FLAGGED", "webhook")
    assert run("events", "--after", told[3]["transition_id"]).stdout.splitlines() == rows[4:]


def test_events_are_followed_until_ctrl_c(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE")
    with process("events", "--follow", "--last", "1", "--interval", "0.05", "--json") as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["line"] == A
        for status in ("FLAGGED", "ACTIVE"):
            guard.observe(A, status=status)
            assert json.loads(following.stdout.readline())["new"] == status
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=20)
        assert (out, err, following.returncode) == ("", "", Code.DONE)


def test_events_are_followed_through_an_outage(own_server: Server, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGUARD_TIMEOUT", "0.5")
    where = ("--store", own_server.url, "--interval", "0.05")
    with SendGuard(own_server.url, pool=pool, timeout=5) as guard, process("events", "--follow", *where) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        guard.observe(A, status="ACTIVE")
        assert "-> ACTIVE" in following.stdout.readline()
        own_server.process.send_signal(signal.SIGSTOP)
        assert following.stderr.readline() == "sendguard: the store failed: TimeoutError; still asking\n"
        own_server.process.send_signal(signal.SIGCONT)
        guard.observe(A, status="FLAGGED")
        assert "ACTIVE -> FLAGGED" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=20) == ("", "")
        assert following.returncode == Code.DONE


def test_a_reader_that_has_seen_enough_is_no_error(guard: SendGuard) -> None:
    guard.observe(A, status="ACTIVE")
    for command in (["events"], ["lines"], ["lines", "--json"]):
        ours, theirs = os.pipe()
        os.close(ours)
        with process(*command, stdout=theirs) as printing:
            os.close(theirs)
            assert printing.communicate(timeout=20)[1] == ""


# Webhook subscriptions -----------------------------------------------------------------------------------------------

HOOK = "https://guard.example/webhooks/linq"


def test_subscribe_asks_for_the_right_events_and_keeps_the_secret(linq: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    result = run("webhooks", "subscribe", HOOK, "--secret-file", str(file))
    (made,) = linq._account.subscriptions.values()
    assert made.url == f"{HOOK}?version=2026-02-03"
    assert made.events == frozenset(EVENTS)
    assert file.read_text() == f"{made.secret}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert made.secret not in result.output
    assert made.id in result.stdout
    listing = run("webhooks", "list").stdout
    assert re.search(rf"{made.id} +yes +2026-02-03 +none +all +{re.escape(made.url)}", listing)
    told = run("webhooks", "list", "--json").stdout
    assert made.secret not in told
    assert json.loads(told)["subscriptions"][0]["missing_events"] == []


def test_the_secret_is_printed_only_when_asked_for(linq: Simulator) -> None:
    result = run("webhooks", "subscribe", HOOK, "--show-secret")
    (made,) = linq._account.subscriptions.values()
    assert result.stdout.splitlines()[-1] == made.secret


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://h", "https://h/?version=2026-02-03"),
        ("https://h/x?a=b", "https://h/x?a=b&version=2026-02-03"),
        ("https://h/x?version=2025-01-01", "https://h/x?version=2025-01-01"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x?version=2026-02-03"),
        ("http://localhost/x", "http://localhost/x?version=2026-02-03"),
    ],
)
def test_the_version_of_the_payloads_is_asked_for(url: str, asked: str) -> None:
    assert checked_target(url) == asked


@pytest.mark.parametrize(
    "url", ["", "h", "ftp://h", "http://h", "https://", "https://[x", "https://h/#f", "https://h:x"]
)
def test_a_target_that_linq_cannot_reach_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url must"):
        checked_target(url)


def test_nothing_is_subscribed_where_the_secret_cannot_be_kept(
    linq: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("old")
    assert "is there already" in refused("webhooks", "subscribe", HOOK, "--secret-file", str(taken))
    assert taken.read_text() == "old"
    assert "No such file" in refused("webhooks", "subscribe", HOOK, "--secret-file", str(tmp_path / "no" / "x"))
    assert not linq._account.subscriptions

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused_line = refused("webhooks", "subscribe", HOOK, "--secret-file", str(tmp_path / "x"))
    assert refused_line == "--secret-file cannot be written: No space left on device"
    assert not linq._account.subscriptions
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_url_is_subscribed_once_and_unsubscribed_by_id_or_url(linq: Simulator) -> None:
    run("webhooks", "subscribe", HOOK, "--show-secret")
    (made,) = linq._account.subscriptions
    again = refused("webhooks", "subscribe", f"{HOOK}?version=2025-01-01", "--show-secret", code=Code.NO)
    assert again == f"{made} has this URL already; unsubscribe it first for a new secret"
    assert refused("webhooks", "unsubscribe", "nothing", code=Code.NO) == "no subscriptions are nothing"
    assert made in run("webhooks", "unsubscribe", HOOK).stdout
    assert not linq._account.subscriptions
    run("webhooks", "subscribe", HOOK, "--show-secret")
    (made,) = linq._account.subscriptions
    run("webhooks", "unsubscribe", made)
    assert not linq._account.subscriptions


def test_what_was_subscribed_flags_a_line(guard: SendGuard, linq: Simulator, valkey: Server, tmp_path: Path) -> None:
    """From the command to a webhook that is signed with the secret in the file, and an endpoint that reads it there."""
    file = tmp_path / "secret"
    run("poll")
    endpoint = WebhookApp(_Late(valkey.url, guard.pool, file))  # type: ignore[arg-type]
    with Served(endpoint) as served:
        run("webhooks", "subscribe", f"{served.url}/webhooks/linq", "--secret-file", str(file))
        linq.flip(B, status="FLAGGED")
        assert linq.drain()
    assert [delivery.status for delivery in linq.deliveries] == [200]
    assert "FLAGGED" in run("lines").stdout.splitlines()[1]
    assert "(webhook " in run("events", "--last", "1").stdout


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (500, "{}", "POST /v3/webhook-subscriptions got HTTP 500"),
        (201, "[]", "POST /v3/webhook-subscriptions got an answer that cannot be read"),
        (
            201,
            '{"id": "7", "target_url": "https://h"}',
            "POST /v3/webhook-subscriptions made 7 and told no signing secret",
        ),
    ],
)
def test_a_subscription_is_asked_for_once_whatever_comes_back(status: int, body: str, text: str) -> None:
    """A repetition of a call that was carried out would find the URL taken, and never learn the secret."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, text=body)

    slept: list[float] = []
    with (
        LinqClient("key", transport=httpx.MockTransport(answer), sleep=slept.append) as client,
        pytest.raises(LinqError, match=f"^{re.escape(text)}$"),
    ):
        client.subscribe_webhooks(HOOK, EVENTS)
    assert (len(asked), slept) == (1, [])
    assert json.loads(asked[0].content) == {"target_url": HOOK, "subscribed_events": list(EVENTS)}


@pytest.mark.parametrize("body", ["[]", "{}", '{"subscriptions": [7]}', '{"subscriptions": [{"id": "x"}]}'])
def test_an_unreadable_list_of_subscriptions_is_an_error(body: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    with LinqClient("key", transport=transport) as client, pytest.raises(LinqError, match="cannot be read"):
        client.webhook_subscriptions()


class _Late:
    """A guard that is made when the first webhook comes, with the secret that stands in the file by then."""

    def __init__(self, store: str, pool: str, file: Path) -> None:
        self._make = lambda: AsyncSendGuard(store, pool=pool, timeout=5, webhook_secret=file.read_text().strip())

    async def handle_webhook(self, body: bytes, headers: Any) -> Any:
        guard = self._make()
        try:
            return await guard.handle_webhook(body, headers)
        finally:
            await guard.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)


# The doctor ----------------------------------------------------------------------------------------------------------


def findings(*arguments: str, code: Code = Code.DONE) -> dict[str, dict[str, str]]:
    told = json.loads(run("doctor", "--json", *arguments, code=code).stdout)["findings"]
    assert all(bool(each["remedy"]) == (each["level"] != "ok") for each in told)
    return {each["check"]: each for each in told}


def levels(*arguments: str, code: Code = Code.DONE) -> dict[str, str]:
    return {check: each["level"] for check, each in findings(*arguments, code=code).items()}


@pytest.fixture
def healthy(guard: SendGuard, linq: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account, a pool and a configuration with nothing wrong."""
    assert linq.lines()
    monkeypatch.setenv("LINQ_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("SENDGUARD_HASH_KEY", "hush-hush")
    run("poll")
    run("webhooks", "subscribe", HOOK, "--show-secret")
    hear(guard)


def hear(guard: SendGuard) -> None:
    body = json.dumps({**payload_named("message.sent"), "event_id": os.urandom(8).hex()}).encode()
    with SendGuard(raw_client(guard), pool=guard.pool, webhook_secret=SECRET) as taking:
        taking.handle_webhook(body, standard_headers(body, time.time()))


@pytest.mark.usefixtures("healthy")
def test_the_doctor_finds_nothing_where_nothing_is_wrong() -> None:
    found = levels()
    assert found.pop("persistence") == "warn"  # the tests' own server keeps nothing
    assert set(found.values()) == {"ok"}
    assert set(found) == {
        *("webhook secret", "hash key", "store", "eviction", "store's clock", "Linq key", "Linq's clock"),
        *("lines", "subscription", "webhooks", "polls"),
    }
    text = run("doctor").stdout
    assert text.splitlines()[0].split() == ["CHECK", "FOUND"]
    assert "hush" not in text
    assert SECRET not in text


@pytest.mark.usefixtures("linq")
def test_the_doctor_finds_what_is_missing_in_a_new_pool() -> None:
    found = findings(code=Code.NO)
    failed = [check for check, each in found.items() if each["level"] == "fail"]
    assert failed == ["lines", "subscription", "webhooks", "polls"]
    assert [check for check, each in found.items() if each["level"] == "warn"][:2] == ["webhook secret", "hash key"]
    assert found["lines"]["text"].startswith("the pool lacks 2 of the account's lines")
    text = run("doctor", code=Code.NO).stdout
    assert all(each["remedy"] in text for each in found.values())


@pytest.mark.usefixtures("healthy")
def test_the_doctor_names_a_bad_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_KEY", "hush-hush")
    found = findings(code=Code.NO)
    assert found["Linq key"]["text"] == "GET /v3/phone_numbers got HTTP 401, code 2004"
    assert "LINQ_API_KEY" in found["Linq key"]["remedy"]
    monkeypatch.delenv("LINQ_API_KEY")
    assert levels(code=Code.NO)["Linq key"] == "fail"


@pytest.mark.usefixtures("healthy")
def test_the_doctor_goes_on_without_a_store() -> None:
    found = levels("--store", DEAD, code=Code.NO)
    assert (found["store"], found["Linq key"], found["subscription"]) == ("fail", "ok", "ok")
    assert levels("--store", "memory://", code=Code.NO)["store"] == "fail"


@pytest.mark.usefixtures("healthy")
def test_the_doctor_reads_the_subscription(linq: Simulator) -> None:
    (made,) = linq._account.subscriptions.values()
    made.events = frozenset(EVENTS) - {"message.failed"}
    assert levels()["subscription"] == "warn"
    made.events = frozenset(EVENTS) - {"phone_number.status_updated"}
    assert levels(code=Code.NO)["subscription"] == "fail"
    made.events, made.phone_numbers = frozenset(EVENTS), (A,)
    assert levels()["subscription"] == "warn"
    made.phone_numbers, made.url = (A, B), f"{HOOK}?version=2040-01-01"
    assert levels()["subscription"] == "warn"
    made.url, made.is_active = HOOK, False
    assert levels(code=Code.NO)["subscription"] == "fail"


@pytest.mark.usefixtures("healthy")
def test_the_doctor_knows_stale_news(guard: SendGuard) -> None:
    meta = f"sendguard:{{{guard.pool}}}:meta"
    client = raw_client(guard)
    now = time.time()
    client.hset(meta, "heard_at", int((now - 90_000) * 1e6))
    client.hset(meta, "polled_at", int((now - 170) * 1e6))
    found = findings()
    assert (found["webhooks"]["level"], found["polls"]["level"]) == ("warn", "ok")
    client.hset(meta, "polled_at", int((now - 190) * 1e6))
    found = findings(code=Code.NO)
    assert (found["polls"]["level"], found["polls"]["text"]) == ("fail", "the last one was 3 min ago")
    hear(guard)
    assert levels(code=Code.NO)["webhooks"] == "ok"


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(valkey_binary(), tmp_path_factory.mktemp("own"))
    yield server
    server.stop()


@pytest.mark.usefixtures("linq")
def test_the_doctor_knows_a_store_that_forgets(own_server: Server, valkey: Server) -> None:
    with redis.Redis.from_url(own_server.url) as client:

        def found(check: str) -> str:
            return levels("--store", own_server.url, code=Code.NO).get(check, "none")

        assert (found("eviction"), found("persistence"), found("store's role")) == ("ok", "warn", "none")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert found("eviction") == "warn"
        client.config_set("maxmemory", "100mb")
        assert found("eviction") == "fail"
        client.config_set("maxmemory-policy", "volatile-lru")
        assert found("eviction") == "warn"
        client.config_set("appendonly", "yes")
        wait_until(lambda: client.info("persistence")["aof_enabled"])
        assert found("persistence") == "ok"
        client.config_set("appendonly", "no")
        client.config_set("save", "60 1")
        assert findings("--store", own_server.url, code=Code.NO)["persistence"]["text"].endswith("snapshots: 60 1")
        client.replicaof("127.0.0.1", str(valkey.port))
        assert found("store's role") == "fail"


@pytest.mark.usefixtures("healthy")
def test_the_doctor_compares_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 30.0

    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() - ahead

    monkeypatch.setattr("sendguard.cli.checks.store.time", Clock)
    monkeypatch.setattr("sendguard.cli.checks.linq.time", Clock)
    found = findings()
    for check in ("store's clock", "Linq's clock"):
        assert found[check]["level"] == "warn"
        assert re.search(r"clock is (29|30)\.\d s ahead of ours", found[check]["text"]), found[check]
    ahead = -400.0
    found = findings(code=Code.NO)
    assert [found[check]["level"] for check in ("store's clock", "Linq's clock")] == ["fail", "fail"]
    assert "behind ours" in found["Linq's clock"]["text"]
    assert [of_clock("c", "its", skew).level for skew in (1.9, -1.9, 2.0, -59.9, 60.0)] == [
        *("ok", "ok", "warn", "warn", "fail")
    ]


def test_a_linq_without_a_date_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dateless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            body = b'{"phone_numbers": [], "subscriptions": []}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dateless)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("LINQ_API_KEY", "key")
    monkeypatch.setenv("LINQ_API_V3_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    found = levels(code=Code.NO)
    server.shutdown()
    server.server_close()
    assert found["Linq key"] == "ok"
    assert "Linq's clock" not in found


# The command itself --------------------------------------------------------------------------------------------------


def test_the_process_ends_as_told_and_is_plain(guard: SendGuard) -> None:
    guard.observe(A, status="FLAGGED")
    for arguments, code in (
        (["lines"], Code.DONE),
        (["choose", PERSON], Code.NO),
        (["choose"], Code.USAGE),
        ([], Code.USAGE),
        (["lines", "--store", DEAD], Code.STORE),
        (["--version"], Code.DONE),
        (["lines", "--help"], Code.DONE),
    ):
        with process(*arguments) as ended:
            out, err = ended.communicate(timeout=30)
        assert ended.returncode == code, (arguments, err)
        assert len(err.splitlines()) == (code > 0 and arguments != [])
        assert "\x1b" not in out + err


def test_what_the_library_logs_stays_out_of_the_terminal() -> None:
    assert run("watch", "--store", DEAD, "--count", "1").stderr == ""
    silence = [each for each in logging.getLogger("sendguard").handlers if isinstance(each, logging.NullHandler)]
    assert len(silence) == 1  # however often the command runs


def test_the_functions_are_printed_as_a_server_loads_them(valkey: Any) -> None:
    told = run("functions").stdout
    with redis.Redis.from_url(valkey.url) as client:
        client.function_load(told, replace=True)
        assert client.function_list(LIBRARY.name)


def test_demo_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sendguard.demo.__main__.main", lambda arguments: asked.append(arguments) or 1)
    run("demo", "--seconds", "3", "--seed", "7", code=Code.NO)
    assert asked == [["--seconds", "3.0", "--seed", "7"]]


def test_spans_are_short() -> None:
    assert [span(s) for s in (-1, 0.25, 1, 59, 60, 3599, 3600, 86_400 * 3)] == [
        *("0.0 s", "0.2 s", "1 s", "59 s", "1 min", "60 min", "1 h", "3 d")
    ]


def test_the_page_names_every_command_option_and_exit_code() -> None:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, each in command.commands.items():
            if hasattr(each, "commands"):
                yield from walk(each, (*path, name))
            else:
                yield " ".join((*path, name)), each

    for name, command in walk(get_command(app), ("sendguard",)):
        assert name in PAGE, name
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option == "--help" or f"`{option}" in PAGE, (name, option)
    for code in Code:
        assert re.search(rf"^\| {int(code)} \|", PAGE, re.MULTILINE), code
