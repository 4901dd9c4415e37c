"""`doctor`: what could keep the guard from deciding well, each finding with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain

import typer

from sendguard.cli import show
from sendguard.cli.checks import FAIL, OK, WARN, Finding
from sendguard.cli.checks.linq import check_linq
from sendguard.cli.checks.news import check_news
from sendguard.cli.checks.store import check_store
from sendguard.cli.lines import AsJson
from sendguard.cli.session import Code, Session, command

_Check = Callable[[Session], Iterator[Finding]]
_REFUSED = "every webhook is refused where it is not set, and a FLAGGED line goes unnoticed"


def doctor(session: Session, *, as_json: AsJson = False) -> None:
    """Check the configuration, the store, the clocks, Linq, webhooks and polls. Exit code 1 if a check fails."""
    checks: tuple[_Check, ...] = (_check_settings, check_store, check_linq, check_news)
    found = list(chain.from_iterable(check(session) for check in checks))
    if as_json:
        show.put_json({"findings": [asdict(finding) for finding in found]})
    else:
        rows = [(finding.level, finding.check, finding.text) for finding in found]
        show.put(session.out, show.table(("", "CHECK", "FOUND"), rows))
        for finding in found:
            if finding.remedy:
                print(f"\n{finding.check}: {finding.text}\n  {finding.remedy}")
    if any(finding.level == FAIL for finding in found):
        raise typer.Exit(Code.NO)


def _check_settings(session: Session) -> Iterator[Finding]:
    settings = session.settings
    settings.policy.policy()
    if settings.webhook_secret:
        yield Finding("webhook secret", OK, f"{len(settings.webhook_secret)} known here")
    else:
        remedy = "Set LINQ_WEBHOOK_SECRET wherever webhooks are taken."
        yield Finding("webhook secret", WARN, f"not known here; {_REFUSED}", remedy)
    if settings.hash_key is not None:
        yield Finding("hash key", OK, "set")
    else:
        remedy = (
            "Set SENDGUARD_HASH_KEY to the same secret in every process. A new one forgets conversations and opt-outs."
        )
        yield Finding("hash key", WARN, "not set: who can guess a number can find it in the store", remedy)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    command(app)(doctor)
