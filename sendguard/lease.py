"""What a process may borrow: sends of conversations, which it decides without asking the store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """How much a process borrows at once, and for how long: `SendGuard(..., lease=Lease())`.

    ttl: seconds for which what was lent may be used. An observation (a webhook, pause or poll) is acknowledged so much
    later at the most: a process that borrowed, and cannot be reached, may use what it has until then.
    sends: at most so many sends of a conversation are lent at once, and never more than a quarter of what each bucket
    and quota has left.

    Give every process of a pool the same. Raises ValueError naming the field that is out of range.
    """

    ttl: float = 2.0
    sends: int = 32

    def __post_init__(self) -> None:
        if isinstance(self.ttl, bool) or not isinstance(self.ttl, (int, float)) or not 0.1 <= self.ttl <= 60:
            raise ValueError(f"ttl must be from 0.1 to 60 seconds, not {self.ttl!r}")
        if isinstance(self.sends, bool) or not isinstance(self.sends, int) or not 1 <= self.sends <= 10_000:
            raise ValueError(f"sends must be a whole number from 1 to 10000, not {self.sends!r}")


def check_lease(lease: object) -> Lease | None:
    """`lease`, if it is a `Lease` or None; else ValueError naming it."""
    if lease is not None and not isinstance(lease, Lease):
        raise ValueError("lease must be a sendguard.Lease")
    return lease
