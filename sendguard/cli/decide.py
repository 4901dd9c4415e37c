"""`choose` and `explain`: one send, and why it was or would be decided so."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sendguard.cli import show
from sendguard.cli.lines import AsJson
from sendguard.cli.session import Code, Session, command, end
from sendguard.models import Decision, DecisionRecord, Explanation, Reason
from sendguard.request import Request

_MOST_LINES = 20
_REPEATS = {
    "repeated": "the same answer was given again",
    "confirmed": "the slot had come, and the line may be sent on",
    "void": "the answer given before was void; decided anew",
    "lent": "decided by the process itself, from what it was lent",
}

Kind = Annotated[str, typer.Option(help="chat or voice_memo.")]
FromNumber = Annotated[str | None, typer.Option("--from", metavar="LINE", help="Ask about this very line.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="LINE", help="A line not to start on; may be repeated.")]
LineType = Annotated[str | None, typer.Option(help="Start only on an iMessage or an RCS line.")]
MaxWait = Annotated[float, typer.Option(help="Seconds to wait for a throttled line.", min=0, max=86_400)]
Key = Annotated[str | None, typer.Option(help="A repetition with the same key gets the same answer for a day.")]


def choose(
    session: Session,
    to: Annotated[list[str], typer.Argument(metavar="TO...", help="The recipient, or those of a group.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; nothing is taken or written.")] = False,
    kind: Kind = "chat",
    from_number: FromNumber = None,
    exclude: Exclude = None,
    line_type: LineType = None,
    max_wait: MaxWait = 0.0,
    idempotency_key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Print the line to send from now, and take what the send costs. A denial ends with exit code 1."""
    request = Request.of(to, kind, from_number, exclude or (), line_type, idempotency_key)
    if dry_run:
        if idempotency_key is not None:
            raise ValueError("--idempotency-key cannot be used with --dry-run, which repeats no answer")
        _dry_run(session, request, max_wait, as_json=as_json)
    else:
        _answer(session.guard._drive(session.guard._flows.choose(request, max_wait)), as_json=as_json)


def _answer(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        show.put_json(_plain({**asdict(decision)}))
    elif decision.allowed:
        print(decision.from_number)
    if decision.reason is Reason.STORE_UNAVAILABLE:
        end(Code.STORE, "the store did not answer")
    if not decision.allowed:
        wait = "" if decision.retry_after is None else f", retry after {decision.retry_after:.3f} s"
        end(Code.NO, f"denied: {decision.reason.value}{wait} (decision {decision.decision_id})")


def _dry_run(session: Session, request: Request, max_wait: float, *, as_json: bool) -> None:
    record = session.guard._drive(session.guard._flows.dry_run(request, max_wait))
    if as_json:
        show.put_json(_record_json(record))
    else:
        print(f"dry run: it would be {_summary(record)}")
        _put_considered(session, record)
        if session.settings.policy.mode == "observe" and not record.allowed:
            print('The policy\'s mode is "observe": a guard would say so, and block nothing.')
    if not record.allowed:
        raise typer.Exit(Code.NO)


def explain(
    session: Session,
    decision_id: Annotated[str, typer.Argument(help="As the decision, or the log, has it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell why a decision was what it was: every line that was considered, and why not that one."""
    found = session.guard.explain(decision_id)
    now = session.now()
    if as_json:
        show.put_json(
            {
                "record": [_record_json(record) for record in found.records],
                "now": {"at": now, "lines": [show.line_json(line) for line in found.lines]},
            }
        )
        return
    for record in found.records:
        what = f": {_REPEATS[record.remembered]}" if record.remembered else ""
        print(f"The record of {show.moment(record.decided_at)}, {show.ago(record.decided_at, now)}{what}")
        print(f"  {_summary(record)}; decision {record.decision_id}, {_asked(record)}")
        _put_considered(session, record)
        print()
    _put_now(session, found, now)


def _asked(record: DecisionRecord) -> str:
    return record.kind + (f", only {record.line_type} lines" if record.line_type else "")


def _summary(record: DecisionRecord) -> str:
    """A decision in a few words."""
    line = record.from_number or "no line"
    standing = f" ({record.status.value}, {record.health.value})" if record.status and record.health else ""
    if not record.allowed:
        wait = "waiting does not help" if record.retry_after is None else f"retry after {record.retry_after:.3f} s"
        return f"denied: {record.reason.value} on {line}{standing}, {wait}"
    moved = f", moved from {record.previous_from_number}" if record.previous_from_number else ""
    slot = f", in a slot {record.wait:.3f} s later" if record.wait else ""
    return f"allowed on {line}{standing}: {record.reason.value}{moved}{slot}"


def _put_considered(session: Session, record: DecisionRecord) -> None:
    rows = []
    for number, why, free_at in record.considered:
        taken = "taken" if record.allowed and number == record.from_number else None
        free = "-" if free_at is None else "at once" if free_at <= record.decided_at else show.moment(free_at)
        rows.append((number, ", ".join(filter(None, (taken, why))) or "-", free))
    if rows:
        show.put(session.out, show.table(("CONSIDERED", "WHY NOT", "FREE"), rows))


def _put_now(session: Session, found: Explanation, now: float) -> None:
    """How the lines that were not looked at stand. They may have stood otherwise when it was decided."""
    looked_at = {considered.number for record in found.records for considered in record.considered}
    others = sorted((line for line in found.lines if line.number not in looked_at), key=show.gravity)
    print(f"Not in the record, as they stand now: the {len(others)} lines that were not looked at")
    if others:
        show.put(session.out, show.line_table(others[:_MOST_LINES], session.settings.policy.policy(), now))
    if len(others) > _MOST_LINES:
        print(f"... and {len(others) - _MOST_LINES} more; --json has them all")


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "value", value) for name, value in fields.items()}


def _record_json(record: DecisionRecord) -> dict[str, Any]:
    return _plain({**asdict(record), "considered": [item._asdict() for item in record.considered]})


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (choose, explain):
        command(app)(function)
