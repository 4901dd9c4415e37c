"""Alerts: people are told when a line turns FLAGGED, CRITICAL or AT_RISK, and when it recovers."""

from sendguard.alerts.alerter import Alerter, AsyncAlerter
from sendguard.alerts.models import Alert, Audit, Rule, Severity

__all__ = ["Alert", "Alerter", "AsyncAlerter", "Audit", "Rule", "Severity"]
