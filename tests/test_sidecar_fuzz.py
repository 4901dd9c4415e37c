"""Requests made up from the sidecar's own OpenAPI document: none breaks it, none changes how a line stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from sendguard import SendGuard
from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import Settings
from tests.servers import Server
from tests.serving import Served
from tests.support import SECRET

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
LINES = {"+12025550101": "ACTIVE", "+12025550102": "FLAGGED"}

schemathesis.openapi.format("phone-number", st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
schemathesis.openapi.format("handle", st.from_regex(r"\+1415[0-9]{7}|[a-z]{1,8}@[a-z]{1,8}\.com", fullmatch=True))


def configuration(store: str) -> Settings:
    return Settings(store=store, pool="fuzz", timeout=5.0, webhook_secret=[SECRET], poll_interval=0)


OPERATIONS = [
    found.ok()
    for found in schemathesis.openapi.from_dict(create_app(configuration("memory://")).openapi()).get_all_operations()
]


@pytest.fixture(scope="module")
def guard(valkey: Server) -> Iterator[SendGuard]:
    with SendGuard(valkey.url, pool="fuzz", timeout=5.0) as guard:
        for number, status in LINES.items():
            guard.observe(number, status=status, health="HEALTHY", observed_at=1)
        yield guard


@pytest.fixture(scope="module")
def url(valkey: Server, guard: SendGuard) -> Iterator[str]:
    assert guard
    with Served(create_app(configuration(valkey.url))) as server:
        yield server.url


def standing(guard: SendGuard) -> list[Any]:
    """All of the lines but what a decision on a good request does take."""
    return [
        (line.number, line.status, line.health, line.line_type, line.paused_until, line.cooling_down_until)
        for line in guard.lines()
    ]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_no_request_breaks_the_sidecar_or_changes_a_line(
    operation: Any, mode: GenerationMode, url: str, guard: SendGuard
) -> None:
    before = standing(guard)
    assert len(before) == len(LINES)

    @settings(max_examples=200)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "only an operation without parameters has no wrong ones"
    assert standing(guard) == before
