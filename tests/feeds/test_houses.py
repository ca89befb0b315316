"""Other exchanges than the one most people have: their answers, in the shapes of their documentation, become the same candles."""

import json
import subprocess
from typing import Any

import pytest

from tests.feeds.houses import COUNT, FIRST_MS, HOUSES, MINUTE_MS, prices
from tests.feeds.test_feed import PYTHON, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    if not PYTHON.exists():
        pytest.fail("the feed's environment is missing: make feed")
    done = subprocess.run(
        [str(PYTHON), "-m", "tests.feeds.houses"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.name)
def test_candles_of_any_house_are_the_same_candles(answers, house) -> None:
    """Another order of columns, of rows, another clock, and more rows than were asked for."""
    found = answers[house.name]
    assert found["rejected"] == {}
    assert len(found["candles"]) >= 50
    for at, candle in found["candles"].items():
        assert FIRST_MS <= int(at) < FIRST_MS + COUNT * MINUTE_MS
        assert [f"{number:.2f}" for number in candle] == list(prices(int(at)))


def test_no_house_is_asked_for_more_candles_than_it_gives_at_once(answers) -> None:
    """What it cuts off looked like gaps."""
    pages = {name: found["page"] for name, found in answers.items()}
    assert all(0 < page <= 500 for page in pages.values())
    assert (pages["okx"], pages["coinbase"]) == (300, 300)


def test_a_house_without_a_clock_is_named_and_dated_by_its_answers(answers) -> None:
    """Its candles failed four times with a TypeError that named nothing."""
    without = {name: found for name, found in answers.items() if found["now_ms"]}
    assert "bitget" not in without
    assert without
    for found in without.values():
        assert found["lacks"] == ["a clock of its own: closed is what the Date of its answers says"]
