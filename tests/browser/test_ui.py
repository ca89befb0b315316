"""The user interface, driven as a person does: Debian's Chromium on a real stack."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from quantum_core.contracts.tables import RISK_PROPOSAL
from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.servers import free_port
from tests.stack.test_up import all_materialized, stack
from tests.stack.test_up import page as page_of
from tests.waiting import wait_for
from tests.world import materialized

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [  # it looks for updates and Google's hosts otherwise, and as root there is no sandbox
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
ANSWER_MS = 60_000  # of the page; CI's machine has two cores for the whole stack and the browser
PROOF_SEC = 240  # the pack runs every 60 s, and takes its time on that machine
FORGE_EVERY_SEC = 0.2
RESULT = re.compile("succeeded|failed|in progress|not evaluated|skipped", re.IGNORECASE)
CYCLE_SEC = 10


@dataclass(frozen=True)
class Desk:
    """A stack and a browser in front of it."""

    home: Path
    port: int
    page: Page

    def open(self, path: str) -> None:
        """Go to a page of the user interface."""
        self.page.goto(f"http://127.0.0.1:{self.port}{path}", wait_until="domcontentloaded")

    def find(self, asset: str) -> None:
        """Open an asset the way a newcomer does: from the first page, through the catalog."""
        self.open("/")
        self.page.get_by_role("link", name="Catalog").click()
        self.page.get_by_role("link").get_by_title(asset, exact=True).click()

    def materialize(self, symbol: str) -> None:
        """Materialize one symbol of the asset that is open, and wait on the run's own page until it has succeeded."""
        self.page.get_by_role("button", name="Materialize").first.click()
        self.page.get_by_text("Select a partition or create one").click()
        self.page.get_by_title(symbol, exact=True).last.click()
        self.page.get_by_text("Launch runs to materialize").click()  # anywhere else closes the list
        self.page.get_by_role("button", name="Launch 1 run").click()
        self.follow_message()
        expect(self.page.get_by_text("Success", exact=True).first).to_be_visible()

    def follow_message(self) -> None:
        """Follow the message that something was launched; on a busy machine it goes before it has stopped moving, which a click awaits."""
        self.page.get_by_text("View", exact=True).evaluate("link => link.click()")

    def open_chart(self, symbol: str) -> None:
        """Open the picture in the metadata of one symbol."""
        self.open(f"/assets/symbol_chart?view=partitions&partition={symbol}")
        self.page.get_by_text("[Show Markdown]").first.click()

    def result_of(self, check: str) -> str:
        """Open a check of the risk proposal, and read what the list of checks says of it."""
        self.open(f"/assets/risk_proposal?view=checks&checkDetail={check}")
        row = self.page.get_by_title(check, exact=True).first.locator("..")
        expect(row).to_contain_text(RESULT)
        return RESULT.search(row.inner_text())[0].lower()

    def wait_for_result(self, check: str, result: str) -> None:
        """Look again and again until a check of the risk proposal has this result."""
        wait_for(f"{check} to have {result}", lambda: self.result_of(check) == result, PROOF_SEC)


@contextmanager
def desk(home: Path, **options: Any) -> Iterator[Desk]:
    """Start a stack with example data and a browser, and leave nothing of them behind."""
    port = free_port()
    with stack(home, port), sync_playwright() as playwright:
        wait_for("all assets of three symbols", lambda: all_materialized(home))
        wait_for("the page", lambda: bool(page_of(port)))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(**{"viewport": {"width": 1600, "height": 1400}, **options})
        page.set_default_timeout(ANSWER_MS)
        expect.set_options(timeout=ANSWER_MS)
        yield Desk(home, port, page)
        browser.close()


@contextmanager
def forged_target(home: Path, symbol: str) -> Iterator[None]:
    """Publish a target nobody computed, as often as the loop replaces it, with a digest that fits it."""
    store = RedisStore(load_settings(redis_url=(home / "q" / "redis.url").read_text().strip()))
    key, done = store.keys.of(RISK_PROPOSAL.key, symbol), threading.Event()

    def forge() -> None:
        while not done.wait(FORGE_EVERY_SEC):
            texts = {name.decode(): value.decode() for name, value in store.client.hgetall(key).items()}
            if texts:
                texts["proposed_tp"] = str(round(float(texts["position_current_price"]) * 1.07, 4))
                store.client.hset(key, mapping={"proposed_tp": texts["proposed_tp"], "digest": RISK_PROPOSAL.digest(texts)})

    forger = threading.Thread(target=forge)
    forger.start()
    try:
        yield
    finally:
        done.set()
        forger.join()
        store.client.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One stack for all tests: each start takes half a minute."""
    with desk(tmp_path_factory.mktemp("ui")) as running:
        yield running


def test_one_symbol_is_materialized_from_the_catalog(front: Desk) -> None:
    """The first thing a person tries; the dialog offers a backfill of everything just as readily."""
    with dg.DagsterInstance.from_config(str(front.home / "q")) as instance:
        front.find("risk_proposal")
        front.materialize("BTCUSDT")
        run = instance.get_run_by_id(front.page.url.rpartition("/")[2].partition("?")[0])
        assert run.tags["dagster/partition"] == "BTCUSDT"
        assert run.asset_selection == {dg.AssetKey("risk_proposal")}


def test_the_chart_of_one_symbol_is_seen(front: Desk) -> None:
    """The page drops images it does not trust; only a browser can tell that this one is shown."""
    front.find("symbol_chart")
    front.materialize("BTCUSDT")
    front.open_chart("BTCUSDT")
    picture = front.page.get_by_alt_text("BTCUSDT", exact=True)
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
    with dg.DagsterInstance.from_config(str(front.home / "q")) as instance:
        assert materialized(instance, "symbol_chart") == {"BTCUSDT"}


def test_a_check_turns_red_when_a_number_is_forged_and_green_with_the_next_publication(front: Desk) -> None:
    """A person who opens the page must see which proof fails, and for which symbol, whenever that is."""
    front.wait_for_result("recomputed", "succeeded")
    with forged_target(front.home, "BTCUSDT"):
        front.wait_for_result("recomputed", "failed")
        expect(
            front.page.get_by_role("cell", name=re.compile("^proposed_tp is"))
        ).to_be_visible()  # the status banner may say it, too
        expect(front.page.get_by_text("BTCUSDT", exact=True).last).to_be_visible()
        front.page.wait_for_timeout(2 * CYCLE_SEC * 1000)
        assert front.result_of("recomputed") in ("failed", "in progress")  # and not forgotten at the next materialization
        assert front.result_of("distances") != "failed"
    front.wait_for_result("recomputed", "succeeded")
