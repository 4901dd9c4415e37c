"""The sidecar's process: uvicorn, and an end that loses no decision."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import uvicorn

from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import Settings

logger = logging.getLogger("sendguard")


class _Server(uvicorn.Server):
    """A server that SIGTERM ends with exit code 0, as what an orchestrator asked for; uvicorn's own dies of it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop listening and drain; a second SIGINT does not wait for that."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: then decisions in flight are answered, polling stops, and the store is closed.

    Raises ConfigError if the settings do not make a guard; SystemExit if the address cannot be listened on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every poll
    app = create_app(settings)
    for warning in settings.warnings():
        logger.warning("%s", warning)
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
        )
    ).run()
