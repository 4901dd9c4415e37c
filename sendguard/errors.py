"""The errors that sendguard raises; all derive from `SendGuardError` but for bad arguments, which are `ValueError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sendguard.models import Decision, Reason


class SendGuardError(Exception):
    """The base of every error of this library."""


class SendBlocked(SendGuardError):
    """No line may carry this send now.

    `decision` is the denial, `reason` why, and `retry_after` the seconds after which asking again
    succeeds if nobody else asks (None where waiting cannot help).
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        wait = "" if decision.retry_after is None else f", retry after {decision.retry_after:.3f} s"
        super().__init__(f"send blocked: {decision.reason.value}{wait}")

    def __reduce__(self) -> tuple[type[SendBlocked], tuple[Decision]]:
        return type(self), (self.decision,)

    @property
    def reason(self) -> Reason:
        """Why the send was denied."""
        return self.decision.reason

    @property
    def retry_after(self) -> float | None:
        """Seconds after which asking again succeeds; None where waiting cannot help."""
        return self.decision.retry_after


class StoreUnavailable(SendGuardError):
    """The store did not answer within the guard's timeout, or answered with an error."""


class UnknownLine(SendGuardError):
    """The pool has no such line; `number` is the one that was asked for."""

    def __init__(self, number: str) -> None:
        self.number = number
        super().__init__(f"the pool has no line {number}")


class UnknownDecision(SendGuardError):
    """The record has no decision of this id: never made, not recorded, or older than the newest 10,000."""

    def __init__(self, decision_id: str) -> None:
        self.decision_id = decision_id
        super().__init__(f"the record has no decision {decision_id}")


class WebhookRejected(SendGuardError):
    """A webhook that is not authentic or not readable. `reason` is safe to log and to send back.

    `authentic` is True where the signature was good, and only what it signed could not be read.
    """

    def __init__(self, reason: str, *, authentic: bool = False) -> None:
        self.reason = reason
        self.authentic = authentic
        super().__init__(f"webhook rejected: {reason}")


class LinqError(SendGuardError):
    """The Linq API refused a call of the guard's own, or could not be reached.

    `status` is the HTTP status and `code` Linq's error code (FACTS: 2004 invalid key, 1007 rate limit, ...);
    either is None where there was no such answer. `retry_after` is the seconds that the answer asked to wait, or None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: int | None = None, retry_after: float | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)
