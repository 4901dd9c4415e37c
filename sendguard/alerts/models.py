"""The plain, frozen data of alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from sendguard.linq.audit import AuditReport
from sendguard.models import Line, Transition


class Severity(str, Enum):
    """How much an alert matters: FLAGGED pages, CRITICAL warns, AT_RISK informs, and recovery closes what was told."""

    PAGE = "page"
    WARNING = "warning"
    INFO = "info"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about alerts of one severity.

    urls: the apprise URLs that are told; None for the alerter's own, and for a recovery those that were told of what
    it ends. quiet: seconds in which the same severity of the same line is not told again; 0 tells every one.

    Raises ValueError naming the field that is wrong.
    """

    urls: Sequence[str] | None = field(default=None, repr=False)
    quiet: float = 900.0

    def __post_init__(self) -> None:
        if self.urls is not None:
            object.__setattr__(self, "urls", check_urls("urls", self.urls))
        if isinstance(self.quiet, bool) or not isinstance(self.quiet, int | float) or not 0 <= self.quiet <= 86_400:
            raise ValueError("quiet must be from 0 to 86400 seconds")


def check_urls(name: str, urls: Sequence[str]) -> tuple[str, ...]:
    """Several URLs as a tuple. Raises ValueError naming the argument."""
    if isinstance(urls, str | bytes) or not isinstance(urls, Sequence) or not all(isinstance(url, str) for url in urls):
        raise ValueError(f"{name} must be a list of apprise URLs")
    return tuple(urls)


@dataclass(frozen=True, slots=True)
class Audit:
    """What came of the reputation audit that an alert asked for.

    report: Linq's; None if there is none to show. report_at: Unix seconds at which it was read; it is from before the
    alert where a new audit could not be had. problem: why there is no new report, in words; None if there is.
    """

    report: AuditReport | None = None
    report_at: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that a person should know of a line.

    alert_id: unique in the pool. number: the line, E.164. title, text: what channels show, plain text. request: to the
    Linq representative, ready to send, "" on recovery; it stands at the end of `text` too. since: Unix seconds at which
    the state that is told began. transition: the change, None on a reminder. line: as it stands now, None if it is no
    longer the pool's. repeats: changes of the same field that the quiet time held back, and that are told with this.
    audit: None where none was asked for. reminder: a line FLAGGED for long with no news. pool: whose line it is.
    """

    alert_id: str
    severity: Severity
    number: str
    title: str
    text: str
    request: str
    since: float
    transition: Transition | None = None
    line: Line | None = None
    repeats: int = 0
    audit: Audit | None = None
    reminder: bool = False
    pool: str = "default"
