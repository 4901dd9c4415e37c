"""Signed webhooks, and how many a second are taken in."""

from __future__ import annotations

import copy
import json
import multiprocessing
import time
import uuid
from collections.abc import Iterator
from typing import Any

from benchmarks.setup import add_lines, guard_options, line, recipient
from sendguard import SendGuard
from tests.support import SECRET, iso, payload, standard_headers

POOL, LINES = "webhooks", 100
Delivery = tuple[bytes, dict[str, str]]


def guard_with_secret(url: str, pool: str, **more: Any) -> SendGuard:
    """A guard that takes the deliveries made here."""
    return SendGuard(url, pool=pool, webhook_secret=SECRET, **{**guard_options(), **more})


def delivery(content: Any, number: str, at: float) -> Delivery:
    """A payload as it is delivered: body and headers. It is changed to be a new event that is about a line.

    at: Unix seconds of the event.
    """
    content = copy.deepcopy(content)
    content.update(event_id=str(uuid.uuid4()), created_at=iso(at))
    content["data"]["phone_number"] = number
    body = json.dumps(content).encode()
    return body, standard_headers(body, time.time(), message_id=content["event_id"])


def status(number: str, new: str, at: float) -> Delivery:
    """A line's new status."""
    content = payload("status_updated.status_only")
    content["data"].update(new_status=new, changed_at=iso(at))
    return delivery(content, number, at)
