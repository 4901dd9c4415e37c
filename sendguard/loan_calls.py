"""The store's language for loans: what goes back to it, and what it calls back. Pure, as `protocol` for the rest."""

from __future__ import annotations

from collections.abc import Iterable

from sendguard.loans import Returned, Sent
from sendguard.models import Reason
from sendguard.protocol import LINE_TYPES, Protocol
from sendguard.store import scripts
from sendguard.store.scripts import Call, Command
from sendguard.store.units import micros


class LoanCalls:
    """The calls about the loans of one pool."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol, self._revocations = protocol, protocol.key("revocations")

    def give_back(self, process: str, returned: Returned, now: float | None) -> Call:
        """What a process was lent and has not used, and what it decided by itself."""
        lines = [text for number, turn in returned.lines for text in (number, str(turn))]
        loans = [
            text
            for loan in returned.loans
            for text in (loan.line, str(loan.lent), str(loan.tokens), str(loan.left), loan.until)
        ]
        counts = (process, str(len(returned.lines)), str(len(returned.loans)))
        recipients = (self._protocol.key(f"r:{loan.conversation}") for loan in returned.loans)
        keys = (self._protocol.key("decisions"), *recipients)
        args = (*counts, *lines, *loans, *map(_record_of, returned.sent))
        return self._protocol._call(scripts.GIVE_BACK, now, keys, args, repeatable=False)

    def pending(self, numbers: Iterable[str], now: float | None) -> Call:
        """Ask whether anything that was called back of some lines has not been given back."""
        return self._protocol._call(scripts.PENDING, now, (), tuple(numbers))

    def last_revocation(self) -> Command:
        """Ask for the newest entry that calls something back."""
        return Command(("XREVRANGE", self._revocations, "+", "-", "COUNT", "1"))

    def revocations(self, after: str, seconds: float) -> Command:
        """Ask for the entries after one that call something back, and wait some seconds for the first."""
        wait = str(max(1, round(seconds * 1000)))
        return Command(("XREAD", "BLOCK", wait, "STREAMS", self._revocations, after), blocks=seconds)


def _record_of(sent: Sent) -> str:
    """A send that a process decided by itself, as `decide` records those that it decides."""
    request, loan, seconds = sent
    reason = Reason.STICKY if request.from_number is None else Reason.REQUESTED
    told = f"1|{loan.line}|{reason.value}|0|ACTIVE|{loan.health.value}|0||{request.decision_id}"
    asked = f"{request.place or request.kind.value}|{LINE_TYPES[request.line_type]}|{loan.conversation}|lent"
    return f"{told}|{asked}|{loan.lent_at + micros(seconds)}|{loan.line},,0"
