"""Rows by key, and which of them changed since a version: what a watcher lacks is asked for, never queued. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

_GONE = "null"


def as_json(value: Any) -> str:
    """A value as JSON in one line, without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class Sheet:
    """Rows as JSON, each with the version that last changed it."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, str]] = {}

    def put(self, key: str, row: Any, version: int) -> None:
        """Set a row; one that stays as it is does not count as changed."""
        text = as_json(row)
        if self._rows.get(key, (0, ""))[1] != text:
            self._rows[key] = (version, text)

    def take_away(self, keys: Iterable[str], version: int) -> None:
        """Mark rows as gone, for watchers who have them."""
        for key in keys:
            self._rows[key] = (version, _GONE)

    def keep(self, keys: Collection[str]) -> None:
        """Forget every other row, without a word to watchers."""
        self._rows = {key: row for key, row in self._rows.items() if key in keys}

    def since(self, version: int) -> str:
        """The rows that changed after a version, as a JSON object; null: gone. 0: all that there are."""
        rows = (
            f"{as_json(key)}:{text}"
            for key, (changed, text) in self._rows.items()
            if changed > version and (version or text != _GONE)
        )
        return "{" + ",".join(rows) + "}"
