"""A guard's flows, made from the arguments of its constructor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sendguard.flows import Flows
from sendguard.lease import Lease, check_lease
from sendguard.policy import Policy
from sendguard.protocol import Protocol
from sendguard.watch import check_metrics, watch_of

if TYPE_CHECKING:
    from sendguard.metrics import Metrics


def new_guard_parts(
    pool: str,
    policy: Policy | None,
    hash_key: str | bytes | None,
    webhook_secret: str | Sequence[str] | None,
    clock: Callable[[], float] | None,
    timeout: float,
    refresh: float | None,
    record_decisions: bool = True,
    metrics: Metrics | None = None,
    lease: Lease | None = None,
) -> Flows:
    """The flows of a guard from the arguments of its constructor. Raises ValueError naming the one that is wrong."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 60:
        raise ValueError("timeout must be above 0 and at most 60 seconds")
    if refresh is not None and (
        isinstance(refresh, bool) or not isinstance(refresh, (int, float)) or not 0.05 <= refresh <= 60
    ):
        raise ValueError("refresh must be from 0.05 to 60 seconds, or None")
    if not isinstance(policy, (Policy, type(None))):
        raise ValueError("policy must be a Policy")
    if not isinstance(webhook_secret, str | list | tuple | None):
        raise ValueError("webhook_secret must be a secret or several, newest first")
    if not isinstance(hash_key, str | bytes | None) or hash_key in ("", b""):
        raise ValueError("hash_key must be text or bytes, and not empty")
    secrets = (webhook_secret,) if isinstance(webhook_secret, str) else tuple(webhook_secret or ())
    if not all(isinstance(secret, str) and secret for secret in secrets):
        raise ValueError("webhook_secret must be a secret or several, newest first")
    if not isinstance(record_decisions, bool):
        raise ValueError("record_decisions must be True or False")
    protocol = Protocol(pool, policy or Policy(), hash_key, record=record_decisions, lease=check_lease(lease))
    watch = watch_of(pool, check_metrics(metrics))
    return Flows(protocol, secrets, clock, refresh, watch, lease, record_decisions)
