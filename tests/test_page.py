"""The page in a real headless Chromium, over the real sidecar and a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from sendguard import SendGuard
from sendguard.linq.events import LineUpdate
from sendguard.sidecar.app import create_app
from sendguard.sidecar.page.feed import Feed
from sendguard.sidecar.settings import Settings
from tests import scene
from tests.browser import Browser, chromium
from tests.servers import Server, valkey_binary
from tests.serving import Served, serving
from tests.support import SECRET, iso, payload, standard_headers, wait_until

LINE, OTHER, THIRD = (scene.number(100 + i) for i in range(3))
AXE = files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")


class Open:
    """The page of one sidecar, open in the browser."""

    def __init__(self, browser: Browser, served: Served, feed: Feed) -> None:
        self.browser, self.url, self.feed = browser, served.url, feed

    def load(self) -> Open:
        self.browser.driver.get(self.url)
        return self

    def row(self, number: str) -> str:
        """What a line's row says."""
        script = (
            "return [...document.querySelectorAll('#rows tr')].find(r => r.innerText.includes(arguments[0]))?.innerText"
        )
        return str(self.browser.js(script, number) or "")

    def numbers(self) -> list[str]:
        """The lines that are shown, in their order."""
        script = "return [...document.querySelectorAll('#rows tr')].filter(r => !r.hidden)"
        found: list[str] = self.browser.js(f"{script}.map(r => r.querySelector('.number').textContent)")
        return found

    def live(self, lines: int) -> Open:
        """Wait until it shows so many lines."""
        self.browser.until(lambda: self.state() == "Live" and len(self.numbers()) == lines)
        return self

    def state(self) -> str:
        return self.browser.text("#state-text")

    def focused(self) -> str:
        """The name of what has the focus."""
        script = "const e = document.activeElement; return e.getAttribute('aria-label') || e.id || e.innerText"
        return str(self.browser.js(script))


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    """The module's browser as new: wide, light, with nothing stored. It must have found nothing to complain of."""
    chrome.size(1360, 900)
    chrome.colours("light")
    yield chrome
    complaints = [entry for entry in chrome.driver.get_log("browser") if "favicon" not in entry["message"]]
    chrome.js("try { sessionStorage.clear() } catch {}")
    chrome.driver.get("about:blank")
    serious = [entry["message"] for entry in complaints if entry["source"] not in ("network",)]
    assert not serious


@pytest.fixture
def guard(valkey: Server, pool: str) -> Iterator[SendGuard]:
    """Another process's guard, as far as the sidecar knows."""
    with SendGuard(valkey.url, pool=pool, timeout=5.0) as guard:
        yield guard


@pytest.fixture
def serve(browser: Browser, valkey: Server, pool: str) -> Iterator[Callable[..., Open]]:
    """Starts a sidecar."""
    with ExitStack() as stack:

        def serve(port: int = 0, **options: Any) -> Open:
            fields = {"store": valkey.url, "pool": pool, "timeout": 5.0, "webhook_secret": [SECRET], "poll_interval": 0}
            app = create_app(Settings(**{**fields, **options}))
            return Open(browser, stack.enter_context(serving(app, port)), app.state.feed)

        yield serve


@pytest.fixture
def page(serve: Callable[..., Open], guard: SendGuard) -> Open:
    """The page over three lines that are well."""
    scene.add_lines(guard, 3)
    return serve().load().live(3)


def press(page: Open, *keys: str) -> None:
    ActionChains(page.browser.driver).send_keys(*keys).perform()


def flag_by_webhook(url: str, number: str) -> None:
    event = payload("status_updated.status_only")
    event["event_id"] = f"event-{number}-{time.time()}"
    event["data"] |= {"phone_number": number, "previous_status": "ACTIVE", "new_status": "FLAGGED"}
    event["data"]["changed_at"] = iso(time.time())
    body = json.dumps(event).encode()
    answer = httpx.post(f"{url}/webhooks/linq", content=body, headers=standard_headers(body, time.time()))
    assert answer.status_code == 200


# What it shows -------------------------------------------------------------------------------------------------------


def test_a_webhook_flags_a_line_and_its_row_changes_without_a_reload(page: Open) -> None:
    browser = page.browser
    assert page.numbers() == [LINE, OTHER, THIRD]
    browser.js("window.mark = [...document.querySelectorAll('#rows tr')][2]")
    flag_by_webhook(page.url, THIRD)
    browser.until(lambda: "FLAGGED" in page.row(THIRD))
    assert page.numbers() == [THIRD, LINE, OTHER]
    assert browser.js("return window.mark === document.querySelector('#rows tr')")
    assert "not while FLAGGED" in page.row(THIRD)
    assert browser.text("#transitions li").split() == [
        *(browser.text("#transitions time"), THIRD, "status", "ACTIVE", "→", "FLAGGED", "webhook"),
    ]
    assert browser.text("#news") == f"{THIRD} turned FLAGGED"
    assert browser.driver.title.startswith("1 FLAGGED, ")
    assert browser.text("#counts [data-value=FLAGGED] dd") == "1"


def test_a_row_tells_pace_quota_and_when_the_line_may_send_next(
    serve: Callable[..., Open], guard: SendGuard, browser: Browser
) -> None:
    guard.observe(LINE, status="ACTIVE", health="AT_RISK")
    guard.observe(OTHER, status="ACTIVE", health="HEALTHY")
    policy = {
        "at_risk": {"tokens": 1, "per": 30, "burst": 2},
        "daily_volume": {"limit": 8, "per": 86400},
        "new_conversations": "none",
    }
    page = serve(policy=policy).load().live(2)
    asked = {"to": "+14155550123", "from_number": LINE}
    assert "2 of 2 tokens left" in page.row(LINE)
    assert "unpaced" in page.row(OTHER)
    for _ in range(2):
        assert httpx.post(f"{page.url}/v1/choose-from-number", json=asked).status_code == 200
    browser.until(lambda: "0 of 2 tokens left" in page.row(LINE))
    row = page.row(LINE)
    assert "1 per 30 s, 2 allowed in 60 s" in row
    assert "2 of 8" in row
    assert "no limit" in row
    counted_down: set[str] = set()
    cell = "#rows [data-head='Next send']"
    browser.until(lambda: counted_down.add(browser.text(cell)) or len(counted_down) >= 3)
    assert all(re.fullmatch(r"in [0-9]{1,2} s", text) for text in counted_down)


def test_the_hour_is_drawn_and_told_as_a_table(serve: Callable[..., Open], guard: SendGuard, valkey: Server) -> None:
    scene.add_lines(guard, 4)
    scene.send(guard, recipients=40, sends=60)
    guard.observe(LINE, health="CRITICAL")
    guard.observe(OTHER, status="FLAGGED")
    scene.send(guard, recipients=40, sends=140)
    counts = {"allowed": 0, "failed over": 0, "throttled": 0, "denied": 0}
    for record in guard.decisions():
        name = "failed over" if record.reason == "failover" else "allowed" if record.allowed else "throttled"
        counts[name] += 1
    assert min(counts["allowed"], counts["failed over"], counts["throttled"]) > 3
    page = serve().load().live(4)
    browser = page.browser
    legend = browser.text("#legend").split("\n")
    assert legend == [f"{name} {count}" for name, count in counts.items()]
    label = browser.one("#chart svg").get_attribute("aria-label") or ""
    assert label.endswith(", ".join(f"{count} {name}" for name, count in counts.items()) + ".")
    assert len(browser.driver.find_elements("css selector", "#chart rect[data-kind]")) in (3, 4, 5, 6)
    browser.one("#minutes summary").click()
    cells = browser.js("return [...document.querySelectorAll('#minutes-rows tr')].map(r => r.innerText.split('\\t'))")
    assert len(cells) == 60
    totals = [sum(int(row[i]) for row in cells) for i in range(1, 5)]
    assert totals == list(counts.values())
    began = time.localtime(guard.decisions()[0].decided_at)
    since = f"Since {time.strftime('%H:%M', began)}: the record of decisions reaches back no further."
    assert browser.text("#coverage") == since
    with redis.Redis.from_url(valkey.url) as client:
        scene.spread_over_the_hour(client, guard.pool)
        client.xtrim(f"sendguard:{{{guard.pool}}}:decisions", maxlen=60, approximate=False)
    page.load().live(4)
    assert sum(int(text.split()[-1]) for text in browser.text("#legend").split("\n")) == 60
    assert browser.text("#coverage") != since


def test_text_from_elsewhere_stays_text(serve: Callable[..., Open], guard: SendGuard) -> None:
    markup = "<IMG SRC=X ONERROR=DOCUMENT.TITLE=1>"
    update = LineUpdate(LINE, time.time(), status=markup, health=markup, line_type=markup, assigned=True)
    flows = guard._flows
    guard._drive(flows.run(flows.protocol.observe([update], source="<b onclick=x>poll</b>", now=None)))
    page = serve().load().live(1)
    browser = page.browser
    assert page.row(LINE).count(markup) == 3
    assert "<b onclick=x>poll</b>" in browser.text("#transitions")
    assert f"status {markup}" in browser.text("#transitions").replace("\n", " ")
    assert not browser.driver.find_elements("css selector", "main img, [onclick]")


def test_observe_mode_is_said(serve: Callable[..., Open], guard: SendGuard) -> None:
    scene.add_lines(guard, 1)
    page = serve(policy={"mode": "observe"}).load().live(1)
    assert page.browser.text("#mode") == "observe mode: nothing is blocked"


def test_a_pool_without_lines_says_so(serve: Callable[..., Open]) -> None:
    page = serve().load().live(0)
    assert page.browser.text("#none") == "The pool has no line yet."
    assert page.browser.text("#no-transitions") == "None recorded yet."


# Pause and resume ----------------------------------------------------------------------------------------------------


def test_pause_and_resume_by_keyboard_alone(page: Open, guard: SendGuard) -> None:
    browser = page.browser
    press(page, Keys.TAB)
    assert page.focused() == "Skip to the lines"
    press(page, Keys.ENTER)
    assert page.focused() == "lines"
    for name in ("find", "by-status", "by-health", f"Pause {LINE}", f"Pause {OTHER}"):
        press(page, Keys.TAB)
        assert page.focused() == name
    press(page, Keys.ENTER)
    assert browser.one("#dialog").is_displayed()
    assert browser.text("#dialog-title") == f"Pause {OTHER}?"
    assert page.focused() == "dialog-cancel"
    press(page, Keys.ESCAPE)
    browser.until(lambda: not browser.one("#dialog").is_displayed())
    assert page.focused() == f"Pause {OTHER}"
    assert not any(line.paused for line in guard.lines())
    press(page, Keys.ENTER, Keys.TAB)
    assert page.focused() == "dialog-confirm"
    press(page, Keys.ENTER)
    browser.until(lambda: page.focused() == f"Resume {OTHER}")
    assert [line.number for line in guard.lines() if line.paused] == [OTHER]
    assert "when resumed" in page.row(OTHER)
    assert page.numbers()[0] == OTHER
    press(page, Keys.SPACE, Keys.TAB, Keys.ENTER)
    browser.until(lambda: page.focused() == f"Pause {OTHER}")
    assert not any(line.paused for line in guard.lines())
    assert browser.text("#news") == f"{OTHER} is resumed"


def test_a_pause_for_a_while(page: Open, guard: SendGuard) -> None:
    browser = page.browser
    browser.one("#rows button").click()
    browser.one("#dialog-span").send_keys("4 h")
    browser.one("#dialog-confirm").click()
    browser.until(lambda: "paused until" in page.row(LINE))
    until = guard.lines()[0].paused_until
    assert until is not None
    assert 4 * 3600 - 30 < until - time.time() <= 4 * 3600 + 1
    browser.until(lambda: "paused until" in browser.text("#transitions"))


def test_what_did_not_work_is_said_and_the_dialog_stays(page: Open) -> None:
    browser = page.browser
    browser.js("window.fetch = async () => { throw new TypeError() }")
    browser.one("#rows button").click()
    browser.one("#dialog-confirm").click()
    browser.until(lambda: "does not answer" in browser.text("#dialog-error"))
    assert browser.one("#dialog-confirm").is_enabled()
    browser.js('window.fetch = async () => new Response(\'{"detail": "the store is out of reach"}\', {status: 503})')
    browser.one("#dialog-confirm").click()
    browser.until(lambda: browser.text("#dialog-error") == "It did not work: the store is out of reach.")


def test_law_10_another_site_pauses_nothing_from_a_browser(page: Open, guard: SendGuard) -> None:
    """A form post needs no leave of the sidecar's, so the browser sends it; the sidecar refuses."""
    attack = Starlette(routes=[Route("/", lambda _: HTMLResponse("<title>elsewhere</title>"))])
    with Served(attack) as elsewhere:
        page.browser.driver.get(elsewhere.url)
        script = """
            const [url, done] = arguments;
            fetch(url, {method: 'POST', mode: 'no-cors'}).then(r => done(r.type), e => done(String(e)))
        """
        sent = page.browser.driver.execute_async_script(script, f"{page.url}/v1/lines/{LINE}/pause")
        assert sent == "opaque"
        page.browser.driver.get("about:blank")
    assert not any(line.paused for line in guard.lines())


# Fresh or not --------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_cut_says_so_and_comes_back(
    browser: Browser, valkey: Server, pool: str, guard: SendGuard
) -> None:
    scene.add_lines(guard, 2)
    settings = Settings(store=valkey.url, pool=pool, timeout=5.0, poll_interval=0)
    app = create_app(settings)
    with serving(app) as served:
        page = Open(browser, served, app.state.feed).load().live(2)
        browser.js("window.mark = true")
        # It would try again by itself, too: not now, so that it is the button that does.
        browser.js("const later = setTimeout; window.setTimeout = (f, ms) => later(f, ms < 15000 ? 600000 : ms)")
    browser.until(lambda: page.state() == "Cut off")
    assert "The connection to the sidecar is cut. What stands here is of " in browser.text("#banner-text")
    assert LINE in page.row(LINE)
    browser.until(lambda: "Trying again in" in browser.text("#banner-wait"))
    guard.observe(OTHER, status="FLAGGED")
    again = create_app(settings)
    with serving(again, int(page.url.rpartition(":")[2])):
        browser.one("#retry").click()
        page.live(2)
        assert "FLAGGED" in page.row(OTHER)
        assert not browser.one("#banner").is_displayed()
        assert browser.js("return window.mark")


def test_it_comes_back_by_itself(page: Open) -> None:
    page.browser.js(
        "window.stateSeen = []; new MutationObserver(() => window.stateSeen.push("
        "document.querySelector('#state-text').textContent)).observe("
        "document.querySelector('#state-text'), {childList: true})"
    )
    page.feed.close()
    wait_until(lambda: page.feed.watchers == 0)
    page.feed._closed = False  # as another process would be, after a restart
    page.browser.until(lambda: page.browser.js("return window.stateSeen") == ["Cut off", "Live"])


def test_a_store_out_of_reach_is_told(browser: Browser, serve: Callable[..., Open], tmp_path: Path) -> None:
    store = Server(valkey_binary(), tmp_path)
    try:
        with SendGuard(store.url, pool="p", timeout=5.0) as guard:
            scene.add_lines(guard, 2)
        page = serve(store=store.url, pool="p", timeout=0.25).load().live(2)
        os.kill(store.process.pid, signal.SIGSTOP)
        browser.until(lambda: page.state() == "Store out of reach")
        assert browser.text("#banner-text").startswith(
            "The store is out of reach: every send is denied. What stands here"
        )
        browser.one("#rows button").click()
        browser.one("#dialog-confirm").click()
        browser.until(lambda: browser.text("#dialog-error") == "It did not work: the store is out of reach.")
        os.kill(store.process.pid, signal.SIGCONT)
        page.live(2)
        assert not browser.one("#banner").is_displayed()
    finally:
        store.stop()
        browser.driver.get("about:blank")


def test_what_grows_old_is_told(page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream stands, but its reader does not read; the browser's clock is put ahead instead of waiting for it."""

    async def nothing(_: Feed) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(Feed, "_read", nothing)
    version = page.feed._view.version
    wait_until(lambda: page.feed._view.version > version + 1)
    page.browser.js("const real = performance.now.bind(performance); performance.now = () => real() + 60000")
    page.browser.until(lambda: page.state() == "Out of date")
    assert "Nothing new was read for a while." in page.browser.text("#banner-text")
    monkeypatch.undo()
    page.browser.until(lambda: page.state() == "Live")


def test_the_age_of_the_poll_is_told(serve: Callable[..., Open], guard: SendGuard, valkey: Server) -> None:
    scene.add_lines(guard, 1)
    page = serve().load().live(1)
    assert page.browser.text("#polled") == "never polled"
    polled = int((time.time() - 40) * 1_000_000)
    with redis.Redis.from_url(valkey.url) as client:
        client.hset(f"sendguard:{{{guard.pool}}}:meta", "polled_at", polled)
    page.browser.until(lambda: page.browser.text("#polled").startswith("polled 4"))


# The token -----------------------------------------------------------------------------------------------------------


def test_the_token_is_asked_for_once_and_stands_in_no_url(
    serve: Callable[..., Open], guard: SendGuard, browser: Browser
) -> None:
    scene.add_lines(guard, 2)
    page = serve(tokens=["good-token"]).load()
    browser.until(lambda: page.state() == "Token needed")
    assert page.focused() == "token"
    assert not browser.one("#content").is_displayed()
    press(page, "bad-token", Keys.ENTER)
    browser.until(lambda: browser.text("#ask-error") == "That token is not good.")
    assert browser.js("return sessionStorage.length") == 0
    press(page, "good-token", Keys.ENTER)
    page.live(2)
    assert not browser.one("#ask").is_displayed()
    page.load().live(2)
    browser.one("#rows button").click()
    browser.one("#dialog-confirm").click()
    browser.until(lambda: "Resume" in page.row(LINE))
    assert guard.lines()[0].paused
    urls = browser.js("return [location.href, ...performance.getEntries().map(e => e.name)]")
    assert not [url for url in urls if "token" in url]
    assert browser.js("return [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    browser.one("#forget").click()
    browser.until(lambda: page.state() == "Token needed")
    assert browser.js("return sessionStorage.length") == 0
    assert LINE not in browser.driver.page_source


# Many lines ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thousand(valkey: Server) -> Iterator[SendGuard]:
    """A pool of 1,000 lines."""
    with SendGuard(valkey.url, pool=f"page-thousand-{os.getpid()}", timeout=5.0) as guard:
        scene.add_lines(guard, 1000)
        scene.trouble(guard)
        yield guard


WORST = [scene.number(100 + i) for i in scene.PLIGHTS]


def test_a_thousand_lines_stand_worst_first(serve: Callable[..., Open], thousand: SendGuard) -> None:
    page = serve(pool=thousand.pool).load().live(1000)
    assert page.numbers()[:4] == WORST
    assert page.browser.text("#shown") == "1,000 lines"
    assert page.browser.text("#counts [data-value=lines] dd") == "1,000"


def test_a_change_among_a_thousand_touches_that_row_and_keeps_focus_and_place(
    serve: Callable[..., Open], thousand: SendGuard, browser: Browser
) -> None:
    page = serve(pool=thousand.pool).load().live(1000)
    far, here = scene.number(1050), scene.number(600)
    browser.js(
        """
        const button = document.querySelector(`[aria-label="Pause ${arguments[0]}"]`);
        button.scrollIntoView({block: 'center'});
        button.focus();
        window.touched = new Set();
        const row = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest('#rows tr');
        new MutationObserver((all) => all.forEach(({target, addedNodes}) =>
            [target, ...addedNodes].map(row).filter(Boolean).forEach((r) => touched.add(r.innerText.split('\\n')[0]))
        )).observe(document.querySelector('#rows'), {
            subtree: true, childList: true, attributes: true, characterData: true
        });
        """,
        here,
    )
    top = "return document.querySelector(`[aria-label$='${arguments[0]}']`).getBoundingClientRect().top"
    before = browser.js(top, here)
    try:
        thousand.observe(far, status="FLAGGED")
        browser.until(lambda: "FLAGGED" in page.row(far))
        assert page.focused() == f"Pause {here}"
        assert abs(browser.js(top, here) - before) < 2  # another row left for the top of the table
        thousand.observe(here, health="CRITICAL")
        browser.until(lambda: "CRITICAL" in page.row(here))
        assert page.focused() == f"Pause {here}"
        assert set(page.numbers()[:6]) == {*WORST[:2], far, here, *WORST[2:]}
        touched = {text.split()[0] for text in browser.js("return [...touched]")}
        assert touched == {far, here}
    finally:
        thousand.observe(far, status="ACTIVE")
        thousand.observe(here, health="HEALTHY")


def test_the_filter_narrows_by_text_status_and_health(serve: Callable[..., Open], thousand: SendGuard) -> None:
    page = serve(pool=thousand.pool).load().live(1000)
    browser = page.browser

    def shows(*numbers: str) -> None:
        browser.until(lambda: page.numbers() == list(numbers))
        wanted = "1,000 lines" if len(numbers) == 1000 else f"{len(numbers)} of 1,000 lines"
        assert browser.text("#shown") == wanted

    find = browser.one("#find")
    find.send_keys("5551099")
    shows(scene.number(1099))
    find.clear()
    find.send_keys("nothing like it")
    shows()
    assert browser.text("#none") == "No line matches."
    find.clear()
    find.send_keys("at_risk", Keys.ENTER)
    shows(*WORST[2:])
    assert page.state() == "Live"  # Enter sent the form nowhere
    find.clear()
    browser.one("#by-status").send_keys("FLAGGED")
    shows(WORST[0])
    browser.one("#by-health").send_keys("AT_RISK")
    shows()
    browser.one("#by-status").send_keys("all")
    shows(*WORST[2:])
    browser.one("#by-health").send_keys("all")
    page.live(1000)


def test_what_is_filtered_out_stays_out_when_it_changes(page: Open, guard: SendGuard) -> None:
    page.browser.one("#by-status").send_keys("FLAGGED")
    page.browser.until(lambda: page.numbers() == [])
    guard.observe(OTHER, status="FLAGGED")
    page.browser.until(lambda: page.numbers() == [OTHER])
    guard.observe(OTHER, status="ACTIVE")
    page.browser.until(lambda: page.numbers() == [])


# For everybody -------------------------------------------------------------------------------------------------------


def findings(browser: Browser) -> list[str]:
    """What axe-core finds wrong, each in a line."""
    browser.js(AXE)
    script = """
        const done = arguments[0];
        axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.flatMap(v =>
            v.nodes.map(n => `${v.id}: ${n.target} ${n.failureSummary}`))))
    """
    found: list[str] = browser.driver.execute_async_script(script)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(serve: Callable[..., Open], guard: SendGuard, browser: Browser, scheme: str) -> None:
    scene.add_lines(guard, 12)
    scene.send(guard, recipients=30, sends=60)
    scene.trouble(guard)
    guard.pause(scene.number(110))
    guard.pause(scene.number(111), until=time.time() + 60)
    guard.observe(scene.number(109), status="WARMING", health="WOBBLY")
    browser.colours(scheme)
    page = serve(tokens=["good-token"]).load()
    browser.until(lambda: page.state() == "Token needed")
    assert findings(browser) == []
    press(page, "good-token", Keys.ENTER)
    page.live(12)
    browser.one("#minutes summary").click()
    assert findings(browser) == []
    browser.size(360, 800)
    assert findings(browser) == []
    browser.one("#rows button").click()
    assert findings(browser) == []
    browser.js("document.querySelector('#dialog').close()")
    page.feed.close()
    browser.until(lambda: page.state() == "Cut off")
    assert findings(browser) == []


def test_axe_would_find_what_is_wrong(page: Open) -> None:
    page.browser.js(
        "document.querySelector('#by-health').parentElement.replaceWith(document.querySelector('#by-health'))"
    )
    page.browser.js("document.querySelector('#lines-title').style.color = 'rgb(200, 200, 200)'")
    assert {found.partition(":")[0] for found in findings(page.browser)} >= {"select-name", "color-contrast"}


def test_dark_and_light_follow_the_system(page: Open) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page.browser.colours(scheme)
        script = "const s = getComputedStyle(document.documentElement); return [s.backgroundColor, s.color]"
        seen[scheme] = [sum(map(int, colour[4:-1].split(","))) for colour in page.browser.js(script)]
    assert seen["light"][0] > 650 > 150 > seen["light"][1]
    assert seen["dark"][0] < 150 < 600 < seen["dark"][1]


@pytest.mark.parametrize("width", [1360, 360])
def test_the_table_is_a_table_to_a_screen_reader(page: Open, width: int) -> None:
    page.browser.size(width, 800)
    nodes = page.browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert ("table", "Lines, worst first") in found
    for head in ("Line", "Status", "Health", "Pace", "Daily volume", "New conversations", "Next send", "Action"):
        assert ("columnheader", head) in found
    assert [name for role, name in found if role == "rowheader"] == [LINE, OTHER, THIRD]
    assert ("button", f"Pause {LINE}") in found
    for role, name in (("searchbox", "Find"), ("combobox", "Status"), ("combobox", "Health")):
        assert (role, name) in found
    assert {role for role, _ in found} >= {"banner", "main", "search", "status"}
    assert [role for role, name in found if role in ("image", "img") and name.startswith("Decisions per minute")]


@pytest.mark.parametrize("width", [320, 768, 1024])
def test_nothing_is_wider_than_the_window(page: Open, width: int) -> None:
    page.browser.size(width, 700)
    assert page.browser.js("return document.documentElement.scrollWidth") <= width
    button = page.browser.one("#rows button").rect
    assert button["x"] + button["width"] <= width


def test_it_loads_nothing_from_elsewhere(page: Open) -> None:
    names = page.browser.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert names
    assert all(name.startswith(page.url) for name in names)
    assert page.browser.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective));"
        "const s = document.createElement('script'); s.append('window.hacked = 1'); document.body.append(s);"
        "setTimeout(() => done('none'), 2000)"
    ).startswith(("script-src", "require-trusted"))
    assert page.browser.js("return window.hacked") is None
    page.browser.driver.get_log("browser")  # the violation above
