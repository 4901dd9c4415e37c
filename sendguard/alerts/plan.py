"""What an alerter was told to do, checked: who hears of which severity, how often, and how long it waits. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sendguard.alerts.channels import AsyncCallback, CallbackChannel, Channel, UrlChannel
from sendguard.alerts.models import Rule, Severity, check_urls
from sendguard.alerts.rules import ended_by

_FIELDS = ("status", "health")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Plan:
    """An alerter's settings. routes: the channels that hear of a severity of a field. Times are seconds."""

    name: str
    channels: tuple[Channel, ...]
    routes: Mapping[tuple[Severity, str], tuple[Channel, ...]]
    rules: Mapping[Severity, Rule]
    audit_wait: float
    remind_after: float
    claim_after: float
    interval: float

    @classmethod
    def of(
        cls,
        urls: Sequence[str],
        rules: Mapping[Severity | str, Rule] | None,
        callbacks: Sequence[AsyncCallback],
        audit_wait: float,
        remind_after: float,
        claim_after: float,
        interval: float,
        name: str,
    ) -> Plan:
        """Check an alerter's arguments. Raises ValueError naming the one that is wrong."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("name must be 1 to 64 letters, digits, '.', '_' or '-'")
        urls, by_severity = check_urls("urls", urls), _rules(rules)
        if isinstance(callbacks, str) or not all(map(callable, callbacks)):
            raise ValueError("callbacks must be a list of functions")
        known: dict[str, UrlChannel] = {}
        _open("urls", urls, known)
        for severity, rule in by_severity.items():
            _open(f"rules[{severity.value!r}].urls", rule.urls or (), known)
        called = tuple(CallbackChannel(callback, index) for index, callback in enumerate(callbacks))
        routes: dict[tuple[Severity, str], tuple[Channel, ...]] = {
            (severity, field): (*(known[url] for url in _urls_for(severity, field, urls, by_severity)), *called)
            for severity in Severity
            for field in _FIELDS
        }
        if not any(routes.values()):
            raise ValueError("urls, rules or callbacks must name somebody who is told")
        return cls(
            name,
            (*known.values(), *called),
            routes,
            by_severity,
            _seconds("audit_wait", audit_wait, 0, 3600),
            _seconds("remind_after", remind_after, 0, 30 * 86_400),
            _seconds("claim_after", claim_after, 0.1, 3600),
            _seconds("interval", interval, 0.01, 3600),
        )


def _rules(given: Mapping[Severity | str, Rule] | None) -> dict[Severity, Rule]:
    known = {severity.value: severity for severity in Severity}
    rules = {severity: Rule() for severity in Severity}
    if not isinstance(given, Mapping | None):
        raise ValueError("rules must be a mapping of severities to Rule")
    for name, rule in (given or {}).items():
        severity = known.get(name) if isinstance(name, str) else None
        if severity is None:
            raise ValueError(f"rules may name {', '.join(known)}, not {name!r}")
        if not isinstance(rule, Rule):
            raise ValueError(f"rules[{severity.value!r}] must be a Rule")
        rules[severity] = rule
    return rules


def _open(argument: str, urls: Sequence[str], known: dict[str, UrlChannel]) -> None:
    for index, url in enumerate(urls):
        if url not in known:
            known[url] = UrlChannel(url, f"{argument}[{index}]")


def _urls_for(severity: Severity, field: str, urls: Sequence[str], rules: Mapping[Severity, Rule]) -> list[str]:
    own = rules[severity].urls
    if own is not None:
        return list(dict.fromkeys(own))
    found: list[str] = []
    for each in ended_by(severity, field):
        told = rules[each].urls
        found += urls if told is None else told
    return list(dict.fromkeys(found))


def _seconds(name: str, value: float, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g} seconds")
    return float(value)
