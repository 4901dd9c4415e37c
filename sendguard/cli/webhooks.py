"""`webhooks`: the subscriptions of the account at Linq."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

import typer

from sendguard.cli import show
from sendguard.cli.lines import AsJson
from sendguard.cli.secret_file import SecretFile
from sendguard.cli.session import Code, Session, command, end
from sendguard.errors import LinqError
from sendguard.linq.subscriptions import EVENTS, WebhookSubscription, checked_target

webhooks = typer.Typer(help="List, make and end webhook subscriptions at Linq.", no_args_is_help=False)


def listed(session: Session, *, as_json: AsJson = False) -> None:
    """List the account's webhook subscriptions."""
    found = session.linq.webhook_subscriptions()
    if as_json:
        show.put_json({"subscriptions": [_json(each) for each in found]})
        return
    rows = [
        (
            each.subscription_id,
            "yes" if each.active else "no",
            each.version or "-",
            ", ".join(each.missing) or "none",
            ", ".join(each.phone_numbers) or "all",
            each.target_url,
        )
        for each in found
    ]
    show.put(session.out, show.table(("ID", "ACTIVE", "VERSION", "MISSING EVENTS", "LINES", "URL"), rows))


def subscribe(
    session: Session,
    url: Annotated[str, typer.Argument(help="Where Linq delivers: https, ending for the sidecar in /webhooks/linq.")],
    *,
    secret_file: Annotated[
        Path | None, typer.Option(help="Write the signing secret to this new file, for its owner alone.")
    ] = None,
    show_secret: Annotated[bool, typer.Option("--show-secret", help="Print the signing secret.")] = False,
) -> None:
    """Subscribe to the events that a guard needs. Linq shows the signing secret this once, so say where to keep it."""
    target = checked_target(url)
    if secret_file is None and not show_secret:
        raise ValueError("Linq shows the signing secret only once: give --secret-file PATH or --show-secret")
    with ExitStack() as stack:
        file = None if secret_file is None else stack.enter_context(SecretFile(secret_file))
        taken = [each for each in session.linq.webhook_subscriptions() if _same(each.target_url, target)]
        if taken:
            end(Code.NO, f"{taken[0].subscription_id} has this URL already; unsubscribe it first for a new secret")
        made = session.linq.subscribe_webhooks(target, EVENTS)
        if file is not None:
            try:
                file.keep(made.signing_secret)
            except OSError as error:
                _undo(session, made.subscription, f"--secret-file cannot be written: {error.strerror}")
    print(f"subscribed {made.subscription.subscription_id}: {target}")
    if show_secret:
        print(made.signing_secret)
    if secret_file is not None:
        print(f"signing secret in {secret_file}; guards read it from LINQ_WEBHOOK_SECRET")


def _undo(session: Session, made: WebhookSubscription, problem: str) -> None:
    """End a subscription whose secret is lost. Never returns."""
    try:
        session.linq.unsubscribe_webhooks(made.subscription_id)
    except LinqError as error:
        end(Code.API, problem, f"{made.subscription_id} is left, and its secret lost: {error}")
    end(Code.USAGE, problem)


def unsubscribe(
    session: Session, which: Annotated[str, typer.Argument(metavar="ID_OR_URL", help="The subscription.")]
) -> None:
    """End a subscription."""
    found = [
        each
        for each in session.linq.webhook_subscriptions()
        if which == each.subscription_id or ("://" in which and _same(each.target_url, which))
    ]
    if len(found) != 1:
        end(Code.NO, f"{len(found) or 'no'} subscriptions are {which}")
    session.linq.unsubscribe_webhooks(found[0].subscription_id)
    print(f"unsubscribed {found[0].subscription_id}: {found[0].target_url}")


def _same(one: str, other: str) -> bool:
    """Whether two URLs lead to the same place, whatever version of the payloads they ask for."""
    return _without_version(one) == _without_version(other)


def _without_version(url: str) -> tuple[str, list[tuple[str, str]]]:
    place, _, query = url.partition("?")
    return place.rstrip("/"), [item for item in parse_qsl(query) if item[0] != "version"]


def _json(each: WebhookSubscription) -> dict[str, Any]:
    return {**asdict(each), "version": each.version, "missing_events": each.missing}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    command(webhooks, "list")(listed)
    for function in (subscribe, unsubscribe):
        command(webhooks)(function)
    app.add_typer(webhooks, name="webhooks")
