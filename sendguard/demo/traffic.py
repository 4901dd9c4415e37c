"""What is asked of both teams: the same recipients, kinds and moments, from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sendguard import Policy, SendKind, TokenBucket
from sendguard.simulator import HealthModel

LINES = tuple(f"+120255501{i:02d}" for i in range(1, 6))
PEOPLE = tuple(f"+14155550{i:03d}" for i in range(60))
SENDS_PER_SECOND = 24
BURSTS = (0.1, 0.55, 0.8)
"""When a campaign starts, as parts of the run; each lasts `BURST` of it, and together they hold half of the sends."""
BURST = 0.08
MEMOS = 0.1
"""The share of sends that are voice memos; one to somebody without a chat yet goes as a text."""


@dataclass(frozen=True)
class Send:
    """One send that is asked for, `at` seconds after the start."""

    at: float
    to: str
    kind: SendKind


def traffic(seconds: float, seed: int) -> list[Send]:
    """The sends of a run, in order. They come in bursts, to some people far more often than to others."""
    dice = random.Random(seed)
    weights = [dice.expovariate(1) + 0.2 for _ in PEOPLE]
    moments = sorted(seconds * _moment(dice) for _ in range(round(SENDS_PER_SECOND * seconds)))
    people = dice.choices(PEOPLE, weights, k=len(moments))
    kinds = dice.choices((SendKind.CHAT, SendKind.VOICE_MEMO), (1 - MEMOS, MEMOS), k=len(moments))
    return [Send(*each) for each in zip(moments, people, kinds, strict=True)]


def _moment(dice: random.Random) -> float:
    """When a send is asked for, as a part of the run."""
    return dice.random() if dice.random() < 0.5 else dice.choice(BURSTS) + BURST * dice.random()


def health_model(seconds: float) -> HealthModel:
    """Lines that wear out within seconds. By this `per_send`, strain is a line's recent rate in sends a second."""
    half_life = seconds / 8
    per_send = 0.693 / half_life
    return HealthModel(
        per_send=per_send,
        per_new_conversation=1.5 * per_send,
        half_life=half_life,
        at_risk=3,
        critical=7,
        flagged=8.5,
        recovery=0.2,
        tick=0.05,
    )


def policy() -> Policy:
    """The default policy, its paces and its rest scaled to lines that live by the second."""
    return Policy(
        healthy=TokenBucket(tokens=8, per=1, burst=4),
        at_risk=TokenBucket(tokens=5.5, per=1, burst=2),
        critical=TokenBucket(tokens=1, per=1, burst=1),
        cool_down=1.0,
    )
