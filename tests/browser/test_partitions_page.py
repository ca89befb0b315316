"""What a person sees of a dead symbol in Dagster's own pages, and the checks executed by a click."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from quantum_core.settings import load_settings
from resources.store.redis_store import RedisStore
from tests.browser.test_ui import Desk, desk
from tests.checks.test_execute_all import CHECKED
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DEAD, ALIVE = "BTCUSDT", "ETHUSDT"
SHOWN_WITHIN_SEC = 60  # a market state is evaluated every minute while no candle comes
PICTURES = os.environ.get("PICTURES")  # folder for what is seen, for who wants to look


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory):
    """One stack for all tests: each start takes half a minute."""
    with desk(tmp_path_factory.mktemp("truth")) as running:
        yield running


def picture(front: Desk, name: str) -> None:
    if PICTURES:
        front.page.wait_for_timeout(2000)
        front.page.screenshot(path=Path(PICTURES) / f"{name}.png")


@pytest.mark.parametrize("asset", CHECKED)
def test_execute_all_runs_every_check_of_an_asset_without_an_error(front: Desk, asset: str) -> None:
    """Thirteen proofs once held, and then the fourteenth raised."""
    front.open(f"/assets/{asset}?view=checks")
    picture(front, f"checks_{asset}")
    front.page.get_by_role("button", name=re.compile("Execute all")).click()
    front.follow_message()
    expect(front.page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(front, f"execute_all_{asset}")
    front.open(f"/assets/{asset}?view=checks")
    front.page.wait_for_timeout(1500)
    assert front.page.get_by_text("Execution failed").count() == 0


def test_a_dead_symbol_is_a_failed_partition_an_old_asset_and_an_unusable_input(front: Desk) -> None:
    """Every page was green once while the candles of a symbol were away for minutes."""
    store = RedisStore(load_settings(redis_url=(front.home / "q" / "redis.url").read_text().strip()))

    def is_failed() -> bool:
        store.client.delete(store.keys.of("candles_history", DEAD))  # the example feed adds one every few seconds
        front.open("/assets/market_state?view=partitions")
        front.page.wait_for_timeout(1500)
        return front.page.get_by_text("Failed (1)").count() > 0

    wait_for(f"{DEAD} to be failed", is_failed, SHOWN_WITHIN_SEC)
    picture(front, "partitions")
    front.open(f"/assets/market_state?view=partitions&partition={DEAD}")
    picture(front, "partition")
    failed = front.page.locator("a", has_text=re.compile("^[0-9a-f]{8}$")).first  # of the line that says which run failed
    expect(failed).to_be_visible()
    record = failed.get_attribute("href")
    front.open("/assets/market_state?view=overview")
    picture(front, "overview")
    front.open("/assets/candles?view=checks&checkDetail=usable")
    picture(front, "input")
    front.open("/assets/market_state?view=lineage&lineageScope=upstream")
    front.page.wait_for_timeout(3000)
    picture(front, "lineage")
    front.open(f"/runs/{record.rpartition('/')[2]}")
    expect(front.page.get_by_text(re.compile(f"{DEAD}.*candles")).first).to_be_visible()
    picture(front, "record")
