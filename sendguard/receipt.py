"""What an allowed decision took, as the opaque text that a caller keeps until the send is over. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_TEXT = re.compile(
    r"(\+[1-9][0-9]{6,14})\|([0-9]{1,16})\|([01])\|([0-9]{1,16})\|([0-9]{1,16})"
    r"\|([\w-]{16})\|([0-9a-f]{24})\|([\w-]{16})?",
    re.ASCII,
)


receipt_text: Callable[[tuple[str, str, str, str, str, str, str, str]], str] = "|".join
"""The text of a receipt's fields, in the order of `Receipt`."""


class Receipt(NamedTuple):
    """The fields of a receipt, as text.

    at: when it was taken. starts: "1" if the send starts a conversation. tat: the token bucket's, after. cost: of one
    send, in the bucket. conversation, answer: digests; answer is "" where the decision had no idempotency key.
    """

    line: str
    at: str
    starts: str
    tat: str
    cost: str
    conversation: str
    decision_id: str
    answer: str

    def __str__(self) -> str:
        return receipt_text(self)

    @classmethod
    def parse(cls, text: str) -> Receipt | None:
        """The receipt in a text; None for "", which took nothing. Raises ValueError for what no decision gave."""
        if not text:
            return None
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("receipt must be as a decision gave it")
        return cls(*found.groups(default=""))
