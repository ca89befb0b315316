"""The desk's pages and the status banner, as a person sees them: Chromium on the product's web server, 566 symbols."""

import json
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from quantum_core.contracts.tables import POSITION
from quantum_core.settings import load_settings
from resources.store.failures import record_failures
from resources.store.redis_store import RedisStore
from tests.browser.test_ui import ARGUMENTS, CHROMIUM
from tests.security.test_webserver_doors import PATIENT, webserver
from tests.world import real_closes, run_cycle, write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SAMPLES = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
COUNT, ONE_LINE_PX = 566, 24


@pytest.fixture
def desk(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RedisStore, Page, str]]:
    """All symbols well, a web server for viewers, and a browser."""
    names = [*SAMPLES, *(f"C{number:03d}USDT" for number in range(COUNT - len(SAMPLES)))]
    monkeypatch.setattr("tests.world.real_closes", sample_closes)
    store = RedisStore(load_settings(redis_url=valkey_url, quantum_home=tmp_path, symbols=",".join(names)))
    store.client.flushdb()
    write_world(store)
    with dg.DagsterInstance.ephemeral() as instance:
        run_cycle(store, instance)
    for key in store.client.scan_iter(count=1000):
        store.client.persist(key)
    store.client.set(store.keys.of("alerts_active"), "[]")
    settings = {**PATIENT, "REDIS_URL": valkey_url, "SYMBOLS": ",".join(names)}
    with webserver(tmp_path, "--read-only", **settings) as port, sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        expect.set_options(timeout=30_000)
        renew_marks(store)
        yield store, page, f"http://127.0.0.1:{port}"
        browser.close()
    store.client.close()


def renew_marks(store: RedisStore) -> None:
    """Date every price by now: on a busy machine the first cycle of 566 symbols takes longer than a price stays young."""
    for symbol in store.settings.symbols:
        key = store.keys.of(POSITION.key, symbol)
        texts = {name.decode(): value.decode() for name, value in store.client.hgetall(key).items()}
        texts["position_ts_epoch"] = str(int(time.time()))
        store.client.hset(key, mapping={**texts, "digest": POSITION.digest(texts)})


@lru_cache
def sample_closes(symbol: str, count: int = 300) -> list[float]:
    """Give recorded closes for any symbol."""
    return real_closes(symbol if symbol in SAMPLES else "SOLUSDT", count)


def test_the_desk_of_566_symbols_is_sorted_and_says_what_is_wrong(desk: tuple[RedisStore, Page, str]) -> None:
    """One stack and one browser for all of it: each start takes half a minute."""
    store, page, root = desk
    page.goto(f"{root}/desk")
    banner = page.frame_locator("iframe[title='status banner']").locator("body")
    frame = page.locator("iframe")

    # All is well: one line, green.
    expect(banner).to_contain_text(f"armed · {COUNT} of {COUNT} symbols fresh · no alert")
    assert frame.bounding_box()["height"] == ONE_LINE_PX
    assert banner.evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(29, 92, 52)"

    # How long it takes, with everything read anew each time: a figure, not a verdict.
    loads = []
    for _ in range(5):
        time.sleep(4.5)  # beyond what is kept
        page.goto(f"{root}/desk", wait_until="load")
        loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
    print(f"overview of {COUNT} symbols loaded in {sorted(loads)} s")  # noqa: T201 - the figure is the result
    expect(page.locator("#rows tr")).to_have_count(COUNT)

    # Only what is in view is laid out, and on a small screen every column is in view.
    assert page.evaluate("getComputedStyle(document.querySelector('#rows tr')).contentVisibility") == "auto"
    page.set_viewport_size({"width": 1280, "height": 900})
    assert page.evaluate("(table => table.scrollWidth <= table.clientWidth)(document.querySelector('.scroll'))")
    assert page.evaluate(
        "[...document.querySelectorAll('#rows td')].slice(0, 160).every(cell => cell.scrollWidth <= cell.offsetWidth)"
    )

    # Sorting by a click, both ways; filtering.
    prices = "[...document.querySelectorAll('#rows tr')].map(row => Number(row.cells[5].textContent.replaceAll(',', '')))"
    page.get_by_role("button", name="Price").click()
    shown = page.evaluate(prices)
    assert shown == sorted(shown, reverse=True)
    page.get_by_role("button", name="Price").click()
    assert page.evaluate(prices) == sorted(shown)
    page.locator("#filter").fill("btc")
    expect(page.locator("#rows tr:visible")).to_have_count(1)

    # What is wrong: the unhealthy symbol first, the banner red and as high as it needs to be; its parts are links.
    record_failures(store, "market_state", store.settings.symbols, {"C300USDT": "candles_stale: 430 s > 420 s"}, "c")
    alerts = [{"title": f"alert {number}: {'a long title ' * 9}", "severity": "page"} for number in range(5)]
    store.client.set(store.keys.of("alerts_active"), json.dumps(alerts))
    page.goto(f"{root}/assets")
    expect(banner).to_contain_text(f"{COUNT - 1} of {COUNT} symbols fresh, not C300USDT", timeout=20_000)
    expect(banner).to_contain_text("and 2 more")
    assert frame.bounding_box()["height"] > ONE_LINE_PX
    assert page.locator("#root").bounding_box()["y"] >= frame.bounding_box()["height"]  # it hides nothing
    banner.get_by_role("link", name="5 alerts").click()
    page.wait_for_url(f"{root}/desk#alerts")
    expect(page.locator("#alerts li")).to_have_count(5)
    expect(page.locator("#rows tr").first).to_contain_text("market state: no new candles (7 min 10 s old, limit 7 min)")

    # The page of a symbol, reached from its row.
    page.get_by_role("link", name="C300USDT", exact=True).click()
    expect(page.get_by_text("market state: no new candles (7 min 10 s old, limit 7 min)").first).to_be_visible()
    expect(page.locator("svg.chart polyline.price")).to_be_visible()
    page.set_viewport_size({"width": 800, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
