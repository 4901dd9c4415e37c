"""sendguard stands between sending code and the Linq messaging API, and tells for each send which line may carry it."""

from sendguard.async_guard import AsyncSendGuard
from sendguard.errors import (
    LinqError,
    SendBlocked,
    SendGuardError,
    StoreUnavailable,
    UnknownDecision,
    UnknownLine,
    WebhookRejected,
)
from sendguard.guard import SendGuard
from sendguard.lease import Lease
from sendguard.middleware.transport import AsyncSendGuardTransport, SendGuardTransport
from sendguard.models import (
    Change,
    Considered,
    Decision,
    DecisionRecord,
    Explanation,
    Health,
    Line,
    LineStatus,
    Outcome,
    Reason,
    SendKind,
    Transition,
)
from sendguard.policy import Policy, Quota, TokenBucket

__all__ = [
    "AsyncSendGuard",
    "AsyncSendGuardTransport",
    "Change",
    "Considered",
    "Decision",
    "DecisionRecord",
    "Explanation",
    "Health",
    "Lease",
    "Line",
    "LineStatus",
    "LinqError",
    "Outcome",
    "Policy",
    "Quota",
    "Reason",
    "SendBlocked",
    "SendGuard",
    "SendGuardError",
    "SendGuardTransport",
    "SendKind",
    "StoreUnavailable",
    "TokenBucket",
    "Transition",
    "UnknownDecision",
    "UnknownLine",
    "WebhookRejected",
]
