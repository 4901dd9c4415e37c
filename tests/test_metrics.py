"""What a guard counts and exports, the dashboard that reads it, and the page that tells of it."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import promql_parser as promql
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sendguard import AsyncSendGuard, Policy, SendGuard, StoreUnavailable, TokenBucket
from sendguard.metrics import SECONDS, WEBHOOK_RESULTS, Metrics
from sendguard.middleware.webhooks import webhook_response
from sendguard.models import Reason
from sendguard.request import Request
from sendguard.sidecar.app import create_app
from sendguard.sidecar.models import LineBody
from sendguard.sidecar.settings import Settings
from sendguard.simulator import Simulator
from tests.servers import Server, valkey_binary
from tests.serving import Served
from tests.support import OTHER_SECRET, SECRET, ManualClock, payload, standard_headers, wait_until

DOCS = Path(__file__).parent.parent / "docs"
LINE, OTHER, PERSON = "+12025550101", "+12025550102", "+14155550123"
DEAD = "redis://127.0.0.1:1/0"
SLOW = Policy(at_risk=TokenBucket(1, per=1000))
PREFIX = "sendguard_"

Found = dict[tuple[str, ...], float]


def read(text: str) -> Found:
    """Every sample by its name and the values of its labels but for the pool, in the order of the labels' names."""
    return {
        (sample.name.removeprefix(PREFIX), *(v for k, v in sorted(sample.labels.items()) if k != "pool")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def exported(metrics: Metrics) -> Found:
    return read(generate_latest(metrics.registry).decode())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


# Tokens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "per", "burst"), [(10, 60, 5), (1, 60, 1), (3, 7, 3), (7, 1, 20)])
def test_so_many_tokens_so_many_sends(
    new_guard: Callable[..., SendGuard], clock: ManualClock, tokens: int, per: float, burst: int
) -> None:
    guard = new_guard(policy=Policy(at_risk=TokenBucket(tokens, per=per, burst=burst)))
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    people = (f"+1415555{i:04}" for i in range(1000))
    assert guard.lines()[0].tokens == burst
    for wait in (0.0, per / tokens, 2.5 * per / tokens, 0.4 * per / tokens, 100 * per):
        clock.advance(wait)
        left = guard.lines()[0].tokens
        assert left is not None
        for still in range(left, 0, -1):
            assert guard.lines()[0].tokens == still
            assert guard.decide(next(people)).allowed
        assert guard.lines()[0].tokens == 0
        assert guard.decide(next(people)).reason is Reason.THROTTLED


def test_a_line_without_a_pace_has_no_tokens_and_a_closed_one_none(
    new_guard: Callable[..., SendGuard], clock: ManualClock
) -> None:
    guard = new_guard(policy=Policy(critical=TokenBucket(0, per=60), overrides={OTHER: {"healthy": TokenBucket(9, 1)}}))
    guard.observe(LINE, status="ACTIVE")
    assert guard.lines()[0].tokens is None
    assert LineBody.of(guard.lines()[0]).tokens is None
    guard.observe(LINE, health="CRITICAL", observed_at=clock())
    assert guard.lines()[0].tokens == 0
    assert guard.observe(OTHER, status="ACTIVE").tokens == 9
    assert LineBody.of(guard.lines()[1]).tokens == 9


def test_slots_that_waiters_hold_are_taken(new_guard: Callable[..., SendGuard]) -> None:
    guard = new_guard(policy=SLOW)
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    for person in range(3):
        request = Request.of(f"+1415555000{person}", "chat", None, (), None, None)
        guard._store.run(next(guard._flows.choose(request, 5000)))  # the slot is taken; nobody waits for it here
    assert guard.lines()[0].tokens == 0


# Counting ------------------------------------------------------------------------------------------------------------


def test_decisions_are_counted_by_reason_and_timed(new_guard: Callable[..., SendGuard], metrics: Metrics) -> None:
    guard = new_guard(metrics=metrics, policy=SLOW)
    guard.decide(PERSON)
    guard.observe(LINE, status="ACTIVE")
    guard.decide(PERSON)
    with guard.sending(PERSON):
        pass
    guard.guarded(lambda to, from_number="": (to, from_number))(PERSON)
    found = exported(metrics)
    assert found["decisions_total", "false", "no_lines"] == 1
    assert found["decisions_total", "true", "new_conversation"] == 1
    assert found["decisions_total", "true", "sticky"] == 2
    assert found["decisions_total", "false", "throttled"] == 0
    assert found["decision_seconds_count", "false"] == 4
    assert found["decision_seconds_count", "true"] == 0
    assert 0 < found["decision_seconds_sum", "false"] < 20


def test_who_waits_for_a_slot_is_one_decision(valkey: Server, pool: str, metrics: Metrics) -> None:
    policy = Policy(at_risk=TokenBucket(1, per=0.2))
    with SendGuard(valkey.url, pool=pool, timeout=5.0, policy=policy, metrics=metrics) as guard:
        guard.observe(LINE, status="ACTIVE", health="AT_RISK")
        for _ in range(2):
            guard.choose_from_number(PERSON, max_wait=5)
    found = exported(metrics)
    assert sum(value for key, value in found.items() if key[0] == "decisions_total") == 2
    assert found["decision_seconds_count", "true"] == 2
    assert found["decision_seconds_sum", "true"] > 0.15


def test_a_guard_that_observes_counts_what_it_lets_pass(new_guard: Callable[..., SendGuard], metrics: Metrics) -> None:
    guard = new_guard(metrics=metrics, policy=Policy(at_risk=TokenBucket(1, per=1000), mode="observe"))
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    for _ in range(3):
        assert guard.decide(PERSON).allowed
    assert exported(metrics)["decisions_total", "true", "throttled"] == 2


def test_async_guards_count_the_same_and_share(valkey: Server, pool: str, metrics: Metrics) -> None:
    async def live() -> None:
        async with AsyncSendGuard(valkey.url, pool=pool, timeout=5.0, metrics=metrics, webhook_secret=SECRET) as guard:
            await guard.observe(LINE, status="ACTIVE", observed_at=1)
            await asyncio.gather(*(guard.decide(f"+1415555000{i}") for i in range(5)))
            body = json.dumps(payload("status_updated.reputation")).encode()
            await guard.handle_webhook(body, standard_headers(body, time.time()))
            await guard.measure()

    asyncio.run(live())
    with SendGuard(valkey.url, pool=pool, timeout=5.0, metrics=metrics) as guard:
        assert guard.decide(PERSON).reason is Reason.FLAGGED
    found = exported(metrics)
    assert found["decisions_total", "true", "new_conversation"] == 5
    assert found["decisions_total", "false", "flagged"] == 1
    assert found["webhooks_total", "applied"] == 1
    assert found["lines", "CRITICAL", "FLAGGED"] == 1
    assert found["store_up",] == 1


def test_webhooks_are_counted_by_what_became_of_them(new_guard: Any, metrics: Metrics) -> None:
    def deliver(guard: SendGuard, body: bytes, secret: str = SECRET) -> int:
        return webhook_response(guard, body, standard_headers(body, time.time(), secret)).status

    body = json.dumps(payload("status_updated.reputation")).encode()
    guard = new_guard(webhook_secret=SECRET, metrics=metrics, clock=None)
    assert [deliver(guard, body), deliver(guard, body)] == [200, 200]
    assert deliver(guard, b"[]") == 400
    assert deliver(guard, body, OTHER_SECRET) == 401
    assert deliver(guard, b" " * (1024 * 1024 + 1)) == 413
    found = exported(metrics)
    counts = {result: found["webhooks_total", result] for result in WEBHOOK_RESULTS}
    assert counts == {"applied": 2, "unreadable": 1, "unauthentic": 1, "too_large": 1, "store_unavailable": 0}
    elsewhere = Metrics(CollectorRegistry())
    assert deliver(SendGuard(DEAD, webhook_secret=SECRET, metrics=elsewhere), body) == 503
    assert exported(elsewhere)["webhooks_total", "store_unavailable"] == 1


def test_every_call_that_the_store_does_not_answer_is_an_error(metrics: Metrics) -> None:
    guard = SendGuard(DEAD, metrics=metrics, refresh=None)
    assert guard.decide(PERSON).reason is Reason.STORE_UNAVAILABLE
    for call in (guard.lines, guard.transitions, lambda: guard.pause(LINE), lambda: guard.dry_run(PERSON)):
        with pytest.raises(StoreUnavailable):
            call()
    guard.measure()
    found = exported(metrics)
    assert found["store_errors_total",] == 6
    assert found["decisions_total", "false", "store_unavailable"] == 1


# How the pool stands -------------------------------------------------------------------------------------------------


def test_it_tells_how_the_lines_stand(
    new_guard: Callable[..., SendGuard], clock: ManualClock, metrics: Metrics
) -> None:
    guard = new_guard(metrics=metrics, policy=Policy(at_risk=TokenBucket(5, per=60, burst=5)))
    assert not any(name in ("lines", "store_up") for name, *_ in exported(metrics))
    guard.measure()
    assert math.isnan(exported(metrics)["observation_age_seconds",])
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    clock.advance(30)
    guard.observe(OTHER, status="FLAGGED")
    guard.decide(PERSON)
    guard.measure()
    found = exported(metrics)
    assert found["lines", "AT_RISK", "ACTIVE"] == 1
    assert found["lines", "HEALTHY", "FLAGGED"] == 1
    assert found["lines", "HEALTHY", "ACTIVE"] == 0
    assert found["line_tokens", LINE] == 4
    assert ("line_tokens", OTHER) not in found  # it is unpaced
    assert found["observation_age_seconds",] == 30
    assert math.isnan(found["poll_age_seconds",])
    assert found["store_up",] == 1


def test_the_age_of_the_last_poll(valkey: Server, pool: str, metrics: Metrics) -> None:
    with Simulator([LINE]) as api:
        options = {"api_key": api.api_key, "api_base_url": api.base_url, "metrics": metrics, "timeout": 5.0}
        with SendGuard(valkey.url, pool=pool, **options) as guard:
            guard._drive(guard._flows.poll_if_due("token", 60, 10))
            guard.measure()
    assert 0 <= exported(metrics)["poll_age_seconds",] < 20


def test_a_line_that_is_released_is_told_of_no_more(new_guard: Callable[..., SendGuard], metrics: Metrics) -> None:
    guard = new_guard(metrics=metrics, policy=Policy(healthy=TokenBucket(5, per=60)))
    for number in (LINE, OTHER):
        guard.observe(number, status="ACTIVE")
    guard.measure()
    assert {("line_tokens", LINE), ("line_tokens", OTHER)} <= exported(metrics).keys()
    guard._drive(guard._flows.run(guard._flows.protocol.release([OTHER], None, None, "poll")))
    guard.measure()
    found = exported(metrics)
    assert ("line_tokens", LINE) in found
    assert ("line_tokens", OTHER) not in found
    assert found["lines", "HEALTHY", "ACTIVE"] == 1


def test_a_store_that_stops_answering_leaves_no_old_gauge(tmp_path: Path, pool: str, metrics: Metrics) -> None:
    store = Server(valkey_binary(), tmp_path)
    with SendGuard(store.url, pool=pool, timeout=5.0, metrics=metrics, policy=SLOW) as guard:
        guard.observe(LINE, status="ACTIVE", health="AT_RISK")
        guard.measure()
        assert exported(metrics)["line_tokens", LINE] == 1
        store.stop()
        guard.measure()
    found = exported(metrics)
    assert found["store_up",] == 0
    assert math.isnan(found["lines", "AT_RISK", "ACTIVE"])
    assert ("line_tokens", LINE) not in found


def test_pools_are_told_apart(valkey: Server, pool: str, metrics: Metrics) -> None:
    for name in (f"{pool}-a", f"{pool}-b"):
        with SendGuard(valkey.url, pool=name, timeout=5.0, metrics=metrics) as guard:
            guard.decide(PERSON)
            guard.measure()
    text = generate_latest(metrics.registry).decode()
    for name in (f"{pool}-a", f"{pool}-b"):
        assert f'sendguard_decisions_total{{allowed="false",pool="{name}",reason="no_lines"}} 1.0' in text
        assert f'sendguard_store_up{{pool="{name}"}} 1.0' in text


def test_no_label_holds_a_recipient_or_a_decision(new_guard: Callable[..., SendGuard], metrics: Metrics) -> None:
    guard = new_guard(metrics=metrics, policy=SLOW)
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    decisions = [guard.decide(PERSON, idempotency_key="order-1"), guard.decide("ann@example.com")]
    guard.report(decisions[0], "not_sent")
    guard.measure()
    text = generate_latest(metrics.registry).decode()
    for secret in (PERSON, "ann@example.com", "order-1", *(decision.decision_id for decision in decisions)):
        assert secret not in text
    named = {name for family in text_string_to_metric_families(text) for s in family.samples for name in s.labels}
    assert named == {"pool", "allowed", "reason", "waited", "le", "result", "status", "health", "line"}


# What is not used costs nothing --------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_guard_without_metrics_or_opentelemetry_is_watched_by_nothing() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from sendguard import SendGuard
guard = SendGuard()
flow = guard._flows.decide(None)
print(guard._flows.watch, flow.gi_code.co_qualname, {"prometheus_client", "pythonjsonlogger"} & sys.modules.keys())
"""
    assert run_python(code) == "None Flows._decide set()"


def test_the_extra_is_named_where_it_is_missing() -> None:
    code = """
import sys
sys.modules["prometheus_client"] = None
try:
    import sendguard.metrics
except ImportError as error:
    print(error)
"""
    assert run_python(code) == "sendguard.metrics needs the extra: pip install 'sendguard[metrics]'"


def test_what_is_no_metrics_is_refused(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match=r"metrics must be a sendguard\.metrics\.Metrics"):
        SendGuard(metrics=metrics.registry)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metrics must be given"):
        SendGuard().measure()
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(metrics.registry)
    assert not any(family.name.startswith(PREFIX) for family in REGISTRY.collect())


# The dashboard -------------------------------------------------------------------------------------------------------


class Exported(NamedTuple):
    """What a scrape told. labels: of each sample by its name, the values that each label had; kinds: its family's."""

    labels: dict[str, dict[str, set[str]]]
    kinds: dict[str, str]


@pytest.fixture(scope="module")
def scraped(valkey: Server) -> Exported:
    """What a sidecar exports after traffic of every kind."""
    pool = "dashboard"
    policy = {"at_risk": {"tokens": 1, "per": 0.05, "burst": 1}, "new_conversations": {"limit": 3, "per": 60}}
    fields = {"store": valkey.url, "pool": pool, "timeout": 5.0, "webhook_secret": [SECRET], "policy": policy}
    with Simulator([LINE, OTHER]) as api:
        settings = Settings(**fields, poll_interval=60, api_key=api.api_key, api_base_url=api.base_url)
        with Served(create_app(settings)) as server, httpx.Client(base_url=server.url, timeout=30) as sidecar:
            wait_until(lambda: len(sidecar.get("/v1/lines").json()["lines"]) == 2)
            with SendGuard(valkey.url, pool=pool, timeout=5.0) as guard:
                guard.observe(LINE, health="AT_RISK")
            for i in range(8):
                for max_wait in (0, 0.2):
                    ask = {"to": f"+1415555000{i}", "max_wait": max_wait}
                    assert sidecar.post("/v1/choose-from-number", json=ask).status_code in (200, 429)
            body = json.dumps(payload("status_updated.reputation")).encode()
            for signed in ({}, standard_headers(body, time.time())):
                sidecar.post("/webhooks/linq", content=body, headers=signed)
            return _exported(sidecar.get("/metrics").text)


def _exported(text: str) -> Exported:
    found, kinds = {}, {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            kinds[sample.name] = family.type
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return Exported(found, kinds)


def load() -> Any:
    return json.loads((DOCS / "grafana" / "sendguard.json").read_text("utf-8"))


def targets(dashboard: Any) -> Iterator[tuple[str, str]]:
    """Every query with its legend, of panels, and of panels inside rows."""
    for panel in dashboard["panels"]:
        for each in (panel, *panel.get("panels", ())):
            for target in each.get("targets", ()):
                yield target["expr"], target["legendFormat"]


def filled(text: str) -> str:
    """A query with Grafana's variables as it fills them in; one that the dashboard does not define stays."""
    values = {"__rate_interval": "1m", "pool": ".+", "datasource": "uid"}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), text)


def complaints(dashboard: Any, export: Exported) -> list[str]:
    """What of a dashboard no export answers to: names, labels, values of labels, and rates of what is no counter."""
    found = []
    for expr, legend in targets(dashboard):
        try:
            parsed = promql.parse(filled(expr))
        except ValueError as error:
            found.append(f"{expr}: {error}")
            continue
        found += [f"{expr}: {problem}" for problem in _problems(parsed, export)]
        shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend))
        found += [f"{expr}: the legend shows {label}" for label in shown - _kept(parsed, export)]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            for text in {variable["definition"], variable["query"]["query"]}:
                name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", text).groups()  # type: ignore[union-attr]
                if label not in export.labels.get(name, {}):
                    found.append(f"{text}: no such label")
    return found


def _nodes(parsed: Any, kind: type) -> list[Any]:
    nodes: list[Any] = []
    promql.walk(parsed, pre_visit=nodes.append)
    return [node for node in nodes if isinstance(node, kind)]


def _problems(parsed: Any, export: Exported) -> Iterator[str]:
    selectors = _nodes(parsed, promql.VectorSelector)
    if not selectors:
        yield "it asks for no metric"
    for selector in selectors:
        labels = export.labels.get(selector.name)
        if labels is None:
            yield f"there is no {selector.name}"
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                yield f"{selector.name} has no label {matcher.name}"
            elif not any(_matches(matcher, value) for value in labels[matcher.name]):
                yield f"{selector.name} has no {matcher.name} {matcher.value}"
        if "pool" not in {matcher.name for matcher in selector.matchers.matchers}:
            yield f"{selector.name} is asked for of every pool"
    for aggregate in _nodes(parsed, promql.AggregateExpr):
        for label in aggregate.modifier.labels if aggregate.modifier else ():
            for selector in _nodes(aggregate.expr, promql.VectorSelector):
                if label not in export.labels.get(selector.name, {}):
                    yield f"{selector.name} has no label {label}"
    for call in _nodes(parsed, promql.Call):
        for matrix in (arg for arg in call.args if isinstance(arg, promql.MatrixSelector)):
            if export.kinds.get(matrix.vector_selector.name) not in ("counter", "histogram"):
                yield f"{call.func.name} of {matrix.vector_selector.name}, which is no counter"


def _matches(matcher: Any, value: str) -> bool:
    equal = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
    hit = matcher.value == value if equal else re.fullmatch(matcher.value, value) is not None
    return hit == (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re))


def _kept(parsed: Any, export: Exported) -> set[str]:
    """The labels that a query's result has."""
    if isinstance(parsed, promql.AggregateExpr) and parsed.modifier:
        return set(parsed.modifier.labels)
    if isinstance(parsed, promql.AggregateExpr):
        return _kept(parsed.expr, export) if str(parsed.op) in ("topk", "bottomk") else set()
    if isinstance(parsed, promql.VectorSelector):
        return set(export.labels.get(parsed.name, {}))
    if isinstance(parsed, promql.Call):
        return set().union(*(_kept(arg, export) for arg in parsed.args)) - {"le"}
    if isinstance(parsed, promql.BinaryExpr):
        return _kept(parsed.lhs, export)
    return set()


def test_every_query_of_the_dashboard_is_answered(scraped: Exported) -> None:
    assert complaints(load(), scraped) == []
    assert len(list(targets(load()))) > 15


def test_the_dashboard_shows_every_metric(scraped: Exported) -> None:
    shown = {
        node.name for expr, _ in targets(load()) for node in _nodes(promql.parse(filled(expr)), promql.VectorSelector)
    }
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in scraped.labels if not name.endswith("_created")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in shown} == families


def test_the_dashboard_can_be_loaded_anywhere() -> None:
    dashboard = load()
    assert dashboard["schemaVersion"] == 42
    assert dashboard["id"] is None
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "pool"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("sendguard_store_errors_total", "sendguard_store_error_total", "there is no sendguard_store_error_total"),
        ("sum by (allowed, reason)", "sum by (allowed, why)", "sendguard_decisions_total has no label why"),
        ('waited=\\"true\\"', 'waits=\\"true\\"', "has no label waits"),
        ('allowed=\\"true\\"', 'allowed=\\"yes\\"', "has no allowed yes"),
        ("unauthentic|unreadable|too_large|store_unavailable", "rejected", "has no result rejected"),
        ("max(sendguard_poll_age_seconds{pool=~\\\"$pool\\\"})", "max(sendguard_poll_age_seconds)", "of every pool"),
        ("min by (pool, line) (sendguard_line_tokens", "min by (pool, line) (sendguard_line_tokens)", "sendguard_line"),
        ("max by (pool) (sendguard_observation_age_seconds{pool=~\\\"$pool\\\"})",
         "rate(sendguard_observation_age_seconds{pool=~\\\"$pool\\\"}[5m])", "which is no counter"),
        ("{{line}}", "{{number}}", "the legend shows number"),
        ("$pool", "$pol", "has no pool $pol"),
        ("label_values(sendguard_decisions_total, pool)", "label_values(sendguard_decisions, pool)", "no such label"),
    ],
)  # fmt: skip
def test_a_dashboard_that_asks_for_what_is_not_there_is_noticed(
    scraped: Exported, old: str, new: str, complaint: str
) -> None:
    text = (DOCS / "grafana" / "sendguard.json").read_text("utf-8")
    assert old in text
    assert any(complaint in each for each in complaints(json.loads(text.replace(old, new)), scraped))


# The page ------------------------------------------------------------------------------------------------------------


def test_the_page_names_every_metric_with_its_labels(scraped: Exported) -> None:
    page = (DOCS / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(sendguard_\w+)` \| ([^|]*) \| (\w+) \|", page, re.MULTILINE)
    told = {name: (set(re.findall(r"`(\w+)`", labels)), kind) for name, labels, kind in rows}
    real: dict[str, tuple[set[str], str]] = {}
    for name, labels in scraped.labels.items():
        if not name.endswith("_created"):
            family = re.sub("_(bucket|sum|count)$", "", name)
            real[family] = (labels.keys() - {"le"} | real.get(family, (set(), ""))[0], scraped.kinds[name])
    assert told == real
    for reason in Reason:
        assert f"`{reason.value}`" in page
    for result in WEBHOOK_RESULTS:
        assert f"`{result}`" in page


def test_the_buckets_fit() -> None:
    assert min(SECONDS) == 50e-6
    assert 1.0 in SECONDS
    assert list(SECONDS) == sorted(SECONDS)
    assert sum(bound <= 1.0 for bound in SECONDS) >= 12
