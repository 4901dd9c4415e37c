"""What the guard does about a line, what a person should do, and what to write to Linq, in words. Pure.

The advice is Linq's own: the guides on phone numbers and on phone health.
"""

from __future__ import annotations

from collections.abc import Sequence

from sendguard.alerts.words import counted, moment, pace, span, used
from sendguard.models import Health, Line, LineStatus
from sendguard.policy import Policy, Quota

_MOST_LINES = 5
_DAY = 86_400.0


def state_of(line: Line) -> str:
    """A line's state as one word for advice: FLAGGED, or else its health."""
    return LineStatus.FLAGGED.value if line.status is LineStatus.FLAGGED else line.health.value


def guard_does(line: Line, policy: Policy) -> list[str]:
    """What the guard now does about a line, a sentence each."""
    if policy.mode == "observe":
        return ["Nothing: its policy only observes, so it decides and records but blocks no send."]
    if line.status is LineStatus.FLAGGED:
        return _about_flagged(policy)
    limits = policy.limits_of(line.number)
    bucket = limits[line.health.value.lower()]
    told = [f"Pace at {line.health.value}: {pace(bucket)}, all processes together.", "Conversations stay on it."]
    if line.health not in policy.new_conversations_on:
        told.append("It starts no new conversation: those go to other lines.")
    elif line.health is not policy.new_conversations_on[0]:
        told.append("New conversations go to healthier lines first.")
    if line.paused_until is not None:
        told.append("It is paused: no send leaves on it until it is resumed.")
    return told


def _about_flagged(policy: Policy) -> list[str]:
    told = ["No send leaves on it, from any process, until it is ACTIVE or an operator clears it."]
    if policy.on_flagged == "failover":
        told.append("Its chats fail over: the next send to each moves to another line, as a new conversation there.")
    else:
        told.append("Its chats are held until it is ACTIVE.")
    told.append("Voice memos, and sends that ask for this very line, are held.")
    return told


def _window(quota: Quota | None) -> str:
    return span(_DAY if quota is None else quota.per)


def traffic(line: Line, policy: Policy) -> str:
    """What a line carries, by the counts of its quotas."""
    limits = policy.limits_of(line.number)
    return (
        f"it carried {counted(line.daily_volume, 'message')} in the last {_window(limits['daily_volume'])}"
        f" and started {counted(line.new_conversations, 'conversation')}"
        f" in the last {_window(limits['new_conversations'])}"
    )


def _has_room(line: Line, policy: Policy) -> bool:
    limits = policy.limits_of(line.number)
    volume, starts = limits["daily_volume"], limits["new_conversations"]
    return (volume is None or line.daily_volume < volume.limit) and (
        starts is None or line.new_conversations < starts.limit
    )


def standing(others: Sequence[Line], policy: Policy) -> list[Line]:
    """The lines that can take conversations over, best first."""
    order = policy.new_conversations_on
    fit = [
        line
        for line in others
        if line.status is LineStatus.ACTIVE
        and not line.paused
        and line.cooling_down_until is None
        and line.health in order
        and _has_room(line, policy)
    ]
    return sorted(fit, key=lambda line: (order.index(line.health), line.new_conversations, line.number))


def taking_over(others: Sequence[Line], policy: Policy) -> list[str]:
    """The lines that stand and have room, a line of text each."""
    fit = standing(others, policy)
    if not fit:
        return ["No other line stands with room: what cannot go on this line is denied."]
    told = [f"{len(fit)} of {counted(len(others), 'other line')} can take new conversations:"]
    for line in fit[:_MOST_LINES]:
        limits = policy.limits_of(line.number)
        volume = used(line.daily_volume, limits["daily_volume"], "message")
        starts = used(line.new_conversations, limits["new_conversations"], "new conversation")
        told.append(f"- {line.number}: {line.health.value}, {volume}, {starts}")
    if len(fit) > _MOST_LINES:
        told.append(f"- and {len(fit) - _MOST_LINES:,} more")
    return told


_FLAGGED_TODO = (
    "Send the request below to your Linq representative.",
    "Leave the line alone until it is ACTIVE; what sends without asking the guard must be stopped by hand.",
    "Watch the lines that take over: a jump to several times their usual volume harms them too.",
)
_CRITICAL_TODO = (
    "Let it recover before it sends more: consider pausing it (guard.pause), and onboard people on HEALTHY lines.",
    "Review what is sent on it: write to people who answer, stop where they do not, honour opt-outs.",
    "Tell your Linq representative if you do not see why.",
)
_AT_RISK_TODO = (
    "Do not open many new conversations at once, and review the messaging.",
    "Do not move people off the line to escape the status.",
)
_RECOVERED_TODO = ("Nothing at once. Raise its volume step by step: a jump drives reputation down again.",)


_TODO = {
    LineStatus.FLAGGED.value: _FLAGGED_TODO,
    Health.CRITICAL.value: _CRITICAL_TODO,
    Health.AT_RISK.value: _AT_RISK_TODO,
    Health.HEALTHY.value: _RECOVERED_TODO,
}


def person_does(line: Line) -> tuple[str, ...]:
    """What the person on call should do about a line as it stands, a sentence each."""
    return _TODO[state_of(line)]


def request_to_linq(
    number: str, state: str, since: float, event_id: str | None, line: Line | None, policy: Policy, *, reminder: bool
) -> str:
    """The request to the Linq representative, ready to send."""
    flagged = state not in Health.__members__
    event = f" (your event {event_id})" if event_id else ""
    known = f" Its health is {line.health.value};" if line is not None and flagged else ""
    carried = "" if line is None else f"{known} {traffic(line, policy)}."
    carried = carried if known or not carried else f" Up to now {carried.strip()}"
    held = " We send nothing on it until it is ACTIVE." if flagged and policy.mode == "enforce" else ""
    subject = f"Line {number} is {'still ' if reminder else ''}{state}"
    question = (
        "What led to the flag, and what is needed for the line to be ACTIVE again?"
        if flagged
        else "What drives this, and what do you advise so that the line recovers and is not flagged?"
    )
    opening = "has been" if reminder else "turned"
    at = "since at least" if reminder else "at"
    return (
        f"Subject: {subject}\n\nHello,\n\nour line {number} {opening} {state} {at} {moment(since)}{event}."
        f"{carried}{held}\n{question}\n\nThank you"
    )
