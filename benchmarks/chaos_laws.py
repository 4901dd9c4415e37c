"""Judges a run of chaos by the simulator's record. What the docs say of a store that forgot is all that is let pass.

A store's *memory* is a stretch of time between two losses. Token buckets, quotas of each window, conversations and keys
begin anew with it; so what is counted by the store is judged within one memory, which is to say: at most one more burst
or limit for each loss.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from benchmarks.chaos_faults import Trouble
from benchmarks.chaos_senders import Answer, Sent
from sendguard import LineStatus, Policy, Reason
from sendguard.degraded import shared
from sendguard.simulator import Delivery, Event, SentRecord
from tests import judge
from tests.judge import Span

GRACE = 0.05
LOOK_SLACK = 0.5
"""Seconds by which a look may be later than `refresh` on a busy machine."""
LAWS = {
    "1": "nothing on a line that is known to be FLAGGED",
    "3 buckets": "a token bucket admits burst + tokens * t / per, within one memory",
    "3 quotas": "no window over its limit, within one memory",
    "4": "a conversation stays on its line, within one memory",
    "8": "one key, one line, within one memory",
    "9 in time": "no call over timeout + 50 ms that Python did run in",
    "9 empty": "nothing allowed while the pool is empty",
    "resumed": "decisions allowed again within the limit",
}


@dataclass
class Record:
    """What happened. resume_within: seconds after a fault within which some decision must be allowed."""

    policy: Policy
    timeout: float
    refresh: float
    resume_within: float
    troubles: list[Trouble]
    answers: list[Answer]
    sent: list[Sent]
    sends: Sequence[SentRecord]
    events: Sequence[Event]
    deliveries: Sequence[Delivery]


@dataclass
class Verdict:
    """broken: what broke each law. young: sends on a line whose flag the store lost before every process had looked.

    blind: sends that a process without the store let on a line flagged since its last look. resumed: seconds from the
    end of each fault to the first allowed decision. judged: sends whose pace could be judged.
    """

    broken: dict[str, list[str]] = field(default_factory=lambda: {law: [] for law in LAWS})
    young: int = 0
    blind: int = 0
    judged: int = 0
    resumed: list[float] = field(default_factory=list)


def judge_all(record: Record) -> Verdict:
    """The verdict of a run."""
    verdict = Verdict()
    by_send = answers_of(record.sends, record.sent)
    losses = sorted(trouble.lost for trouble in record.troubles if trouble.lost)
    _law_1(record, by_send, losses, verdict)
    _law_3(record, by_send, losses, verdict)
    _law_4(record, by_send, losses, verdict)
    _law_8(record, losses, verdict)
    _law_9(record, verdict)
    return verdict


def answers_of(sends: Iterable[SentRecord], sent: Iterable[Sent]) -> dict[SentRecord, Answer]:
    """The answer that let each send go. A memo has no key: its recipient has one sender."""
    keys: dict[str, Answer] = {}
    memos: dict[str, deque[Answer]] = defaultdict(deque)
    for each in sent:
        if each.kind == "voice_memo":
            memos[each.answer.to].append(each.answer)
        else:
            keys[each.answer.key] = each.answer
    return {
        send: memos[send.recipients[0]].popleft() if send.kind == "voice_memo" else keys[str(send.idempotency_key)]
        for send in sends
    }


def memory(answer: Answer, losses: Sequence[tuple[float, float]]) -> int | None:
    """Which memory decided, by its number; None where the loss came while it was asked."""
    number = bisect([after for _, after in losses], answer.asked)
    lost_meanwhile = number < len(losses) and answer.answered >= losses[number][0]
    return None if lost_meanwhile else number


def _calm(troubles: Sequence[Trouble], since: float, until: float) -> float:
    """The longest stretch without a fault in one of time."""
    longest, at = 0.0, since
    for trouble in troubles:
        if trouble.ended > since and trouble.began < until:
            longest, at = max(longest, trouble.began - at), max(at, trouble.ended)
    return max(longest, until - at)


def _around(troubles: Sequence[Trouble], since: float, until: float) -> str:
    """The faults of a stretch of time, in words."""
    return ", ".join(
        f"{trouble.kind} {trouble.began:.3f} to {trouble.ended:.3f}"
        for trouble in troubles
        if trouble.ended > since - 5 and trouble.began < until
    )


def _law_1(
    record: Record, by_send: dict[SentRecord, Answer], losses: Sequence[tuple[float, float]], verdict: Verdict
) -> None:
    flagged = [span for span in judge.spans(record.events, record.deliveries, "status") if span.value == "FLAGGED"]
    by_line: dict[str, list[Span]] = defaultdict(list)
    for span in flagged:
        by_line[span.line].append(span)
    asked = {send: answer.asked for send, answer in by_send.items()}
    for send, answer in by_send.items():
        for span in by_line[str(send.line)]:
            for text in judge.sent_on_flagged([send], asked, [span]):
                lost = next((before for before, after in losses if span.start <= after and before < answer.answered), 0)
                if answer.degraded is not None and span.start > answer.looked - record.timeout:
                    verdict.blind += 1
                elif lost and _calm(record.troubles, span.start, lost) < record.refresh + LOOK_SLACK:
                    verdict.young += 1
                else:
                    verdict.broken["1"].append(
                        f"{text} ({answer.process}, {answer.reason}, {answer.degraded}, looked {answer.looked:.3f}): "
                        f"{_around(record.troubles, span.start, answer.asked)}"
                    )


def _law_3(
    record: Record, by_send: dict[SentRecord, Answer], losses: Sequence[tuple[float, float]], verdict: Verdict
) -> None:
    asked = {send: answer.asked for send, answer in by_send.items()}
    groups: dict[tuple[str, object, object], list[SentRecord]] = defaultdict(list)
    for send, answer in by_send.items():
        if not send.accepted:
            continue
        if answer.degraded is not None:
            groups[str(send.line), answer.process, answer.degraded].append(send)
        elif (number := memory(answer, losses)) is not None:
            groups[str(send.line), "store", number].append(send)
    spans: dict[str, list[Span]] = defaultdict(list)
    for span in judge.spans(record.events, record.deliveries, "reputation"):
        spans[span.line].append(span)
    alone = shared(record.policy)
    for (line, who, which), sends in groups.items():
        verdict.judged += len(sends)
        policy = record.policy if who == "store" else alone
        travel = max(send.at - asked[send] for send in sends)
        name = f"{line} by {who} {which}"
        for value, bucket in (("HEALTHY", policy.healthy), ("AT_RISK", policy.at_risk), ("CRITICAL", policy.critical)):
            known = [span for span in spans[line] if span.value == value]
            if who != "store":  # it paces by the health as of its last look
                known = [span for span in known if span.start < by_send[sends[0]].looked - record.timeout]
            assert bucket is not None
            found = judge.past_bucket(sends, asked, bucket, known, travel)
            verdict.broken["3 buckets"] += [f"{name}: {text}" for text in found]
        started = [send.at for send in sends if send.new_conversation]
        pairs: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for send in sends:
            pairs[send.recipients].append(send.at)
        for quota, lists in (
            (policy.daily_volume, [[send.at for send in sends]]),
            (policy.new_conversations, [started]),
            (policy.pair, list(pairs.values())),
        ):
            assert quota is not None
            for times in lists:
                verdict.broken["3 quotas"] += judge.past_quota(times, quota, travel, name)


def _law_4(
    record: Record, by_send: dict[SentRecord, Answer], losses: Sequence[tuple[float, float]], verdict: Verdict
) -> None:
    by_memory: dict[int, list[SentRecord]] = defaultdict(list)
    alone = {(send.recipients, memory(answer, losses)) for send, answer in by_send.items() if answer.degraded}
    for send, answer in by_send.items():
        number = memory(answer, losses)
        if send.accepted and number is not None and (send.recipients, number) not in alone:
            by_memory[number].append(send)
    for sends in by_memory.values():
        verdict.broken["4"] += judge.moved(sends, record.events, record.deliveries)


def _law_8(record: Record, losses: Sequence[tuple[float, float]], verdict: Verdict) -> None:
    by_key: dict[tuple[str, int | None], list[Answer]] = defaultdict(list)
    for answer in record.answers:
        by_key[answer.key, memory(answer, losses)].append(answer)
    flagged = [
        (event.line, event.created_at)
        for event in record.events
        if event.type == "phone_number.status_updated" and event.data["new_status"] == LineStatus.FLAGGED
    ]
    for (key, number), answers in by_key.items():
        allowed = [answer for answer in answers if answer.line]
        if number is None or len({answer.line for answer in allowed}) < 2:
            continue
        first, last = allowed[0], allowed[-1]
        # Its webhook may be known a while after the flip; what left the line before the first answer does not count.
        moved = any(line == first.line and first.asked - 10 < at < last.answered for line, at in flagged)
        if not moved and not any(answer.degraded for answer in allowed):
            verdict.broken["8"].append(f"{key}: {[answer.line for answer in allowed]}")
    for keyed in _twice(record.sends):
        verdict.broken["8"].append(f"{keyed}: accepted twice")


def _twice(sends: Iterable[SentRecord]) -> list[str]:
    seen: dict[str, int] = defaultdict(int)
    for send in sends:
        if send.accepted and send.idempotency_key:
            seen[send.idempotency_key] += 1
    return [key for key, count in seen.items() if count > 1]


def late(record: Record) -> list[Answer]:
    """The answers that took longer than they may."""
    return [answer for answer in record.answers if answer.seconds > record.timeout + GRACE]


def _law_9(record: Record, verdict: Verdict) -> None:
    verdict.broken["9 in time"] += [
        f"{answer.seconds:.3f} s at {answer.asked:.3f}, of which {answer.stalled:.3f} s stalled: {answer.reason}"
        for answer in late(record)
        if answer.seconds - answer.stalled > record.timeout + GRACE
    ]
    allowed = sorted(answer.asked for answer in record.answers if answer.line)
    for i, trouble in enumerate(record.troubles):
        if trouble.lost and trouble.empty_until:
            verdict.broken["9 empty"] += [
                f"{answer.reason} at {answer.asked:.3f}, the pool being empty until {trouble.empty_until:.3f}"
                for answer in record.answers
                if answer.line and answer.degraded is None
                if trouble.lost[1] < answer.asked and answer.answered < trouble.empty_until
            ]
        after = bisect(allowed, trouble.ended)
        end = record.troubles[i + 1].began if i + 1 < len(record.troubles) else float("inf")
        if after < len(allowed) and allowed[after] < end:
            verdict.resumed.append(allowed[after] - trouble.ended)
        took = min(allowed[after] if after < len(allowed) else float("inf"), end) - trouble.ended
        if took > record.resume_within:
            verdict.broken["resumed"].append(f"{took:.1f} s after {trouble.kind}")


def centiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the longest."""
    cuts = quantiles(values, n=1000, method="inclusive")
    return {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998], "longest": max(values)}


def reasons(answers: Iterable[Answer]) -> dict[Reason, int]:
    """How often each was given, the most frequent first."""
    counts: dict[Reason, int] = defaultdict(int)
    for answer in answers:
        counts[answer.reason] += 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
