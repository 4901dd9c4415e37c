"""How sending wears a simulated line out, and how rest restores it: pure arithmetic, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

from sendguard.models import Health, LineStatus

_LEVELS = (
    (LineStatus.ACTIVE, Health.HEALTHY),
    (LineStatus.ACTIVE, Health.AT_RISK),
    (LineStatus.ACTIVE, Health.CRITICAL),
    (LineStatus.FLAGGED, Health.CRITICAL),
)


@dataclass(frozen=True, slots=True)
class HealthModel:
    """A simple model of a line's reputation. It is invented for tests and demos; Linq does not publish its own.

    Each line carries *strain*, a number that starts at 0. An accepted send adds `per_send`, one that opens a
    conversation adds `per_new_conversation` instead. Strain halves every `half_life` seconds. A line is AT_RISK once
    its strain reaches `at_risk`, CRITICAL at `critical`, FLAGGED (with health CRITICAL) at `flagged`. To leave a level,
    the strain must fall below `recovery` times that level's threshold (hysteresis), so that a line does not flicker.

    A steady rate of r sends a second settles at a strain of `r * per_send * half_life / 0.693`. With the defaults, ten
    sends a minute settle at 14: such a line never gets worse than AT_RISK. A hundred a minute is FLAGGED in under
    a minute, and then needs about `half_life` seconds of rest to be ACTIVE again.

    The model is evaluated on each send and every `tick` seconds; each change emits `phone_number.status_updated`.
    A `flip` sets the strain to the threshold of the level flipped to.
    """

    per_send: float = 1.0
    per_new_conversation: float = 4.0
    half_life: float = 60.0
    at_risk: float = 20.0
    critical: float = 40.0
    flagged: float = 60.0
    recovery: float = 0.5
    tick: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.at_risk < self.critical < self.flagged:
            raise ValueError("at_risk, critical, flagged: must be positive and rising")
        if not 0 < self.recovery <= 1:
            raise ValueError("recovery: must be above 0 and at most 1")
        if self.half_life <= 0 or self.tick <= 0:
            raise ValueError("half_life, tick: must be above 0 seconds")

    def decayed(self, strain: float, seconds: float) -> float:
        """The strain that is left of `strain` after `seconds` of rest."""
        return strain * float(0.5 ** (max(seconds, 0.0) / self.half_life))

    def threshold(self, status: LineStatus, health: Health) -> float:
        """The strain at which a line enters this state; 0 for a HEALTHY one."""
        return (0.0, self.at_risk, self.critical, self.flagged)[_level(status, health)]

    def judge(self, status: LineStatus, health: Health, strain: float) -> tuple[LineStatus, Health]:
        """The state of a line that was in the given one and has this strain now."""
        thresholds = (0.0, self.at_risk, self.critical, self.flagged)
        before = level = _level(status, health)
        while level < 3 and strain >= thresholds[level + 1]:
            level += 1
        while level > 0 and strain < self.recovery * thresholds[level]:
            level -= 1
        return (status, health) if level == before else _LEVELS[level]


def _level(status: LineStatus, health: Health) -> int:
    if status is LineStatus.FLAGGED:
        return 3
    return (Health.HEALTHY, Health.AT_RISK, Health.CRITICAL).index(health)
