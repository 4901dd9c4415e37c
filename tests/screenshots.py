"""Makes the pictures of docs/page.md from the real page: `pip install pillow`, then `python -m tests.screenshots`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import redis
from PIL import Image

from sendguard import SendGuard
from sendguard.sidecar.app import create_app
from sendguard.sidecar.settings import Settings
from tests import scene
from tests.browser import Browser, chromium
from tests.servers import Server, valkey_binary
from tests.serving import Served, serving

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def _a_bad_day(guard: SendGuard, store: str) -> None:
    scene.add_lines(guard, 14)
    scene.send(guard, recipients=300, sends=1900)
    scene.trouble(guard)
    scene.send(guard, recipients=300, sends=300)
    guard.observe(scene.number(104), status="FLAGGED", source="webhook")
    scene.send(guard, recipients=300, sends=200)
    with redis.Redis.from_url(store) as client:
        scene.spread_over_the_hour(client, guard.pool)
    scene.send(guard, recipients=300, sends=24)
    guard.pause(scene.number(111), until=time.time() + 3600)
    guard.pause(scene.number(112))


def _shot(browser: Browser, url: str, name: str, lines: int, then: Callable[[], object] = lambda: None) -> None:
    browser.driver.get(url)
    browser.until(lambda: len(browser.driver.find_elements("css selector", "#rows tr")) == lines)
    browser.until(lambda: browser.text("#state-text") == "Live")
    then()
    _small(browser.driver.get_screenshot_as_png()).save(IMAGES / name, optimize=True)


def _small(png: bytes) -> Image.Image:
    """With a palette, which such flat pictures lose nothing by."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    return picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)


def _serve(store: str, pool: str) -> AbstractContextManager[Served]:
    return serving(create_app(Settings(store=store, pool=pool, poll_interval=0, timeout=5.0)))


def _everyday(browser: Browser, store: str) -> None:
    with SendGuard(store, pool="production", timeout=5.0) as guard:
        _a_bad_day(guard, store)
    with _serve(store, "production") as served:
        browser.size(1360, 1060)
        browser.colours("light")
        _shot(browser, served.url, "page-light.png", 14)
        browser.colours("dark")
        _shot(browser, served.url, "page-dark.png", 14)
        browser.colours("light")
        browser.size(1360, 760)
        _shot(
            browser, served.url, "page-pause.png", 14, lambda: browser.js("document.querySelector('tr button').click()")
        )
        browser.size(390, 1400)
        _shot(browser, served.url, "page-narrow.png", 14)


def _many(browser: Browser, store: str) -> None:
    with SendGuard(store, pool="thousand", timeout=5.0) as guard:
        scene.add_lines(guard, 1000)
        scene.trouble(guard)
        scene.send(guard, recipients=4000, sends=5000)
        with redis.Redis.from_url(store) as client:
            scene.spread_over_the_hour(client, guard.pool)
    with _serve(store, "thousand") as served:
        browser.size(1360, 1060)
        _shot(browser, served.url, "page-1000-lines.png", 1000)


def main() -> None:
    """Write every picture anew."""
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as browser:
        server = Server(valkey_binary(), Path(folder))
        try:
            _everyday(browser, server.url)
            _many(browser, server.url)
        finally:
            browser.driver.get("about:blank")
            server.stop()


if __name__ == "__main__":
    main()
