"""A real HTTP server that alerts are sent to, and a process that runs an alerter until it is told to end or killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sendguard import SendGuard
from sendguard.alerts.flows import AlertFlows
from tests.support import wait_until


class Inbox:
    """Takes what apprise's `json://` sends. received: each with its path; statuses: to answer with, 200 once used up.

    hold: requests are kept waiting while it is cleared; arrived: how many came, answered or not.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.arrived = 0
        self.hold = threading.Event()
        self.hold.set()
        inbox, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    inbox.arrived += 1
                    status = inbox.statuses.pop(0) if inbox.statuses else 200
                inbox.hold.wait(30)
                try:
                    self.send_response(status)
                    self.end_headers()
                except OSError:
                    return
                if status == 200:
                    with lock:
                        inbox.received.append({**body, "path": self.path})

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_address[1]

    def url(self, path: str = "alerts", **query: str) -> str:
        """The apprise URL of this inbox."""
        options = "&".join(f"{name}={value}" for name, value in query.items())
        return f"json://127.0.0.1:{self.port}/{path}" + (f"?{options}" if options else "")

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.received]

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


class Process:
    """Another process that runs an alerter. dies_at: it stops for good, and says so, where it begins to "raise" an
    alert, or where it was "told" and not yet marked.
    """

    def __init__(self, store: str, pool: str, urls: list[str], dies_at: str = "", **options: Any) -> None:
        told = json.dumps({"store": store, "pool": pool, "urls": urls, "dies_at": dies_at, "options": options})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.inbox", told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hear("ready")

    def hear(self, word: str) -> None:
        """Wait until it says a word."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """Let it end by itself."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _stop_for_good(word: str) -> Callable[..., Any]:
    def stop(*_: object, **__: object) -> Any:
        print(word, flush=True)
        threading.Event().wait()

    return stop


def main() -> None:
    job = json.loads(sys.argv[1])
    if job["dies_at"]:
        name = {"raise": "_raise", "told": "_told"}[job["dies_at"]]
        setattr(AlertFlows, name, _stop_for_good(job["dies_at"]))
    guard = SendGuard(job["store"], pool=job["pool"], timeout=5)
    with guard.alerter(job["urls"], interval=0.02, **job["options"]):
        print("ready", flush=True)
        sys.stdin.read()
    guard.close()


def settled(count: Callable[[], int], expected: int, still: float = 0.3) -> int:
    """Wait until a count is reached, and see that it is not passed in the next moments."""
    wait_until(lambda: count() >= expected)
    threading.Event().wait(still)
    return count()


if __name__ == "__main__":
    main()
