"""A file for a secret that is shown once: made sure of before, written whole or not at all, readable by its owner."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class SecretFile:
    """A context manager: on entry the directory is known to be writable, and `keep` puts the file in its place.

    Raises ValueError, naming `--secret-file`, if the path is taken or cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft: str | None = None

    def __enter__(self) -> Self:
        if self._path.exists() or self._path.is_symlink():
            raise ValueError(f"--secret-file {self._path} is there already")
        try:
            handle, self._draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        except OSError as error:
            raise ValueError(f"--secret-file {self._path} cannot be written: {error.strerror}") from None
        os.close(handle)
        return self

    def keep(self, secret: str) -> None:
        """Write the secret, to the disk, and name the file. Raises OSError."""
        assert self._draft is not None
        with open(self._draft, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(self._draft, self._path)  # which, unlike a rename, replaces no file that came meanwhile

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._draft is not None:
            os.unlink(self._draft)
