"""The command `sendguard`; needs the extra `sendguard[cli]`, and `serve` the extra `sendguard[sidecar]`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Its exit codes are those of `sendguard.cli.session.Code`."""
    try:
        from sendguard.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("sendguard"):
            raise
        extra = "sidecar" if sys.argv[1:2] == ["serve"] else "cli"
        print(f"sendguard: the command needs more packages: pip install 'sendguard[{extra}]'", file=sys.stderr)
        raise SystemExit(2) from None
    app()
