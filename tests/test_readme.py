"""README.md and docs/ hold: every snippet runs, every command and file exists, the policy table is the policy."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

import sendguard
from sendguard import Policy, SendGuard
from sendguard.simulator import Simulator
from tests.support import SECRET, payload, standard_headers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

FIRST, TRANSPORT, SENDING, GUARDED, WEBHOOKS, FASTAPI, FLASK, DJANGO, OWN_TESTS = range(9)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, pool: str) -> Any:
    """The names that the snippets leave, with the environment of somebody who has a Linq account."""
    with Simulator(["+12025550101", "+12025550102"]) as api:
        for name, value in {
            "SENDGUARD_STORE": f"memory://{pool}",
            "LINQ_API_KEY": api.api_key,
            "LINQ_API_V3_API_KEY": api.api_key,
            "LINQ_API_V3_BASE_URL": api.base_url,
            "LINQ_WEBHOOK_SECRET": SECRET,
        }.items():
            monkeypatch.setenv(name, value)
        found: dict[str, Any] = {"__name__": __name__}
        exec(SNIPPETS[FIRST], found)
        found["api"] = api
        yield found


def test_the_first_snippet_sends(names: Any) -> None:
    assert [(send.line, send.accepted) for send in names["api"].sends] == [("+12025550101", True)]


def test_the_snippets_of_the_three_ways_send(names: Any) -> None:
    for number in (TRANSPORT, SENDING, GUARDED):
        exec(SNIPPETS[number], names)
    sent = [send.recipients for send in names["api"].sends if send.accepted]
    assert sent == [("+14155550123",), ("+14155550123",), ("+14155550124",), ("+14155550125",)]
    assert sum(line.daily_volume for line in names["guard"].lines()) == 4


def test_the_webhook_snippet_flags_a_line(names: Any) -> None:
    exec(SNIPPETS[WEBHOOKS], names)
    server = ThreadingHTTPServer(("127.0.0.1", 0), names["LinqWebhooks"])
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    body = json.dumps(payload("status_updated.reputation")).encode()
    url = f"http://127.0.0.1:{server.server_port}/"
    assert httpx.post(url, content=body).status_code == 400
    assert httpx.post(url, content=body, headers=standard_headers(body, time.time())).status_code == 204
    server.shutdown()
    server.server_close()
    guard: SendGuard = names["guard"]
    assert [line.status.value for line in guard.lines()] == ["FLAGGED", "ACTIVE"]
    exec(SNIPPETS[FIRST].replace("guard.sync_lines()", "pass"), names)
    assert names["api"].sends[-1].line == "+12025550102"


def test_the_ready_endpoints_flag_a_line(names: Any) -> None:
    for number in (FASTAPI, FLASK, DJANGO):
        exec(SNIPPETS[number], names)
    body = json.dumps(payload("status_updated.reputation")).encode()
    signed = standard_headers(body, time.time())
    guard: SendGuard = names["guard"]

    async def deliver() -> list[int]:
        transport = httpx.ASGITransport(app=names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            answers = [await client.post("/webhooks/linq", content=body, headers=h) for h in ({}, signed)]
        return [answer.status_code for answer in answers]

    assert asyncio.run(deliver()) == [401, 200]
    assert guard.lines()[0].status.value == "FLAGGED"

    flask = names["flask_app"].test_client()
    assert flask.post("/webhooks/linq", data=body).status_code == 401
    assert flask.post("/webhooks/linq", data=body, headers=signed).status_code == 200

    import django.conf
    from django.test import RequestFactory

    if not django.conf.settings.configured:
        django.conf.settings.configure()
    post = functools.partial(RequestFactory().post, "/webhooks/linq", body, content_type="application/json")
    assert names["django_webhook"](post()).status_code == 401
    assert names["django_webhook"](post(headers=signed)).status_code == 200


def test_the_snippet_for_users_own_tests_runs() -> None:
    assert "assert" in SNIPPETS[OWN_TESTS]
    exec(SNIPPETS[OWN_TESTS], {})


def test_all_snippets_are_run() -> None:
    assert len(SNIPPETS) == OWN_TESTS + 1
    for page in (ROOT / "docs").glob("*.md"):
        assert "```python" not in page.read_text("utf-8"), page


def test_the_policy_table_is_the_policy() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    rows["new_conversations_on"] = re.findall(r"^\| `new_conversations_on` \| `([^`]*)` \|", README, re.MULTILINE)[0]
    policy = Policy()
    scope = {**vars(sendguard), **{health.name: health for health in sendguard.Health}}
    for name, text in rows.items():
        assert getattr(policy, name) == eval(text, scope), name
    assert set(rows) == set(Policy.__dataclass_fields__)


def test_every_command_and_file_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    pages = {page: page.read_text("utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    for page, text in pages.items():
        for target in re.findall(r"`make (\w+)`", text):
            assert f"\n{target}:" in makefile, target
        for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (page.parent / link).exists(), link
    extras = re.findall(r"sendguard\[(\w+)\]", "".join(pages.values()))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert extras
    assert all(f"\n{extra} = [" in project for extra in extras)
    assert all(f"`{name}" in README or name in README for name in ("SendGuard", "AsyncSendGuard", "Outcome"))
