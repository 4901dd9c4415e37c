"""The sidecar's process: uvicorn, and an end that loses no decision."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import uvicorn

from sendguard.logs import LOGGER, json_formatter, tell
from sendguard.sidecar.app import create_app
from sendguard.sidecar.page.feed import Feed
from sendguard.sidecar.settings import Settings


class _Server(uvicorn.Server):
    """A server that SIGTERM ends with exit code 0, as what an orchestrator asked for; uvicorn's own dies of it."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop listening and drain; a second SIGINT does not wait for that."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._feed.close()  # or who watches the page would be waited for


def _write_logs(settings: Settings) -> None:
    """To standard error: all of sendguard's that the settings ask for, and of others what is INFO and graver."""
    as_text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(json_formatter() if settings.log_format == "json" else as_text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every poll
    LOGGER.setLevel(settings.log_level.upper())


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: then decisions in flight are answered, polling stops, and the store is closed.

    Raises ConfigError if the settings do not make a guard; SystemExit if the address cannot be listened on.
    """
    _write_logs(settings)
    app = create_app(settings)
    for warning in settings.warnings():
        tell(logging.WARNING, "configuration", "%s", warning)
    _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=settings.drain_timeout,
        ),
        app.state.feed,
    ).run()
